"""Chooses the hand-crafted linking of a row: its matching threshold and the weights of its four terms.

Where test is reported, it is chosen on val. Otherwise a share of the training videos is held out, the row's network is trained
on the others, and every combination is scored on the videos held out; the network runs once. The reported videos have no part
in it: if they are training videos themselves (holdout), they are left out first, and the share is of the others. The choice is
written to experiments/choices/<profile>.yaml, and all rows of this method and clip length use it where the same videos are
reported. (pipeline.tune --choose makes this choice too, after that of the learning rate.)
"""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import methods
from pipeline.system.arguments import natural_int
from pipeline.system.cli import parser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effvis.config import HandcraftConfig

SHOWN = 20


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
    arguments.add_argument("--thresholds", type=float, nargs="+", metavar="X", help="matching thresholds to try (default: from "
                           "-0.5 to 1.5)")
    arguments.add_argument("--weights", type=float, nargs="+", default=(0.0, 1.0), metavar="X",
                           help="weights to try, in all combinations of the four terms (default: 0 1)")
    args = arguments.parse_args(argv)
    if min(args.weights) < 0:
        raise UserError("command line", "--weights", f"{min(args.weights):g} is below 0", "Give weights of 0 or more")

    from effvis import methods as networks
    from pipeline.grid.choice_file import keep
    from pipeline.grid.rows import find_row, with_choices
    from pipeline.planning.prepare import prepare_row
    from pipeline.search import handcraft
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    row = find_row(params, args.row)
    if networks.get(row.method).link is not None:
        raise UserError("--row", args.row, f"{methods.get(row.method).title} links its frames in a way of its own, and has no "
                        "clips to link", f"Its settings are those of {methods.get(row.method).prefix}inference; this command "
                        "is for methods that predict clips")
    of_row = params.with_dataset(row.dataset)
    free = handcraft.choosing(of_row, args.hold_out, args.hold_out_seed)
    row = with_choices(of_row, row)
    prepare_row(free, row.model_copy(update={"dataset": None}), args.seed)
    spec = handcraft.spec_of(free, row, args.seed)
    if spec.inference.linking != "hand-craft":
        raise UserError("--row", args.row, "is linked end to end", "Name a row with linking: hand-craft")
    command = shlex.join(["python", "-m", "pipeline.linking", *(sys.argv[1:] if argv is None else argv)])
    print(keep(params, handcraft.choose(of_row, free, row.T, spec, command, thresholds=args.thresholds or handcraft.THRESHOLDS,
                                        weights=args.weights, show=show)))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
