"""Makes tables from cells: published, measured and server's numbers side by side, never mixed, all in percent."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING

from effvis.evaluation.any_category import ANY_CATEGORY
from pipeline.grid.before_clips import why_not
from pipeline.runs import cells
from pipeline.tables import server_scores, speeds
from pipeline.tables.certainty import estimate, resampled_percent
from pipeline.tables.convergence import convergence
from pipeline.tables.form import CurvePoint, Measured, RowSummary, TableSummary

if TYPE_CHECKING:
    import numpy as np

    from pipeline.grid.table_file import Row, Table
    from pipeline.settings.params import Params
    from pipeline.tables.form import Speed


FIRST = "AP"
OTHERS = ("AP50", "AP75", "AR1", "AR10")  # of the 12 numbers, those that the paper's tables show
SERVER_CAPTION = "Scored by the competition's server, on ground truth that only it has:"


def same_frames(table: TableSummary) -> tuple[str, ...]:
    """The column for AP on the frames that all rows have, if a row measures it."""
    return (cells.SAME_FRAMES,) if any(cells.SAME_FRAMES in row.measured for row in table.rows) else ()


def summary(params: Params, table: Table) -> TableSummary:
    """The table's machine-readable form, from the present cells."""
    evaluations = [spec for row in table.rows for spec in row.evaluations]
    datasets, splits = [spec.train.dataset_name for spec in evaluations], [spec.split for spec in evaluations]
    conditions, speed = speeds.of_table(params, table)
    rows = tuple(_row(params, row, speed.get(row.name)) for row in table.rows)
    return TableSummary(
        table=table.name,
        title=table.title,
        caption=table.caption,
        dataset=", ".join(dict.fromkeys(datasets)) or params.dataset_name,
        split=", ".join(dict.fromkeys(splits)) or "val",
        profile=params.profile,
        convergence=convergence(table.convergence, rows) if table.convergence else None,
        speed_conditions=conditions,
        rows=rows,
    )


def _row(params: Params, row: Row, speed: Speed | None) -> RowSummary:
    found = [cell for spec in row.evaluations if (cell := cells.find_cell(params, spec)) is not None]
    server = [scores for spec in row.evaluations if (scores := server_scores.find_scores(params, spec.key)) is not None]
    return RowSummary(
        name=row.name,
        columns=row.columns,
        set=row.set,
        published=row.published,
        measured=_measured([cell.metrics for cell in found], resampled_percent(found)),
        server=_measured(server) if server else None,
        runs=[cell.run for cell in found],
        evaluations=[cell.evaluation for cell in found],
        not_run=row.not_run,
        curve=_curve(params, row) if row.curve else None,
        speed=speed,
        before_clips=_before_clips(params, row),
        no_start=why_not(row.evaluations[0]) if found else "",
    )


def _before_clips(params: Params, row: Row) -> Measured | None:
    """Of each seed's start the best way of linking, once all of them are measured."""
    found = [[cells.find_cell(params, spec) for spec in specs] for specs in row.starts if specs]
    whole = [{ANY_CATEGORY: max(cell.metrics[ANY_CATEGORY] for cell in ways)} for ways in found if None not in ways]
    return _measured(whole).get(ANY_CATEGORY)


def _curve(params: Params, row: Row) -> list[CurvePoint]:
    by_seen = defaultdict(list)
    for spec in (*row.curve, *row.evaluations):
        if (cell := cells.find_cell(params, spec)) is not None:
            by_seen[cell.videos_seen].append(cell)
    measured = {seen: _measured([cell.metrics for cell in found], resampled_percent(found)).get(FIRST)
                for seen, found in sorted(by_seen.items())}
    return [CurvePoint(videos_seen=seen, **dict(ap)) for seen, ap in measured.items() if ap is not None]


def _measured(metrics: list[dict[str, float]], resampled: np.ndarray | None = None) -> dict[str, Measured]:
    """Each metric in percent over the seeds; AP with its error, for which ``resampled`` is AP on resamples of the videos."""
    result = {}
    for name in dict.fromkeys(name for one in metrics for name in one):
        values = [100 * one[name] for one in metrics if one.get(name, -1) >= 0]  # -1: undefined on this data set
        if values:
            deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
            found = estimate(values, resampled) if name == FIRST else None
            error = {"error": round(found.standard_error, 4), "covers": found.covers} if found and found.covers else {}
            result[name] = Measured(mean=round(statistics.mean(values), 4), std=deviation, n=len(values), **error)
    return result
