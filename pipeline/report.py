"""Gathers all that was measured in results/report.md and, with claims, curves and figures, in results/report/index.html;
brings MLflow up to date.

The page is one file that works offline. Its figures need the weights in the run store; where weights are missing, it says so.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system.arguments import probability
from pipeline.system.cli import add_split_argument, parser
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.settings.params import Params
    from pipeline.tables.form import TableSummary

HOW_TO_READ = (
    "*Published* is what the paper reports on YouTube-VIS 2019 with a ResNet-50, in percent. *Measured* is what this "
    "project measured on {dataset} with the {profile} profile: means over the seeds, in percent, AP with ± its standard "
    "error. The two are on different data and of networks of different sizes, so what can be compared is not a number with its "
    "neighbour, but whether rows differ in the same way. Δ AP is measured minus published."
)


def report(params: Params, tables: list[TableSummary]) -> str:
    """Returns the report's markdown: how to read it, the command, then every table."""
    from pipeline.tables.markdown import markdown

    parts = [
        "# Results",
        _how_to_read(params, _split(params, tables)),
        f"Command: `dvc repro`, or `{_command(params, tables)}`; "
        f"dataset: {params.dataset_name}; seeds: {', '.join(map(str, range(params.seeds)))}.",
        *(markdown(table).strip() for table in tables),
    ]
    return "\n\n".join(parts) + "\n"


def report_page(params: Params, tables: list[TableSummary], *, minimum_score: float, as_sketch: bool) -> str:
    """Returns the report's HTML: claims, these tables and any other that was measured, learning curves and figures.

    Args:
        minimum_score: figures leave out tracklets below this score.
        as_sketch: figures show the edges of frames, for data that may not be redistributed.

    Raises:
        UserError: a results file cannot be read.
    """
    from pipeline.reporting.figures import all_figures
    from pipeline.reporting.page import Contents, page
    from pipeline.runs import cells
    from pipeline.system.models import read_json_file

    ledger, remedy = params.results_dir / "claims.json", "Make it with python -m pipeline.claims"
    figures = all_figures(params, minimum_score=minimum_score, as_sketch=as_sketch)
    for figure in figures:
        if figure.note:
            print(f"{figure.title}: not drawn. {figure.note}", file=sys.stderr)
    every = [*tables, *_other_tables(params)]
    split = _split(params, every)
    return page(params, Contents(
        tables=every, ledger=read_json_file(ledger, remedy) if ledger.is_file() else None,
        cells={cell.evaluation: cell for cell in cells.read_all(params)}, figures=figures, minimum_score=minimum_score,
        how_to_read=_how_to_read(params, split), command=_command(params, every), split=split))


def _split(params: Params, tables: list[TableSummary]) -> str:
    """The split that the tables' numbers are of; tables can be shown where the data set is not."""
    from pipeline.indexing.read import measured_split

    return tables[0].split if tables else measured_split(params)


def _how_to_read(params: Params, split: str) -> str:
    from pipeline.tables.form import videos_of

    return HOW_TO_READ.format(dataset=videos_of(params.dataset_name, split), profile=params.profile)


def _command(params: Params, tables: list[TableSummary]) -> str:
    return f"python -m pipeline.ablate --grid {','.join(table.table for table in tables)} --seeds {params.seeds}"


def _other_tables(params: Params) -> list[TableSummary]:
    """Tables that were measured though the parameters do not ask for them, ordered by name."""
    from pipeline.grid.rows import known_tables

    files = (params.results_dir / f"{name}.json" for name in known_tables(params) if name not in params.tables)
    return [_read_table(file) for file in files if file.is_file()]


def _read_table(file: Path) -> TableSummary:
    from pipeline.system.models import read_model
    from pipeline.tables.form import TableSummary

    return read_model(TableSummary, file, f"Make it with python -m pipeline.ablate --grid {file.stem}")


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.report")
    arguments.add_argument("--score", type=probability, default=0.3,
                           help="leave tracklets below this score out of figures (default: 0.3)")
    arguments.add_argument("--sketch", action="store_true", help="draw figures over the edges of frames, not over photographs")
    add_split_argument(arguments)
    options = arguments.parse_args(argv)
    from pipeline.mlflow_view.sync import Tracker
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    tables = [_read_table(params.results_dir / f"{name}.json") for name in params.tables]
    text = report(params, tables)
    html = report_page(params, tables, minimum_score=options.score, as_sketch=options.sketch)
    files = {params.results_dir / "report.md": text, params.results_dir / "report" / "index.html": html}
    with Tracker(params):
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content.encode())
    print(text)
    print(f"written to {' and '.join(map(str, files))}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
