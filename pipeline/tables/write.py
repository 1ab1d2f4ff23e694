"""Writes a table's files: JSON, CSV, markdown, LaTeX and metrics."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.runs import cells
from pipeline.system.files import json_bytes, write_atomically
from pipeline.tables.form import Measured, TableSummary
from pipeline.tables.latex import latex
from pipeline.tables.markdown import markdown
from pipeline.tables.summary import summary

if TYPE_CHECKING:
    from pipeline.grid.table_file import Table
    from pipeline.settings.params import Params


def write_tables(params: Params, tables: Iterable[Table]) -> None:
    """Writes the tables from the present results, and the cells that they are made of."""
    for table in tables:
        for row in table.rows:
            for spec in row.to_run:
                cells.write(params, spec)
        write_table(params.results_dir, summary(params, table))


def write_table(folder: Path, table: TableSummary) -> None:
    """Writes <table>.json, .md, .csv and .tex, and metrics/<table>.json in the form that dvc metrics shows and compares."""
    name, facts = table.table, table.model_dump(mode="json")
    contents = {
        f"{name}.json": json_bytes(facts),
        f"{name}.md": markdown(table).encode(),
        f"{name}.csv": _csv(table).encode(),
        f"{name}.tex": latex(table).encode(),
        f"metrics/{name}.json": json_bytes({row["name"]: row["measured"] for row in facts["rows"] if row["measured"]}),
    }
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        write_atomically(folder / file, content)


def _csv(table: TableSummary) -> str:
    """One line per row and metric, with columns for the server's numbers if it scored a row; then two for a row's speed, whose
    name says if it is stale."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    with_server = any(row.server is not None for row in table.rows)
    server_columns = ["server_mean", "server_std", "server_n"] if with_server else []
    writer.writerow(["table", "row", *table.rows[0].columns, "metric", "published", "mean", "std", "n", "error", "covers",
                     *server_columns])
    for row in table.rows:
        server = row.server or {}
        ours = row.measured | ({"AP_before_clips": row.before_clips} if row.before_clips else {})
        for name in dict.fromkeys([*row.published, *ours, *server]):
            one = ours.get(name)
            numbers = [row.published.get(name), *_statistics(ours, name), one and one.error, one and one.covers]
            numbers += _statistics(server, name) if with_server else []
            writer.writerow([table.table, row.name, *row.columns.values(), name, *numbers])
        if row.speed is not None:
            for name, value in (("FPS_model", row.speed.model), ("FPS_end_to_end", row.speed.end_to_end)):
                numbers = [None, value, None, table.speed_conditions.rounds, None, None, *[None] * len(server_columns)]
                writer.writerow([table.table, row.name, *row.columns.values(), name + " (stale)" * row.speed.stale, *numbers])
    return text.getvalue()


def _statistics(measured: dict[str, Measured], name: str) -> list[float | int | None]:
    one = measured.get(name)
    return [None, None, 0] if one is None else [one.mean, one.std, one.n]
