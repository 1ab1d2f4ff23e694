"""Scores results in the YouTube-VIS format against ground truth: the benchmark's 12 numbers, and AP per category.

    python -m pipeline.score GT.json RESULTS.json --json scores.json
    python -m pipeline.score GT.json RESULTS.json --hota --minimum-score 0.3

The table shows percentages; the JSON file holds fractions, or -1 where the ground truth leaves a number undefined. What
other tools write in the ground truth in place of the format (docs/own-data.md) is read, and each kind is told once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from effvis.errors import UserError
from effvis.evaluation.ground_truth_file import read_ground_truth_file
from effvis.evaluation.tracking_metrics import tracking_metrics
from effvis.evaluation.video_ap import evaluate
from pipeline.system.cli import progress_bar

UNDEFINED = "–"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.score", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ground_truth", metavar="GT.json", type=Path, help="videos, categories and annotations")
    parser.add_argument("results", metavar="RESULTS.json", type=Path,
                        help="a list of {video_id, category_id, score, segmentations} with compressed RLE")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write {metrics, per_category, warnings} here")
    parser.add_argument("--hota", action="store_true",
                        help="also compute HOTA and track mAP by IoU threshold, with TrackEval (pip install -e '.[tracking]')")
    parser.add_argument("--minimum-score", metavar="S", type=float, default=0.0,
                        help="count only results of this score or more in HOTA (default: 0, as in TrackEval)")
    args = parser.parse_args(argv)

    truth = read_ground_truth_file(args.ground_truth)
    with truth.named_in_errors():
        with progress_bar("scoring videos") as progress:
            evaluation = evaluate(truth.content, args.results, progress=progress)
        tracking = _tracking(args, truth.content) if args.hota else None
    warnings = [*truth.warnings, *map(truth.named, evaluation.warnings)]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    _print(evaluation.metrics, evaluation.per_category)
    if tracking is not None:
        _print(tracking["hota"], tracking["per_category"])
        _print_rows("IoU threshold", tracking["track_map"])
    if args.json is not None:
        _write(args.json, {"metrics": evaluation.metrics, "per_category": evaluation.per_category,
                           "warnings": warnings, **({"tracking": tracking} if tracking else {})})
    return 0


def _tracking(args: argparse.Namespace, ground_truth: dict) -> dict:
    found = tracking_metrics(ground_truth, args.results, minimum_score=args.minimum_score)
    return {"minimum_score": args.minimum_score, **asdict(found)}


def _print(metrics: Mapping[str, float], per_category: Mapping[str, Mapping[str, float]]) -> None:
    overall = Table(box=box.SIMPLE_HEAD)
    overall.add_column("metric")
    overall.add_column("%", justify="right")
    for name, value in metrics.items():
        overall.add_row(name, _percent(value))
    Console().print(overall)
    if per_category:
        _print_rows("category", per_category)


def _print_rows(first: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a line for each row, with its numbers by name."""
    names = list(next(iter(rows.values())))
    table = Table(first, box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right")
    for row, values in rows.items():
        table.add_row(escape(row), *(_percent(values[name]) for name in names))
    Console().print(table)


def _percent(value: float) -> str:
    return UNDEFINED if value < 0 else f"{100 * value:.2f}"


def _write(path: Path, content: dict) -> None:
    try:
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(path, "--json", problem, "Give a file in a folder that exists") from None


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
