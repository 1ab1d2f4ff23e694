"""Scores results in the YouTube-VIS format against a ground truth: the benchmark's 12 numbers, and AP per category.

    python -m pipeline.score GT.json RESULTS.json --json scores.json

The table shows percent; the JSON file holds fractions, -1 where the ground truth leaves a number undefined.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from effvis.errors import UserError

UNDEFINED = "–"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ground_truth", metavar="GT.json", type=Path, help="videos, categories and annotations")
    parser.add_argument("results", metavar="RESULTS.json", type=Path,
                        help="a list of {video_id, category_id, score, segmentations} with compressed RLE")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write {metrics, per_category, warnings} here")
    args = parser.parse_args(argv)

    from effvis.evaluation.video_ap import evaluate
    from pipeline.cli import progress_bar

    with progress_bar("scoring videos") as progress:
        evaluation = evaluate(args.ground_truth, args.results, progress=progress)
    for warning in evaluation.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _print(evaluation.metrics, evaluation.per_category)
    if args.json is not None:
        _write(args.json, {"metrics": evaluation.metrics, "per_category": evaluation.per_category,
                           "warnings": evaluation.warnings})
    return 0


def _print(metrics: Mapping[str, float], per_category: Mapping[str, Mapping[str, float]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    overall = Table(box=box.SIMPLE_HEAD)
    overall.add_column("metric")
    overall.add_column("%", justify="right")
    for name, value in metrics.items():
        overall.add_row(name, _percent(value))
    console.print(overall)
    if not per_category:
        return
    names = list(next(iter(per_category.values())))
    categories = Table("category", box=box.SIMPLE_HEAD)
    for name in names:
        categories.add_column(name, justify="right")
    for category, values in per_category.items():
        categories.add_row(escape(category), *(_percent(values[name]) for name in names))
    console.print(categories)


def _percent(value: float) -> str:
    return UNDEFINED if value < 0 else f"{100 * value:.2f}"


def _write(path: Path, content: dict) -> None:
    try:
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(path, "--json", problem, "Give a file in a folder that exists") from None


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
