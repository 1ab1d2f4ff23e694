"""A table as markdown."""

from __future__ import annotations

from effvis.evaluation.any_category import ANY_CATEGORY
from pipeline.tables.convergence import text
from pipeline.tables.form import Measured, RowSummary, Speed, TableSummary
from pipeline.tables.summary import FIRST, OTHERS, SERVER_CAPTION, same_frames

STARTS_COLUMN = "any category, before clips / after"
SPEED_COLUMN = "FPS measured, model / end to end"


def markdown(table: TableSummary) -> str:
    """The table for people, with an explanation of the two kinds of numbers above it."""
    extra = list(table.rows[0].columns)
    same, with_starts = same_frames(table), bool(starts_note(table))
    numbers = ["AP published", "AP measured", "Δ AP", *(f"{name} published / measured" for name in OTHERS), *same]
    numbers += [*([STARTS_COLUMN] if with_starts else []), "seeds"]
    numbers += [SPEED_COLUMN] if table.speed_conditions else []
    lines = [_line(["", *map(_escape, extra), *numbers]), _line([":--"] * (1 + len(extra)) + ["--:"] * len(numbers))]
    for row in table.rows:
        published, measured = row.published, row.measured
        first = [_published(published, FIRST), row.not_run and "not run" or _measured_text(measured, FIRST)]
        others = [f"{_published(published, name)} / {_measured_text(measured, name)}" for name in OTHERS]
        others += [_measured_text(measured, name) for name in same]
        others += [starts_text(row)] if with_starts else []
        seeds = ("–" if row.given else str(len(row.evaluations))) if measured else ""
        others += [seeds, *([speed_text(row.speed)] if table.speed_conditions else [])]
        texts = [_escape(text) for text in (row.name, *row.columns.values())]
        lines.append(_line([*texts, *first, _difference(published, measured), *others]))
    parts = [f"## {table.title}", table.caption, split_note(table), "\n".join(lines), *_not_run_notes(table),
             certainty_note(table), starts_note(table), given_note(table), speed_note(table), convergence_text(table),
             _server_markdown(table)]
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


def certainty_note(table: TableSummary) -> str:
    """A sentence on what stands behind ±, or an empty text."""
    errors = {one.covers for row in table.rows for one in row.measured.values() if one.covers}
    alone = " and ".join(sorted(errors - {"seeds and videos"}))
    if not errors:
        return ""
    return ("± is the standard error of the mean AP: of the trainings' seeds and of the split's videos together"
            + (f", or of what stands beside it alone ({alone})" if alone else "") + " (docs/claims.md).")


def starts_text(row: RowSummary) -> str:
    """AP with categories ignored of what a row starts from, and of the row."""
    before, after = row.before_clips, row.measured.get(ANY_CATEGORY)
    return "–" if before is None and after is None else f"{_plain_mean(before)} / {_plain_mean(after)}"


def starts_note(table: TableSummary) -> str:
    """Sentences on AP before and after clip training, or an empty text if no row's start is measured."""
    if not any(row.before_clips for row in table.rows):
        return ""
    names: dict[str, list[str]] = {}
    for row in table.rows:
        if row.no_start and not row.given:
            names.setdefault(row.no_start, []).append(row.name)
    without = (f" No number before clips ({reason}): {'; '.join(rows)}." for reason, rows in names.items())
    return ("Any category: AP with categories ignored, of what a row's training on clips starts from, linked in its best way, "
            "and of the row (docs/evaluation.md)." + "".join(without))


def _plain_mean(measured: Measured | None) -> str:
    return "–" if measured is None else f"{measured.mean:.1f}"


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
    return _plain_mean(measured[name]) + error_text(measured[name])


def error_text(measured: Measured) -> str:
    """± and the standard error, or an empty text; an error of the seeds or of the videos alone says so."""
    if measured.error is None:
        return ""
    return f" ± {measured.error:.1f}" + ("" if measured.covers == "seeds and videos" else f" ({measured.covers})")


def _difference(published: dict[str, float], measured: dict[str, Measured]) -> str:
    both = FIRST in published and FIRST in measured
    return f"{measured[FIRST].mean - published[FIRST]:+.1f}" if both else "–"
