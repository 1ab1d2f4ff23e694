"""What each cue is worth when the objects of frames are linked: QueryInst on drawn videos, held out of its training.

    python -m benchmarks.frame_linking
    python -m benchmarks.frame_linking -S dataset=data/shapes-vis-2021 --epochs 20 --hold-out-seed 1
    python -m benchmarks.frame_linking --tracking head

A share of the training videos is held out; a QueryInst of the profile's size, without a tracking head, is trained on single
frames of the others, unless that is done, and sees each frame of the videos held out once. Then its frames are linked with
every combination of weights (--weights) and thresholds (--thresholds), and scored by video AP. The videos that the project
reports on have no part in it. The defaults of ``effvis.queryinst.config.FrameLinking`` were chosen by this command
(docs/queryinst.md). With --tracking head, the network is trained with one on pairs of frames, and the AP of following objects
by it stands first.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

from effvis.inference.predictor import predict_tracked
from effvis.queryinst.config import FrameLinking
from effvis.queryinst.link import link_split, observe_split, track
from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import load_network, score
from pipeline.engine.run import train_with_bars
from pipeline.grid.rows import evaluation_spec
from pipeline.indexing import build
from pipeline.indexing.read import load_index
from pipeline.search.handcraft import with_holdout
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.system.cli import progress_bar

CUES = ("query", "box_iou", "mask_iou", "category")
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHOWN = 12


def grid(weights: Sequence[float]) -> list[dict[str, float]]:
    """Every combination of weights of the four cues, but for none at all."""
    return [dict(zip(CUES, values, strict=True)) for values in itertools.product(weights, repeat=len(CUES)) if any(values)]


def _line(cues: dict[str, float], threshold: float, ap: float) -> str:
    return f"{100 * ap:6.2f}  {'  '.join(f'{cues[cue]:8g}' for cue in CUES)}  {threshold:9g}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frame_linking", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", default="params.yaml", metavar="FILE")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="changes a parameter")
    parser.add_argument("--epochs", type=int, default=60, help="of the training (default: 60)")
    parser.add_argument("--tracking", choices=("none", "head"), default="none", help="of the network (default: none)")
    parser.add_argument("--hold-out", type=float, default=0.2, metavar="SHARE", help="of the training videos (default: 0.2)")
    parser.add_argument("--hold-out-seed", type=int, default=0, metavar="N", help="(default: 0)")
    parser.add_argument("--weights", type=float, nargs="+", default=(0.0, 1.0), metavar="X", help="to try (default: 0 1)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, metavar="X",
                        help=f"to try (default: {' '.join(map(str, THRESHOLDS))})")
    args = parser.parse_args(argv)
    epochs = f"queryinst.train.epochs={args.epochs}", f"queryinst.train.lr_drop_epoch={args.epochs * 5 / 6}"
    reported = load_params(args.params, [f"queryinst.model.tracking={args.tracking}", *epochs, *args.set])
    params = with_holdout(reported, args.hold_out, args.hold_out_seed)
    with progress_bar("indexing") as update:
        build.build(params, update, test=False)
    spec = evaluation_spec(params, RowSettings(method="queryinst"), 0)
    train_with_bars(params, spec.train)
    index = load_index(params, "val")
    truth, model = ground_truth(params, index), load_network(params, spec)
    with progress_bar("videos") as update:
        seen = observe_split(model, index, spec.inference, input_size=spec.train.input_size, progress=update)
    found = []
    combinations = list(itertools.product(grid(args.weights), args.thresholds))
    with progress_bar("linkings") as update:
        for number, (cues, threshold) in enumerate(combinations, 1):
            frames = FrameLinking(**cues, new_tracklet_below=threshold)
            predictions = link_split(seen, index, spec.inference.model_copy(update={"frames": frames}))
            found.append((score(truth, predictions).metrics["AP"], cues, threshold))
            update(number, len(combinations))
    print(f"run {spec.train.key}, {len(index.videos)} videos held out")
    if args.tracking == "head":
        followed = predict_tracked(model, index, spec.inference, track=track, input_size=spec.train.input_size)
        print(f"{100 * score(truth, followed).metrics['AP']:6.2f}  by the tracking head")
    print(f"    AP  {'  '.join(f'{cue:>8}' for cue in CUES)}  threshold")
    found.sort(key=lambda one: -one[0])
    shown = []
    for ap, cues, threshold in found:
        if cues not in shown:
            shown.append(cues)
            print(_line(cues, threshold, ap))
    print("\nthe best of all")
    for ap, cues, threshold in found[:SHOWN]:
        print(_line(cues, threshold, ap))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
