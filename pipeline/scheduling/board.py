"""Shows a running pool: as a table that is redrawn on a terminal, or as one line per event elsewhere (logs, CI)."""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from pipeline.system.cli import seconds_text

if TYPE_CHECKING:

    from pipeline.scheduling.pool import Status

_LINE_SECONDS = 30.0  # how often a running job prints its progress when nothing is redrawn
# Jobs are shown in this order, so that a small terminal cuts off those that wait.
_STYLES = {"running": "bold", "failed": "red", "skipped": "yellow", "done": "green", "waiting": "dim"}


class Board:
    """``with Board() as board: run_pool(…, on_change=board.update)``. Writes to stderr."""

    def __init__(self):
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._latest: list[Status] = []
        self._told: dict[str, tuple[str, float]] = {}  # key: the state last told, and when

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception) -> None:
        if self._live:
            self._live.update(_table(self._latest))  # the whole table stays on the terminal
            self._live.stop()

    def update(self, statuses: list[Status]) -> None:
        self._latest = statuses
        if self._live:
            # Jobs that would be cut off anyway take milliseconds each to lay out.
            self._live.update(_table(statuses, most=self._live.console.height), refresh=True)
        else:
            self._tell_news(statuses)

    def _tell_news(self, statuses: list[Status]) -> None:
        now = time.monotonic()
        ended = sum(status.state in ("done", "failed", "skipped") for status in statuses)
        for status in statuses:
            state, told_at = self._told.get(status.job.key, ("waiting", now))
            due = status.state == "running" and now - told_at >= _LINE_SECONDS
            if status.state != state or due:
                self._told[status.job.key] = (status.state, now)
                print(f"[{ended}/{len(statuses)}] {_line(status)}", file=sys.stderr, flush=True)


def _line(status: Status) -> str:
    parts = [f"{status.job.kind} {status.job.label} ({status.job.key})", status.state]
    if status.state == "running":
        parts += [text for text in _columns(status) if text]
    elif status.state in ("done", "failed"):
        parts.append(seconds_text(status.seconds))
    if status.message:
        parts.append(status.message)
    return "  ".join(parts)


def _table(statuses: list[Status], most: int | None = None) -> Group:
    """The table of the jobs, or of the ``most`` first in order of display; below it each failure has a line."""
    counts = Counter(status.state for status in statuses)
    caption = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state])
    table = Table("", "run", "key", "state", "device", "step", "loss", "left", caption=caption)
    failures = []
    order = {state: place for place, state in enumerate(_STYLES)}
    for status in sorted(statuses, key=lambda status: order[status.state])[:most]:
        seconds = seconds_text(status.seconds) if status.state in ("done", "failed") else ""
        device, step, loss, left = _columns(status)
        state = f"[{_STYLES[status.state]}]{status.state}[/]"
        row = (status.job.kind, status.job.label, status.job.key)
        table.add_row(*map(escape, row), state, escape(device), step, loss, left or seconds)
        if status.state == "failed":
            failures.append(f"[red]{escape(f'{status.job.label}: {status.message}')}[/]")
    return Group(table, *failures)


def _columns(status: Status) -> tuple[str, str, str, str]:
    """Device, step, loss and time left of a running job; empty where its latest report does not tell."""
    progress = status.progress if status.state == "running" else {}
    step, total, eta = progress.get("step"), progress.get("total"), progress.get("eta")
    if eta is None and step and total:
        eta = (time.monotonic() - status.started) * (total - step) / step
    return (
        progress.get("device", ""),
        f"{step}/{total}" if total else "",
        f"loss {progress['loss']:.3f}" if progress.get("loss") is not None else "",
        f"{seconds_text(eta)} left" if eta is not None else "",
    )
