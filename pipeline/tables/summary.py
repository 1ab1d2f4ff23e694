"""Makes tables from cells: published, measured and server's numbers side by side, never mixed, all in percent."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from pipeline.runs import cells
from pipeline.tables import server_scores
from pipeline.tables.convergence import convergence

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row, Table
    from pipeline.settings.params import Params


FIRST = "AP"
OTHERS = ("AP50", "AP75", "AR1", "AR10")  # of the 12 numbers, those that the paper's tables show
SERVER_CAPTION = "Scored by the competition's server, on ground truth that only it has:"


def summary(params: Params, table: Table) -> dict[str, Any]:
    """The table's machine-readable form; the same cells give the same form, so that it can be committed.

    Returns:
        ``table``, ``title``, ``caption``, ``dataset``, ``profile`` and ``rows``, each with ``name``, ``columns`` (what the
        paper's table shows before its numbers, as text), ``set``, ``published`` (metric → percent), ``measured`` (metric →
        ``mean``, ``std`` over the seeds (None for one seed) and ``n``, in percent; empty if nothing was measured),
        ``runs`` and ``evaluations`` (keys), and ``not_run`` (why, or None). A table with learning curves has ``curve`` in
        its rows: AP (as in ``measured``) by ``videos_seen``, the end of the training last. A row whose results a
        competition's server scored has the server's numbers in ``server``, as in ``measured``. A table that compares how
        two rows converge has ``convergence`` (``pipeline.tables.convergence``).
    """
    datasets = [spec.train.dataset_name for row in table.rows for spec in row.evaluations]
    rows = [_row(params, row) for row in table.rows]
    found = convergence(table.convergence, rows) if table.convergence else None
    return {
        "table": table.name,
        "title": table.title,
        "caption": table.caption,
        "dataset": ", ".join(dict.fromkeys(datasets)) or params.dataset_name,
        "profile": params.profile,
        **({"convergence": found} if found else {}),
        "rows": rows,
    }


def _row(params: Params, row: Row) -> dict[str, Any]:
    found = [cell for spec in row.evaluations if (cell := cells.find(params, spec)) is not None]
    server = [scores for spec in row.evaluations if (scores := server_scores.find(params, spec.key)) is not None]
    return {
        "name": row.name,
        "columns": dict(row.columns),
        "set": dict(row.set),
        "published": dict(row.published),
        "measured": _measured([cell["metrics"] for cell in found]),
        **({"server": _measured(server)} if server else {}),
        "runs": [cell["run"] for cell in found],
        "evaluations": [cell["evaluation"] for cell in found],
        "not_run": row.not_run,
        **({"curve": _curve(params, row)} if row.curve else {}),
    }


def _curve(params: Params, row: Row) -> list[dict[str, Any]]:
    metrics = defaultdict(list)
    for spec in (*row.curve, *row.evaluations):
        if (cell := cells.find(params, spec)) is not None:
            metrics[cell["videos_seen"]].append(cell["metrics"])
    measured = {seen: _measured(found).get(FIRST) for seen, found in sorted(metrics.items())}
    return [{"videos_seen": seen, **ap} for seen, ap in measured.items() if ap is not None]


def _measured(metrics: list[dict[str, float]]) -> dict[str, dict[str, float | int | None]]:
    result = {}
    for name in dict.fromkeys(name for one in metrics for name in one):
        values = [100 * one[name] for one in metrics if one.get(name, -1) >= 0]  # -1: undefined on this data set
        if values:
            deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
            result[name] = {"mean": round(statistics.mean(values), 4), "std": deviation, "n": len(values)}
    return result
