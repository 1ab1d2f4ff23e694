"""Writes a table's files: JSON, CSV, markdown, LaTeX and metrics."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs import cells
from pipeline.system.files import write_atomically
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
            for spec in (*row.evaluations, *row.curve):
                cells.write(params, spec)
        write_table(params.results_dir, summary(params, table))


def write_table(folder: Path, table: dict[str, Any]) -> None:
    """Writes <table>.json, .md, .csv and .tex, and metrics/<table>.json in the form that dvc metrics shows and compares."""
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


def _csv(table: dict[str, Any]) -> str:
    """One line per row and metric, with columns for the server's numbers if it scored a row."""
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
