"""What a check found, and the page that shows all findings."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from effvis.errors import UserError
from pipeline.system.masking import masked

WIDTH = 110
_TOPIC, _STATE = 11, 9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it belongs to: data, start, device, …
        text: what was found, in a sentence or two.
        remedy: what to do about it, if something is missing or would better be done before.
        missing: whether the training cannot go as planned without the remedy.
        unknown: whether it could not be found out.
    """

    topic: str
    text: str
    remedy: str | None = None
    missing: bool = False
    unknown: bool = False

    @property
    def state(self) -> str:
        if self.missing:
            return "MISSING"
        if self.unknown:
            return "unknown"
        return "ok" if self.remedy is None else "note"


def looked_at(topic: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What ``look`` finds; an error of the user's in it is something that is missing."""
    try:
        return list(look())
    except UserError as error:
        return [of_error(topic, error)]


def of_error(topic: str, error: UserError) -> Finding:
    return Finding(topic, f"{error.where}: {error.key}: {error.problem}", error.remedy, missing=True)


def page(findings: Iterable[Finding]) -> str:
    """All findings as plain text, in their order; remedies stand below what they are for."""
    lines = []
    for found in findings:
        head = f"{found.topic:{_TOPIC}}{found.state:{_STATE}}"
        lines += _wrapped(found.text, head)
        if found.remedy is not None:
            lines += _wrapped(found.remedy, " " * (len(head) - 3) + "-> ")
    return masked("\n".join(lines))


def _wrapped(text: str, head: str) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=head, subsequent_indent=" " * len(head),
                         break_long_words=False, break_on_hyphens=False)
