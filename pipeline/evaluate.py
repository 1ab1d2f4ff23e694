"""Evaluates a trained run, or a model that you have, on the test split or, without one, on val. It trains nothing.

Without --row and --model it evaluates the headline run of the parameters and writes results/headline.json.

    python -m pipeline.evaluate --model FOLDER --out scores

evaluates an exported model, whatever it was trained with, and writes scores/metrics.json, results.json and per_category.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.system.cli import add_split_argument, parser, progress_bar
from pipeline.system.files import json_bytes, write_atomically
from pipeline.weights.arguments import add_model_arguments

if TYPE_CHECKING:
    import argparse

    from pipeline.settings.params import Params


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.evaluate")
    add_model_arguments(arguments, default="the headline run")
    add_split_argument(arguments)
    arguments.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the results of --model")
    args = arguments.parse_args(argv)
    if (args.model is None) != (args.out is None):
        raise UserError("command line", "--out", "goes together with --model: a run's results are kept in the store",
                        "Give both or neither")

    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    percent = _evaluate_model(params, args) if args.model is not None else _evaluate_row(params, args)
    print(" ".join(f"{name} {value}" for name, value in percent.items()))
    if percent["AP"] is None:
        print("No ground truth here to score against: python -m pipeline.submit makes what the competition's server takes",
              file=sys.stderr)
    return 0


def _evaluate_row(params: Params, args: argparse.Namespace) -> dict[str, float | None]:
    from pipeline.engine.run import evaluate_run
    from pipeline.grid.rows import find_evaluation
    from pipeline.runs.storage import keeping

    spec = find_evaluation(params, args.row, args.seed)
    with keeping(params), progress_bar("evaluate") as update:
        found = evaluate_run(params, spec, report=lambda r: update(r["step"], r["total"]))
    percent = _percent(found["metrics"])
    print(f"measured on {spec.split}", file=sys.stderr)
    if args.row is None and args.seed == 0:
        params.results_dir.mkdir(parents=True, exist_ok=True)
        summary = {"run": spec.train.key, "evaluation": spec.key, "split": spec.split, "percent": percent}
        write_atomically(params.results_dir / "headline.json", json_bytes(summary))
    return percent


def _evaluate_model(params: Params, args: argparse.Namespace) -> dict[str, float | None]:
    from pipeline.engine.given import evaluate_given
    from pipeline.weights.models import find_model

    model = find_model(args)
    print(f"model: {model.text}", file=sys.stderr)
    with progress_bar("evaluate") as update:
        found = evaluate_given(params, model.description, model.weights, args.out,
                               report=lambda r: update(r["step"], r["total"]))
    print(f"measured on {found['dataset']['split']}", file=sys.stderr)
    return _percent(found["metrics"])


def _percent(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: round(100 * value, 2) if value >= 0 else None for name, value in metrics.items()}


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
