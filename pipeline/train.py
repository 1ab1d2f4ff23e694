"""Trains a run and, first, the run that it starts from. Finished runs are not trained again; interrupted runs resume.

Without --row it trains the headline run of the parameters.
"""

from __future__ import annotations

from pipeline.runs.store import RunStore
from pipeline.system.cli import add_row_arguments, parser
from pipeline.system.files import json_bytes, write_atomically


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.train")
    add_row_arguments(arguments)
    args = arguments.parse_args(argv)

    from pipeline.engine.run import train_with_bars
    from pipeline.engine.training import final_loss
    from pipeline.grid.rows import evaluation_spec, find_row
    from pipeline.planning.prepare import prepare_row
    from pipeline.runs.storage import keeping
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    row = find_row(params, args.row)
    prepare_row(params, row, args.seed)
    spec = evaluation_spec(params, row, args.seed).train
    with keeping(params):
        folder = train_with_bars(params, spec)
    done = RunStore(params.runs_dir).done(spec.key)
    print(f"{folder}: {done['steps']} steps in {done['seconds']:.0f} s, final loss {final_loss(folder):.3f}")
    if args.row is None and args.seed == 0:
        # Later stages depend on this file; the run store itself is too large for that and changes too often.
        params.results_dir.mkdir(parents=True, exist_ok=True)
        summary = {"run": spec.key, "init": spec.init, "steps": done["steps"], "final_loss": round(final_loss(folder), 4)}
        write_atomically(params.results_dir / "train.json", json_bytes(summary))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
