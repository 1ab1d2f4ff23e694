"""A method learns two drawn videos by heart, with the network, losses and linking of its rows, to a mask IoU above 0.8.

    python -m benchmarks.overfit_drawn --method masktrack_rcnn
    python -m benchmarks.overfit_drawn --method masktrack_rcnn -S masktrack_rcnn.model.backbone=resnet18 --steps 2000

The videos are drawn as params.yaml says. Every --every steps they are predicted as in an evaluation; an instance's tracklet is
the one that overlaps it most, and its IoU is over all frames of the video, as the benchmark's AP counts it. It ends when the
mean over the instances is above --aim, with exit code 0, or after --steps, with exit code 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from effvis.data.clips import ClipPairs
from effvis.data.dataset import DatasetIndex
from effvis.data.index import clip_index
from effvis.data.masks import tracklet_iou
from effvis.data.synthetic.shapes import write
from effvis.data.youtube_vis import read_split
from effvis.inference.predictor import Predictions
from effvis.methods import build_model
from effvis.training.loop import train
from pipeline import methods
from pipeline.settings.loading import load_params
from pipeline.settings.params import Params

VIDEOS = 2


def mean_iou(found: Predictions, index: DatasetIndex) -> float:
    """The mean IoU of each instance and the tracklet that overlaps it most."""
    best = []
    for track in index.tracks:
        video = index.videos[track.video_index].id
        overlaps = [tracklet_iou(result["segmentations"], track.rles)
                    for result in found.results if result["video_id"] == video]
        best.append(max(overlaps, default=0.0))
    return float(np.mean(best))


def overfit(params: Params, index: DatasetIndex, args: argparse.Namespace) -> float:
    """Trains, printing a line every so many steps, until the aim is reached or all steps are done; returns the mean IoU."""
    method, settings = methods.get(args.method), params.of_method(args.method)
    model = build_model(settings.model.resolve(len(index.categories), args.clip_length))
    config = method.train_config(settings, False).model_copy(update={
        "epochs": args.steps, "lr_drop_epoch": args.steps * 0.8, "batch_size": VIDEOS, "lr": args.lr})
    clip_length = model.config.clip_length
    pairs = ClipPairs(index, clip_index(index, clip_length), input_size=params.input_size_of(args.method), batch_size=VIDEOS,
                      seed=args.seed, clips_per_video=method.clips_per_video(config, clip_length, index.longest_video))
    inference, reached, began = params.inference_of(args.method), 0.0, time.process_time()
    print(" step     loss  mask IoU  processor seconds")
    for step in train(model, method.losses(model, config), pairs, config):
        if step.step % args.every and step.step < args.steps:
            continue
        reached = mean_iou(method.predict(model, index, inference, params.input_size_of(args.method), None), index)
        print(f"{step.step:5d} {step.losses['total']:8.2f} {reached:9.3f} {time.process_time() - began:18.1f}", flush=True)
        if reached > args.aim:
            break
        model.train()
    return reached


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overfit_drawn", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=methods.names(), default=methods.DEFAULT)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="(default: params.yaml)")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter; may be given again")
    parser.add_argument("--clip-length", type=int, default=3, help="T, of methods that see clips (default: 3)")
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate (default: 1e-3)")
    parser.add_argument("--steps", type=int, default=1000, help="the most steps to take (default: 1000)")
    parser.add_argument("--every", type=int, default=50, help="steps from one prediction to the next (default: 50)")
    parser.add_argument("--aim", type=float, default=0.8, help="mean mask IoU to exceed (default: 0.8)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    params = load_params(args.params, args.set)
    with tempfile.TemporaryDirectory() as work:
        few = {"train_videos": VIDEOS, "val_videos": 1, "test_videos": 0}
        write(params.shapes.model_copy(update=few), Path(work), workers=1)
        reached = overfit(params, read_split(Path(work) / "train"), args)
    print(f"a mean mask IoU of {reached:.3f} {'is above' if reached > args.aim else 'is not above'} {args.aim}")
    return 0 if reached > args.aim else 1


if __name__ == "__main__":
    raise SystemExit(main())
