"""The report as one self-contained HTML file: styles, drawings and pictures are inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from pipeline.reporting.charts import learning_curves
from pipeline.reporting.pictures import data_uri
from pipeline.reporting.templates import render
from pipeline.tables.claims import HOW_TO_READ
from pipeline.tables.form import videos
from pipeline.tables.markdown import (
    SPEED_COLUMN,
    STARTS_COLUMN,
    certainty_note,
    convergence_text,
    error_text,
    given_note,
    speed_note,
    speed_text,
    starts_note,
    starts_text,
)
from pipeline.tables.summary import FIRST, OTHERS, SERVER_CAPTION, same_frames

if TYPE_CHECKING:
    from pipeline.reporting.figures import Figure
    from pipeline.runs.cells import Cell
    from pipeline.settings.params import Params
    from pipeline.tables.form import CurvePoint, Measured, RowSummary, TableSummary

MINUS = "−"


@dataclass(frozen=True)
class Contents:
    """Everything that the page shows.

    Attributes:
        ledger: as results/claims.json has it, or None.
        cells: the cells of the tables' evaluations, by key.
        minimum_score: the least score of tracklets that figures show.
        how_to_read: how to read the tables, with ``*emphasis*``.
        command: the command that makes the numbers.
        split: the split that figures show videos of.
    """

    tables: Sequence[TableSummary]
    ledger: Mapping[str, Any] | None
    cells: Mapping[str, Cell]
    figures: Sequence[Figure]
    minimum_score: float
    how_to_read: str
    command: str
    split: str = "val"


def page(params: Params, contents: Contents) -> str:
    """The page's HTML; it is the same for the same contents."""
    curves = [table for table in contents.tables if any(row.curve for row in table.rows)]
    return render(
        "report.html",
        filters={"emphasised": _emphasised, "number": _number, "signed": _signed, "measured": _measured, "speed": speed_text,
                 "videos": videos},
        params=params, contents=contents, metrics=(FIRST, *OTHERS), speed_column=SPEED_COLUMN, starts_column=STARTS_COLUMN,
        server_caption=SERVER_CAPTION, commits=_commits(contents),
        tables=[_table(contents, table) for table in contents.tables], ledger=contents.ledger and _ledger(contents.ledger),
        curves=[(table, data_uri("image/svg+xml", learning_curves(table)), convergence_text(table)) for table in curves])


def _table(contents: Contents, table: TableSummary) -> dict[str, Any]:
    """The table with the texts that stand in place of missing numbers, and with the runs that its numbers come from."""
    rows = [{**dict(row), "state": _state(row), "given": row.given, "starts": starts_text(row)} for row in table.rows]
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        if row.not_run:
            reasons.setdefault(row.not_run, []).append(row.name)
    runs = [(row.name, run, evaluation, contents.cells.get(evaluation))
            for row in table.rows for run, evaluation in zip(row.runs, row.evaluations, strict=True)]
    return {**dict(table), "measured_on": table.measured_on, "rows": rows, "columns": list(table.rows[0].columns),
            "same": same_frames(table), "reasons": reasons, "given_note": given_note(table),
            "certainty_note": certainty_note(table), "starts_note": starts_note(table), "speed_note": speed_note(table),
            "behind": runs}


def _state(row: RowSummary) -> str:
    """Why a row has no numbers of ours; empty if it has."""
    if row.not_run:
        return "not run"
    if row.measured:
        return ""
    return "scored by the server alone" if row.server is not None else "not measured yet"


def _ledger(ledger: Mapping[str, Any]) -> dict[str, Any]:
    facts = {**ledger, "confidence": f"{ledger['confidence']:.0%}"}
    contradicted = [claim for claim in ledger["claims"] if claim["verdict"] == "contradicted"]
    return {**facts, "how_to_read": HOW_TO_READ.format(**facts), "contradicted": contradicted}


def _commits(contents: Contents) -> list[str]:
    """The states of the source that the tables' runs were trained in, the most frequent first."""
    states = Counter()
    for table in contents.tables:
        for row in (row for row in table.rows if not row.given):
            states.update(_source(contents.cells.get(key)) for key in row.evaluations)
    return [f"{state}: {count} evaluation{'s' * (count > 1)}" for state, count in sorted(states.items(), key=_by_count)]


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _source(cell: Cell | None) -> str:
    git = cell.made.git if cell is not None and cell.made is not None and cell.made.git else {}
    if "commit" not in git:
        return "not recorded"
    return git["commit"][:10] + (" with uncommitted changes" if git.get("dirty") else "")


def _emphasised(text: str) -> Markup:
    """The text as HTML, with ``*word*`` emphasised."""
    plain, *rest = str(escape(text)).split("*")
    tags = ("<em>", "</em>")
    return Markup(plain + "".join(tags[number % 2] + part for number, part in enumerate(rest)))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}".replace("-", MINUS)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}".replace("-", MINUS)


def _measured(value: Measured | CurvePoint | None) -> str:
    """The mean with its standard error, as far as it is known."""
    if value is None:
        return "–"
    return _number(value.mean) + error_text(value)
