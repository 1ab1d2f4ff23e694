"""The categories of instances: a YAML mapping from names or patterns, and which of its entries counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from effvis.errors import UserError

Instance = int | str
"""An instance: a number in masks of all instances, or the name of a folder."""

Wanted = str | Mapping[Instance, str | None]
"""The category of all instances of a sequence, or of each."""


def read_categories(file: Path) -> dict[str, Wanted | None]:
    """The mapping from sequence names or patterns to categories.

    Raises:
        UserError: the file is missing or not YAML, or an entry has the wrong form.
    """
    rules = read_rules(file, "a mapping", "car-*: sedan")
    for pattern, wanted in rules.items():
        if not isinstance(pattern, str):
            raise UserError(file, str(pattern), "is not a name or a pattern", "Put it between quotes")
        if isinstance(wanted, dict):
            for instance, name in wanted.items():
                if type(instance) not in (int, str):
                    raise UserError(file, f"{pattern}.{instance}", "is neither a number nor the name of an instance",
                                    "Write the value that its pixels have in the mask, or the name of its folder")
                check_category(file, f"{pattern}.{instance}", name)
        else:
            check_category(file, pattern, wanted)
    return rules


def read_rules(file: Path, form: str, example: str) -> dict[Any, Any]:
    """The content of the file of ``--categories``, whose entries are still to be checked.

    Args:
        form, example: what it has to be, and a line of it.

    Raises:
        UserError: it is missing, not YAML, not a mapping or empty.
    """
    try:
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", "Give --categories FILE") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(file, "(file)", f"is not YAML: {error}", "Correct it") from None
    if not isinstance(rules, dict) or not rules:
        raise UserError(file, "(top)", f"is not {form}", f"Write lines such as  {example}")
    return rules


def check_category(file: Path, key: str, name: object) -> None:
    """
    Raises:
        UserError: it is neither a name nor None.
    """
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise UserError(file, key, f"{name!r} is not a category", "Write a name, or null to leave it out")


def best_rule(rules: Mapping[str, Wanted | None], sequence: str) -> str | None:
    """The entry that counts for a sequence: its name, or else the matching pattern with the most literal characters."""
    if sequence in rules:
        return sequence
    matching = [pattern for pattern in rules if fnmatchcase(sequence, pattern)]
    return max(matching, key=lambda pattern: len(re.sub(r"\[[^]]*\]|[*?]", "", pattern)), default=None)


def category_names(wanted: Wanted) -> set[str]:
    return {wanted} if isinstance(wanted, str) else {name for name in wanted.values() if name is not None}
