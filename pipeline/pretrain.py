"""Trains the network on the pictures of pretrain.dataset, or on single frames of its own videos (pairs of frames of a video);
clip training starts from the result.

By default it trains only if the project ships no weights for what params.yaml asks for; --from-scratch trains in any case.
"""

from __future__ import annotations

import shlex

from effvis.errors import UserError
from pipeline import methods
from pipeline.system.arguments import natural_int
from pipeline.system.cli import parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.pretrain")
    arguments.add_argument("--row", metavar="TABLE:NAME", help="train the start of a table's row, e.g. 'table1a:Spatial (S)' "
                           "(default: the start of the headline run)")
    arguments.add_argument("--cl", choices=("on", "off"), help="on frames of videos: whether to learn correspondence "
                           "(default: as in the row)")
    arguments.add_argument("--seed", type=natural_int, default=0, help="of the row, and of its start (default: 0)")
    arguments.add_argument("--from-scratch", action="store_true", help="train even if shipped weights would do")
    arguments.add_argument("--ship", metavar="NAME", help="copy the result to effvis/pretrained/NAME.safetensors "
                           "(implies --from-scratch)")
    args = arguments.parse_args(argv)

    from pipeline.engine.run import train_with_bars
    from pipeline.engine.ship import ship
    from pipeline.grid import starts
    from pipeline.grid.rows import find_row, find_shipped, pretrain_spec
    from pipeline.planning.prepare import draw
    from pipeline.runs.storage import keeping
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    settings = find_row(params, args.row)
    if args.cl is not None:
        method = methods.get(settings.method)
        if not method.learns_correspondence:
            raise UserError("--cl", args.cl, f"{method.title} hands no queries on", "Leave it out")
        if params.of_pretraining(method.name) is not params:
            raise UserError("--cl", args.cl, f"pictures of {params.of_method(method.name).pretrain.dataset} teach no "
                            "correspondence", f"Leave it out, or set {method.prefix}pretrain.dataset: own")
        settings = settings.model_copy(update={"cl": args.cl == "on"})
    source = params.of_method(settings.method).pretrain.source
    if source in ("auto", "shipped") and not args.from_scratch and args.ship is None:
        found = find_shipped(params, settings, args.seed)
        if found is not None:
            print(f"{found}: shipped, nothing to train")
            return 0
    draw(params, [params.with_dataset(settings.dataset), params.of_pretraining(settings.method)])
    spec = pretrain_spec(params, settings, args.seed)
    with keeping(params):
        print(train_with_bars(params, spec))
    if args.ship is not None:
        words = [*(["--row", args.row] if args.row else []), *(["--cl", args.cl] if args.cl else []),
                 *(["--seed", str(args.seed)] if args.seed else []), "--ship", args.ship,
                 *(word for text in args.set for word in ("-S", text))]
        facts = ship(params, spec, args.ship, f"python -m pipeline.pretrain {shlex.join(words)}")
        print(f"{starts.FOLDER / args.ship}.safetensors: AP {facts['metrics']['AP']} at one frame per clip")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
