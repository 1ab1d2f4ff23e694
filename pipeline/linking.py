"""Chooses the hand-crafted linking of a row: its matching threshold and the weights of its four terms.

A share of the training videos is held out, the row's network is trained on the others, and every combination is scored on the
videos held out; the network runs once. The reported videos have no part in it: if they are training videos themselves
(holdout), they are left out first, and the share is of the others. The choice is written to
experiments/linking/<profile>.yaml, and all rows of this method and clip length use it where the same videos are reported.
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import methods
from pipeline.system.arguments import natural_int
from pipeline.system.cli import parser, progress_bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effvis.config import HandcraftConfig
    from pipeline.settings.params import Params

THRESHOLDS = (-0.5, 0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.5)
SHOWN = 20


def with_holdout(params: Params, fraction: float, seed: int) -> Params:
    """The parameters with training videos held out as val, and an index of their own, so that the project's stays as it is.

    Training videos that the parameters report are neither trained on nor held out.

    Raises:
        UserError: the fraction is none, or such videos are reported and the project's index, which lists them, is missing or
            of another data set or holdout.
    """
    from effvis.config import build
    from pipeline.datasets.holdout import FILE
    from pipeline.indexing.read import read_facts
    from pipeline.settings.params import HoldoutSettings

    values = {"fraction": fraction, "seed": seed}
    if params.holdout is not None:
        read_facts(params)  # refuses an index of anything else
        values["without"] = str(params.index_folder / FILE)
    return params.on_val().model_copy(update={
        "holdout": build(HoldoutSettings, values, where="command line", prefix="--hold-out"),
        "dataset": str(params.dataset_folder.absolute()), "data_dir": params.runs_dir / ".linking"})


def show(linkings: Sequence[HandcraftConfig], scores: Sequence[float]) -> None:
    """Prints the best linkings, and the first one wherever it stands, as a table with AP in percent."""
    places = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    print("   AP  box IoU  box L1  mask IoU  class  threshold")
    for rank, place in enumerate(places):
        one = linkings[place]
        if rank < SHOWN or place == 0:
            print(f"{100 * scores[place]:5.2f}  {one.box_iou:7g}  {one.box_l1:6g}  {one.mask_iou:8g}  {one.category:5g}  "
                  f"{one.new_tracklet_below:9g}{'  as in the parameters' if place == 0 else ''}")


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.linking")
    arguments.add_argument("--row", required=True, metavar="TABLE:NAME", help="a row with hand-crafted linking")
    arguments.add_argument("--seed", type=natural_int, default=0, help="of the training (default: 0)")
    arguments.add_argument("--hold-out", type=float, default=0.2, metavar="SHARE", help="of the training videos (default: 0.2)")
    arguments.add_argument("--hold-out-seed", type=natural_int, default=0, metavar="N", help="(default: 0)")
    arguments.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, metavar="X",
                           help=f"matching thresholds to try (default: {' '.join(f'{x:g}' for x in THRESHOLDS)})")
    arguments.add_argument("--weights", type=float, nargs="+", default=(0.0, 1.0), metavar="X",
                           help="weights to try, in all combinations of the four terms (default: 0 1)")
    args = arguments.parse_args(argv)
    if min(args.weights) < 0:
        raise UserError("command line", "--weights", f"{min(args.weights):g} is below 0", "Give weights of 0 or more")

    from effvis import methods as networks
    from pipeline.datasets.holdout import reported_videos
    from pipeline.engine.linking import best, grid, sweep
    from pipeline.engine.run import train_with_bars
    from pipeline.grid.linking import Choice, keep
    from pipeline.grid.rows import evaluation_spec, find_row
    from pipeline.indexing import build
    from pipeline.planning.prepare import prepare_row
    from pipeline.settings.loading import load_params

    reported = load_params(args.params, args.set)
    row = find_row(reported, args.row)
    if networks.get(row.method).link is not None:
        raise UserError("--row", args.row, f"{methods.get(row.method).title} links its frames in a way of its own, and has no "
                        "clips to link", f"Its settings are those of {methods.get(row.method).prefix}inference; this command "
                        "is for methods that predict clips")
    of_row = reported.with_dataset(row.dataset)
    params = with_holdout(of_row, args.hold_out, args.hold_out_seed)
    with progress_bar("indexing") as update:
        build.build(params, update, test=False)
    row = row.model_copy(update={"dataset": None})
    prepare_row(params, row, args.seed)
    spec = evaluation_spec(params, row, args.seed)
    if spec.inference.linking != "hand-craft":
        raise UserError("--row", args.row, "is linked end to end", "Name a row with linking: hand-craft")
    train_with_bars(params, spec.train)
    linkings = grid(reported.inference.handcraft, args.thresholds, args.weights)
    with progress_bar("linking") as update:
        scores, held_out = sweep(params, spec, linkings, lambda what, done, total: update(done, total, what))
    show(linkings, scores)
    place = best(scores)
    command = shlex.join(["python", "-m", "pipeline.linking", *(sys.argv[1:] if argv is None else argv)])
    print(keep(reported, Choice(
        method=spec.train.method, T=row.T, handcraft=linkings[place], command=command, run=spec.train.key, held_out=held_out,
        reported=reported_videos(of_row), AP=round(scores[place], 4), AP_of_defaults=round(scores[0], 4))))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
