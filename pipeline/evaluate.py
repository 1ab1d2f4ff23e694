"""Evaluates a trained run on the validation split. It trains nothing.

Without --row it evaluates the headline run of the parameters and writes results/headline.json.
"""

from __future__ import annotations

import sys

from pipeline.system.cli import add_row_arguments, parser, progress_bar
from pipeline.system.files import json_bytes, write_atomically


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.evaluate")
    add_row_arguments(arguments)
    args = arguments.parse_args(argv)

    from pipeline.engine.run import evaluate_run
    from pipeline.grid.rows import find_evaluation
    from pipeline.runs.storage import keeping
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    spec = find_evaluation(params, args.row, args.seed)
    with keeping(params), progress_bar("evaluate") as update:
        found = evaluate_run(params, spec, report=lambda r: update(r["step"], r["total"]))
    percent = {name: round(100 * value, 2) if value >= 0 else None for name, value in found["metrics"].items()}
    print(" ".join(f"{name} {value}" for name, value in percent.items()))
    if percent["AP"] is None:
        print("No ground truth here to score against: python -m pipeline.submit makes what the competition's server takes",
              file=sys.stderr)
    if args.row is None and args.seed == 0:
        params.results_dir.mkdir(parents=True, exist_ok=True)
        summary = {"run": spec.train.key, "evaluation": spec.key, "percent": percent}
        write_atomically(params.results_dir / "headline.json", json_bytes(summary))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
