"""The paper's backbone learns two real clips by heart: ResNet-50, T=4, 192x320, to a mask IoU above 0.8.

    python -m benchmarks.overfit ../shared/real/davis-mini/train
    python -m benchmarks.overfit FOLDER --sequence dog --sequence goat --start start.safetensors --lr 1e-4

FOLDER holds frames and masks as ``pipeline.import_masks`` reads them. The first T frames of each named sequence are imported,
and become one clip; each step trains on all clips with the trainer, losses and matching of the project. Every --every steps the
clips are predicted as in an evaluation; an instance's tracklet is the one whose masks overlap it most, and its
mask and box IoU are means over the frames in which the instance is visible. The benchmark ends when the mean mask IoU is above
--aim, with exit code 0, or after --steps, with exit code 1.

Without --start all weights are random; the ResNet's frozen normalisation is then the identity, and its later stages learn.
The network is the paper's with half of its interactions, for time: --iterations 6 has all. --queries and --hidden-dim make it
smaller still.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from effvis.config import Backbone, InferenceConfig, ModelConfig, TrainConfig
from effvis.data import masks
from effvis.data.clips import ClipPairs
from effvis.data.dataset import DatasetIndex, Track
from effvis.data.index import clip_index
from effvis.data.youtube_vis import read_split
from effvis.inference.clip import TrackletPredictions, predict_alone
from effvis.inference.predictor import predict_clips
from effvis.model.efficientvis import EfficientVIS
from effvis.training.loop import train
from pipeline import methods
from pipeline.importers.masks import import_masks

SIZE = 192, 320
FRAMES = 4
SEQUENCES = ("blackswan", "goat")


def write_clips(folder: Path, sequences: Sequence[str], work: Path) -> Path:
    """Imports the first frames of sequences as a data set, each sequence a category; returns its training split."""
    for kind in ("JPEGImages", "Annotations"):
        for sequence in sequences:
            cut = work / "cut" / kind / sequence
            cut.mkdir(parents=True)
            for file in sorted((folder / kind / sequence).iterdir())[:FRAMES]:
                (cut / file.name).symlink_to(file.resolve())
    categories = work / "categories.yaml"
    categories.write_text(yaml.safe_dump({sequence: sequence for sequence in sequences}))
    import_masks(work / "cut", categories, work / "clips", fps=6.0)
    return work / "clips" / "train"


@dataclass(frozen=True)
class Learned:
    """How well a network has learned some clips, as means over their instances.

    Attributes:
        mask_iou, box_iou: of each instance and its best tracklet, means over the frames in which the instance is visible.
        probability: which that tracklet gives to the instance's category there.
    """

    mask_iou: float
    box_iou: float
    probability: float


def learned(model: EfficientVIS, index: DatasetIndex) -> Learned:
    """Predicts the clips as in an evaluation, but keeps every tracklet in every frame. An instance's is the one whose masks
    overlap it most."""
    everywhere = InferenceConfig(presence_threshold=0.0)
    clips = predict_clips(model, index, everywhere, predict=predict_alone, input_size=SIZE)
    best = []
    for track in index.tracks:
        ((_, tracklets),) = clips[track.video_index]
        best.append(max(_compared(tracklets, n, track) for n in range(len(tracklets.rles))))
    return Learned(*map(float, np.mean(best, axis=0)))


def _compared(tracklets: TrackletPredictions, n: int, track: Track) -> tuple[float, float, float]:
    """Mask IoU, box IoU and probability of a tracklet, means over the frames in which the instance is visible."""
    visible = np.flatnonzero(track.present_L)
    mask_iou = np.mean([_mask_iou(tracklets.rles[n][t], track.rles[t]) for t in visible])
    box_iou = _box_iou(tracklets.boxes_NT4[n, visible], track.boxes_L4[visible]).mean()
    return mask_iou, box_iou, tracklets.probabilities_NTK[n, visible, track.label].mean()


def _mask_iou(one: masks.RLE, other: masks.RLE) -> float:
    a, b = masks.decode(one), masks.decode(other)
    return (a & b).sum() / (a | b).sum()


def _box_iou(one_T4: np.ndarray, other_T4: np.ndarray) -> np.ndarray:
    sides_T2 = np.minimum(one_T4[:, 2:], other_T4[:, 2:]) - np.maximum(one_T4[:, :2], other_T4[:, :2])
    shared_T = sides_T2.clip(min=0).prod(axis=1)
    one_T, other_T = ((boxes_T4[:, 2:] - boxes_T4[:, :2]).prod(axis=1) for boxes_T4 in (one_T4, other_T4))
    return shared_T / (one_T + other_T - shared_T)


def overfit(model: EfficientVIS, index: DatasetIndex, args: argparse.Namespace) -> Learned:
    """Trains, printing a line every so many steps, until the aim is reached or all steps are done."""
    pairs = ClipPairs(index, clip_index(index, FRAMES), input_size=SIZE, batch_size=len(index.videos), seed=args.seed,
                      clips_per_video=1)
    config = TrainConfig(lr=args.lr, warmup_steps=args.warmup_steps, epochs=args.steps, lr_drop_epoch=args.drop_at,
                         batch_size=pairs.batch_size, frozen_stages=args.frozen_stages, precision=args.precision,
                         correspondence=False)
    print(" step     loss  mask IoU  box IoU  probability  s/step  of a processor")
    now = learned(model, index)
    print(_line(0, now))
    training, begun = np.zeros(2), _clocks()
    for step in train(model, methods.get("efficientvis").losses(model, config), pairs, config):
        if step.step % args.every and step.step < args.steps:
            continue
        training += _clocks() - begun
        now = learned(model, index)
        each, of_processor = training / step.step
        print(f"{_line(step.step, now, step.losses['total'])} {each:7.2f} {of_processor:15.2f}", flush=True)
        if now.mask_iou > args.aim:
            break
        model.train()
        begun = _clocks()
    return now


def _clocks() -> np.ndarray:
    """Seconds on the clock, and of processor time."""
    return np.array([time.perf_counter(), time.process_time()])


def _line(step: int, now: Learned, loss: float | None = None) -> str:
    return (f"{step:5d} {'' if loss is None else f'{loss:.2f}':>8} {now.mask_iou:9.3f} {now.box_iou:8.3f} "
            f"{now.probability:12.3f}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overfit", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="frames and masks, e.g. ../shared/real/davis-mini/train")
    parser.add_argument("--sequence", action="append", metavar="NAME",
                        help=f"a clip to learn; may be given again (default: {' and '.join(SEQUENCES)})")
    parser.add_argument("--start", type=Path, metavar="FILE", help="weights to start from (default: random ones)")
    parser.add_argument("--backbone", choices=get_args(Backbone), default="resnet50", help="(default: resnet50)")
    parser.add_argument("--queries", type=int, default=10, help="(default: 10)")
    parser.add_argument("--iterations", type=int, default=3, help="M, query-video interactions (default: 3)")
    parser.add_argument("--hidden-dim", type=int, default=256, help="C, channels of a query (default: 256)")
    parser.add_argument("--frozen-stages", type=int, default=2, help="of the ResNet, with its stem (default: 2)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32",
                        help="of autocast; bf16 is faster where the processor has instructions for it (default: fp32)")
    parser.add_argument("--lr", type=float, default=2e-4, help="learning rate (default: 2e-4)")
    parser.add_argument("--warmup-steps", type=int, default=20, help="(default: 20)")
    parser.add_argument("--steps", type=int, default=200, help="the most steps to take (default: 200)")
    parser.add_argument("--drop-at", type=int, default=160, help="step from which on the rate is a tenth (default: 160)")
    parser.add_argument("--every", type=int, default=10, help="steps from one prediction to the next (default: 10)")
    parser.add_argument("--aim", type=float, default=0.8, help="mean mask IoU to exceed (default: 0.8)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    sequences = args.sequence or SEQUENCES
    with tempfile.TemporaryDirectory() as work:
        index = read_split(write_clips(args.folder, sequences, Path(work)))
        model = EfficientVIS(ModelConfig(
            num_classes=len(index.categories), clip_length=FRAMES, backbone=args.backbone, queries=args.queries,
            iterations=args.iterations, hidden_dim=args.hidden_dim))
        if args.start:
            model.load_initial(load_file(args.start))
        print(f"{args.backbone}, {'random weights' if args.start is None else args.start}, T={FRAMES}, {SIZE[0]}x{SIZE[1]}, "
              f"N={args.queries}, M={args.iterations}, C={args.hidden_dim}; {', '.join(sequences)}")
        started = time.perf_counter()
        reached = overfit(model, index, args)
    verdict = f"{'is above' if reached.mask_iou > args.aim else 'is not above'} {args.aim}"
    print(f"a mean mask IoU of {reached.mask_iou:.3f} {verdict}, after {(time.perf_counter() - started) / 60:.1f} min")
    return 0 if reached.mask_iou > args.aim else 1


if __name__ == "__main__":
    raise SystemExit(main())
