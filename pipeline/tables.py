"""From cells to a table: published and measured numbers side by side, never mixed, nor with a server's. All in percent."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Params, Row, Table

FIRST = "AP"
OTHERS = ("AP50", "AP75", "AR1", "AR10")  # of the 12 numbers, those that the paper's tables show
SERVER_CAPTION = "Scored by the competition's server, on ground truth that only it has:"


def summary(params: Params, table: Table) -> dict[str, Any]:
    """The table's machine-readable form: the same for the same cells, so that it can be committed.

    Returns:
        ``table``, ``title``, ``caption``, ``dataset``, ``profile`` and ``rows``, each with ``name``, ``columns`` (what the
        paper's table shows before its numbers, as text), ``set``, ``published`` (metric → percent), ``measured`` (metric →
        ``mean``, ``std`` over the seeds (None for one seed) and ``n``, in percent; empty where nothing was measured),
        ``runs`` and ``evaluations`` (keys), and ``not_run`` (why, or None). A table with learning curves has ``curve`` in
        its rows: AP (as in ``measured``) by ``videos_seen``, the end of the training last. A row whose results a
        competition's server scored has its numbers in ``server``, as in ``measured``. A table that compares how two rows
        converge has ``convergence`` (``pipeline.convergence``).
    """
    from pipeline.convergence import convergence

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
    from pipeline import cells, server_scores

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
    from pipeline import cells

    metrics = defaultdict(list)
    for spec in (*row.curve, *row.evaluations):
        if (cell := cells.find(params, spec)) is not None:
            metrics[cell["videos_seen"]].append(cell["metrics"])
    measured = {seen: _measured(found).get(FIRST) for seen, found in sorted(metrics.items())}
    return [{"videos_seen": seen, **ap} for seen, ap in measured.items() if ap is not None]


def _measured(metrics: list[dict[str, float]]) -> dict[str, dict[str, float | int | None]]:
    result = {}
    for name in dict.fromkeys(name for one in metrics for name in one):
        values = [100 * one[name] for one in metrics if one.get(name, -1) >= 0]  # -1: there is nothing to measure it on
        if values:
            deviation = round(statistics.stdev(values), 4) if len(values) > 1 else None
            result[name] = {"mean": round(statistics.mean(values), 4), "std": deviation, "n": len(values)}
    return result


def write_table(folder: Path, table: dict[str, Any]) -> None:
    """Writes <table>.json, .md, .csv and .tex, and metrics/<table>.json in the form that dvc metrics shows and compares."""
    from pipeline.latex import latex
    from pipeline.store import write_atomically

    name = table["table"]
    texts = {
        f"{name}.json": _json(table),
        f"{name}.md": markdown(table),
        f"{name}.csv": _csv(table),
        f"{name}.tex": latex(table),
        f"metrics/{name}.json": _json({row["name"]: row["measured"] for row in table["rows"] if row["measured"]}),
    }
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        write_atomically(folder / file, text.encode())


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def markdown(table: dict[str, Any]) -> str:
    """The table for people; what to make of the two kinds of numbers stands above it."""
    extra = list(table["rows"][0]["columns"])
    numbers = ["AP published", "AP measured", "Δ AP", *(f"{name} published / measured" for name in OTHERS), "seeds"]
    lines = [_line(["", *map(_escape, extra), *numbers]), _line([":--"] * (1 + len(extra)) + ["--:"] * len(numbers))]
    for row in table["rows"]:
        published, measured = row["published"], row["measured"]
        first = [_published(published, FIRST), row["not_run"] and "not run" or _measured_text(measured, FIRST)]
        others = [f"{_published(published, name)} / {_measured_text(measured, name)}" for name in OTHERS]
        seeds = str(len(row["evaluations"])) if measured else ""
        texts = [_escape(text) for text in (row["name"], *row["columns"].values())]
        lines.append(_line([*texts, *first, _difference(published, measured), *others, seeds]))
    parts = [f"## {table['title']}", table["caption"], "\n".join(lines), *_not_run_notes(table), convergence_text(table),
             _server_markdown(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def convergence_text(table: dict[str, Any]) -> str:
    """A paragraph on how the rows converge, or nothing."""
    from pipeline.convergence import text

    return text(table["convergence"]) if "convergence" in table else ""


def _server_markdown(table: dict[str, Any]) -> str:
    """A table of its own, so that no number of the server stands in a column of ours."""
    scored = [row for row in table["rows"] if "server" in row]
    if not scored:
        return ""
    names = (FIRST, *OTHERS)
    lines = [_line(["", *(f"{name} server" for name in names), "seeds"]), _line([":--"] + ["--:"] * (1 + len(names)))]
    lines += [_line([_escape(row["name"]), *(_measured_text(row["server"], name) for name in names), _seeds(row["server"])])
              for row in scored]
    return SERVER_CAPTION + "\n\n" + "\n".join(lines)


def _seeds(measured: dict[str, Any]) -> str:
    return str(measured[FIRST]["n"]) if FIRST in measured else ""


def _not_run_notes(table: dict[str, Any]) -> list[str]:
    """A sentence for each reason why rows are not run."""
    names: dict[str, list[str]] = {}
    for row in table["rows"]:
        if row["not_run"]:
            names.setdefault(row["not_run"], []).append(row["name"])
    return [f"Not run ({reason}): {'; '.join(rows)}." for reason, rows in names.items()]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _published(published: dict[str, float], name: str) -> str:
    return f"{published[name]:.1f}" if name in published else "–"


def _measured_text(measured: dict[str, Any], name: str) -> str:
    if name not in measured:
        return "–"
    mean, deviation = measured[name]["mean"], measured[name]["std"]
    return f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"


def _difference(published: dict[str, float], measured: dict[str, Any]) -> str:
    both = FIRST in published and FIRST in measured
    return f"{measured[FIRST]['mean'] - published[FIRST]:+.1f}" if both else "–"


def _csv(table: dict[str, Any]) -> str:
    """One line per row and metric; columns of the server's numbers where it scored a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_server = any("server" in row for row in table["rows"])
    server_columns = ["server_mean", "server_std", "server_n"] if with_server else []
    writer.writerow(["table", "row", *table["rows"][0]["columns"], "metric", "published", "mean", "std", "n", *server_columns])
    for row in table["rows"]:
        server = row.get("server", {})
        for name in dict.fromkeys([*row["published"], *row["measured"], *server]):
            numbers = [row["published"].get(name), *_statistics(row["measured"], name)]
            numbers += _statistics(server, name) if with_server else []
            writer.writerow([table["table"], row["name"], *row["columns"].values(), name, *numbers])
    return text.getvalue()


def _statistics(measured: dict[str, Any], name: str) -> list[float | int | None]:
    one = measured.get(name, {})
    return [one.get("mean"), one.get("std"), one.get("n", 0)]
