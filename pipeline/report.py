"""Gathers all measured tables in results/report.md, and brings MLflow up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params

HOW_TO_READ = (
    "*Published* is what the paper reports on YouTube-VIS 2019 with a ResNet-50, in percent. *Measured* is what this "
    "project measured on {dataset} with the {profile} profile: mean ± standard deviation over the seeds, in percent. The "
    "two are on different data and of networks of different sizes, so what can be compared is not a number with its "
    "neighbour, but whether rows differ in the same way. Δ AP is measured minus published."
)


def report(params: Params, tables: list[dict[str, Any]]) -> str:
    """The report's markdown: how to read it, the command, then every table."""
    from pipeline.tables import markdown

    grid = ",".join(table["table"] for table in tables)
    parts = [
        "# Results",
        HOW_TO_READ.format(dataset=params.dataset_name, profile=params.profile),
        f"Command: `dvc repro`, or `python -m pipeline.ablate --grid {grid} --seeds {params.seeds}`; "
        f"dataset: {params.dataset_name}; seeds: {', '.join(map(str, range(params.seeds)))}.",
        *(markdown(table).strip() for table in tables),
    ]
    return "\n\n".join(parts) + "\n"


def _read_table(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"Make it with python -m pipeline.ablate --grid {file.stem}"
        raise UserError(file, "(file)", f"cannot be read: {error}", remedy) from None


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    options = parser(__doc__, "pipeline.report").parse_args(argv)
    from pipeline.config import load_params
    from pipeline.store import write_atomically
    from pipeline.track import Tracker

    params = load_params(options.params, options.set)
    tables = [_read_table(params.results_dir / f"{name}.json") for name in params.tables]
    file = params.results_dir / "report.md"
    text = report(params, tables)
    with Tracker(params):
        write_atomically(file, text.encode())
    print(text)
    print(f"written to {file}")
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
