"""A table as markdown."""

from __future__ import annotations

from pipeline.tables.convergence import text
from pipeline.tables.form import Measured, Speed, TableSummary
from pipeline.tables.summary import FIRST, OTHERS, SERVER_CAPTION, same_frames

SPEED_COLUMN = "FPS measured, model / end to end"


def markdown(table: TableSummary) -> str:
    """The table for people, with an explanation of the two kinds of numbers above it."""
    extra = list(table.rows[0].columns)
    same = same_frames(table)
    numbers = ["AP published", "AP measured", "Δ AP", *(f"{name} published / measured" for name in OTHERS), *same, "seeds"]
    numbers += [SPEED_COLUMN] if table.speed_conditions else []
    lines = [_line(["", *map(_escape, extra), *numbers]), _line([":--"] * (1 + len(extra)) + ["--:"] * len(numbers))]
    for row in table.rows:
        published, measured = row.published, row.measured
        first = [_published(published, FIRST), row.not_run and "not run" or _measured_text(measured, FIRST)]
        others = [f"{_published(published, name)} / {_measured_text(measured, name)}" for name in OTHERS]
        others += [_measured_text(measured, name) for name in same]
        seeds = ("–" if row.given else str(len(row.evaluations))) if measured else ""
        others += [seeds, *([speed_text(row.speed)] if table.speed_conditions else [])]
        texts = [_escape(text) for text in (row.name, *row.columns.values())]
        lines.append(_line([*texts, *first, _difference(published, measured), *others]))
    parts = [f"## {table.title}", table.caption, split_note(table), "\n".join(lines), *_not_run_notes(table), given_note(table),
             speed_note(table), convergence_text(table), _server_markdown(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def split_note(table: TableSummary) -> str:
    """A sentence on the videos that the numbers are of, or an empty text where these are validation videos."""
    return "" if table.split == "val" else f"Measured on {table.measured_on}."


def convergence_text(table: TableSummary) -> str:
    """A paragraph on how the rows converge, or an empty text."""
    return text(table.convergence) if table.convergence else ""


def given_note(table: TableSummary) -> str:
    """A sentence on the rows whose weights were given, or an empty text."""
    names = [row.name for row in table.rows if row.given and row.not_run is None]
    return f"Weights that were not trained here, evaluated once: {'; '.join(names)}." if names else ""


def speed_text(speed: Speed | None) -> str:
    """Both frames per second of a row."""
    if speed is None:
        return "–"
    model, end_to_end = (f"{value:.{1 if value >= 10 else 2}f}" for value in (speed.model, speed.end_to_end))
    return f"{model} / {end_to_end}{' (stale)' * speed.stale}"


def speed_note(table: TableSummary) -> str:
    """Sentences on what the measured frames per second are, or an empty text."""
    of = table.speed_conditions
    if of is None:
        return ""
    height, width = of.video_size
    note = ("FPS measured: of the network alone / from JPEG files to tracklets with run-length masks. "
            f"{of.device}, {of.threads} threads, {of.precision}, {of.network} networks with random weights and {of.classes} "
            f"classes; {of.frames} frames of {height}x{width} with about {of.objects} objects each; medians of {of.rounds} "
            "rounds, the rows in turns (docs/speed.md).")
    stale = [row.name for row in table.rows if row.speed is not None and row.speed.stale]
    return note + (f" Stale, measured before the network or its code changed: {'; '.join(stale)}." if stale else "")


def _server_markdown(table: TableSummary) -> str:
    """The server's numbers as a separate table, so that none of them stands in a column of ours."""
    scored = [row for row in table.rows if row.server is not None]
    if not scored:
        return ""
    names = (FIRST, *OTHERS)
    lines = [_line(["", *(f"{name} server" for name in names), "seeds"]), _line([":--"] + ["--:"] * (1 + len(names)))]
    lines += [_line([_escape(row.name), *(_measured_text(row.server, name) for name in names), _seeds(row.server)])
              for row in scored]
    return SERVER_CAPTION + "\n\n" + "\n".join(lines)


def _seeds(measured: dict[str, Measured]) -> str:
    return str(measured[FIRST].n) if FIRST in measured else ""


def _not_run_notes(table: TableSummary) -> list[str]:
    """A sentence for each reason for which rows are not run."""
    names: dict[str, list[str]] = {}
    for row in table.rows:
        if row.not_run:
            names.setdefault(row.not_run, []).append(row.name)
    return [f"Not run ({reason}): {'; '.join(rows)}." for reason, rows in names.items()]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _published(published: dict[str, float], name: str) -> str:
    return f"{published[name]:.1f}" if name in published else "–"


def _measured_text(measured: dict[str, Measured], name: str) -> str:
    if name not in measured:
        return "–"
    mean, deviation = measured[name].mean, measured[name].std
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _difference(published: dict[str, float], measured: dict[str, Measured]) -> str:
    both = FIRST in published and FIRST in measured
    return f"{measured[FIRST].mean - published[FIRST]:+.1f}" if both else "–"
