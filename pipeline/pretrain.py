"""Trains the network on single frames (pairs of frames of a video), where clip training starts from.

By default it trains what params.yaml asks for and the project does not ship; --from-scratch trains it all the same.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline import shipped

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.specs import TrainSpec


def ship(
    params: Params, spec: TrainSpec, name: str, command: str, *, folder: Path = shipped.FOLDER
) -> dict[str, Any]:
    """Copies a finished pretraining into the project, with what it was made of and what it scores at one frame per clip.

    Returns:
        What was written beside the weights.

    Raises:
        UserError: the run is not finished or its weights are too large to ship.
    """
    from pipeline.config import pretrained_evaluation
    from pipeline.evaluate import evaluate_run
    from pipeline.store import RunStore
    from pipeline.train import final_loss

    store = RunStore(params.runs_dir)
    metrics = evaluate_run(params, pretrained_evaluation(params, spec))["metrics"]
    facts = {
        "command": command,
        "run": spec.key,
        "method": spec.method,
        "correspondence": spec.correspondence,
        "steps": store.done(spec.key)["steps"],
        "metrics": {"AP": round(100 * metrics["AP"], 2), "final_loss": round(final_loss(store.folder(spec.key)), 4)},
        "dataset": {"name": spec.dataset_name, "digest": spec.dataset_digest,
                    "shapes": params.of_dataset(spec.dataset_name).drawn.model_dump(mode="json")},
        "input_size": list(spec.input_size),
        "model": spec.model.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "code_digest": spec.code_digest,
    }
    shipped.ship(name, store.weights_file(spec.key), facts, folder=folder)
    return facts


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    arguments = parser(__doc__, "pipeline.pretrain")
    arguments.add_argument("--row", metavar="TABLE:NAME", help="the start of a table's row, e.g. 'table1a:Spatial (S)' "
                           "(default: of the headline run)")
    arguments.add_argument("--cl", choices=("on", "off"), help="with correspondence learning or without (default: as the row)")
    arguments.add_argument("--from-scratch", action="store_true", help="train even where shipped weights would do")
    arguments.add_argument("--ship", metavar="NAME", help="copy the result to effvis/pretrained/NAME.safetensors "
                           "(implies --from-scratch)")
    args = arguments.parse_args(argv)

    from pipeline.config import find_row, load_params, pretrain_spec
    from pipeline.storage import keeping
    from pipeline.train import train_with_bars

    params = load_params(args.params, args.set)
    settings = find_row(params, args.row)
    if args.cl is not None:
        if settings.method == "vistr":
            raise UserError("--cl", args.cl, "VisTR hands no queries on", "Leave it out")
        settings = settings.model_copy(update={"cl": args.cl == "on"})
    spec = pretrain_spec(params, settings)
    if params.pretrain_source(spec.method) in ("auto", "shipped") and not args.from_scratch and args.ship is None:
        found = shipped.find(spec.model, spec.correspondence)
        if found is not None:
            print(f"{found}: shipped, nothing to train")
            return 0
    with keeping(params):
        print(train_with_bars(params, spec))
    if args.ship is not None:
        words = [*(["--row", args.row] if args.row else []), *(["--cl", args.cl] if args.cl else []), "--ship", args.ship,
                 *(word for text in args.set for word in ("-S", text))]
        facts = ship(params, spec, args.ship, f"python -m pipeline.pretrain {shlex.join(words)}")
        print(f"{shipped.FOLDER / args.ship}.safetensors: AP {facts['metrics']['AP']} at one frame per clip")
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
