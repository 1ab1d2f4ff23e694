"""A small CrossVIS learns two drawn videos by heart, to a mean mask IoU of its tracklets above 0.8.

    python -m benchmarks.crossvis_overfit
    python -m benchmarks.crossvis_overfit --steps 1000 --aim 0.9

The videos have 32x48 pixels and eight frames; each step trains on a pair of frames of each, with the project's loop and losses.
Every --every steps both videos are followed as in an evaluation; an instance's tracklet is the one of its class whose masks
overlap it most, and its IoU is the mean over the frames in which the instance is visible. The benchmark ends when the mean over
all instances is above --aim, with exit code 0, or after --steps, with exit code 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as coco_mask

from effvis.crossvis.config import CrossVISConfig, CrossVISInference, CrossVISOptimisationConfig
from effvis.crossvis.losses import pair_losses
from effvis.crossvis.model import CrossVIS
from effvis.crossvis.track import predict_split
from effvis.data.clips import ClipPairs
from effvis.data.dataset import DatasetIndex, Track
from effvis.data.index import clip_index
from effvis.data.synthetic import shapes
from effvis.data.youtube_vis import read_split
from effvis.training.loop import train

SIZE = 32, 48
NETWORK = CrossVISConfig(
    num_classes=6, backbone="tiny", hidden_dim=32, coarser_levels=0, tower_convs=1, norm_groups=4, size_per_stride=4,
    mask_branch_dim=32, mask_branch_convs=1, embedding_dim=16, identities=8, norm="group")


def two_videos(folder: Path) -> DatasetIndex:
    """Draws two videos, and reads them."""
    config = shapes.ShapesConfig(
        train_videos=2, val_videos=1, frames=8, height=SIZE[0], width=SIZE[1], min_radius=7, max_radius=10, max_objects=2,
        occluders=0, degradation=0, grain=0, exits=0)
    shapes.write(config, folder, workers=1)
    return read_split(folder / "train")


def mask_iou(model: CrossVIS, index: DatasetIndex) -> float:
    """The mean over all instances of their best tracklet's."""
    found = predict_split(model, index, CrossVISInference(presence_threshold=0.2), input_size=SIZE).results
    return float(np.mean([_best(track, found, index) for track in index.tracks]))


def _best(track: Track, results: list[dict], index: DatasetIndex) -> float:
    seen = np.flatnonzero(track.present_L)
    wanted = index.videos[track.video_index].id, index.categories[track.label].id
    own = [result["segmentations"] for result in results if (result["video_id"], result["category_id"]) == wanted]
    return max((float(np.mean([_overlap(masks[frame], track.rles[frame]) for frame in seen])) for masks in own), default=0.0)


def _overlap(mask: dict | None, truth: dict) -> float:
    return 0.0 if mask is None else float(coco_mask.iou([mask], [truth], [0])[0, 0])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--aim", type=float, default=0.8)
    parser.add_argument("--lr", type=float, default=3e-3)
    args = parser.parse_args(argv)

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        index = two_videos(Path(folder) / "videos")
        model = CrossVIS(NETWORK)
        pairs = ClipPairs(index, clip_index(index, 1), input_size=SIZE, batch_size=2, seed=0)
        config = CrossVISOptimisationConfig(
            epochs=args.steps, batch_size=2, lr=args.lr, backbone_lr=None, lr_drop_epoch=0.6 * args.steps, clip_norm=10.0)
        reached = 0.0
        for step in train(model, partial(pair_losses, model, weights=config.loss), pairs, config):
            if step.step % args.every == 0 or step.step == step.total_steps:
                reached = mask_iou(model, index)
                model.train()
                losses = ", ".join(f"{name} {loss:.3f}" for name, loss in step.losses.items())
                print(f"step {step.step}: mask IoU {reached:.3f}, {losses}; {time.process_time():.0f} s", flush=True)
                if reached > args.aim:
                    return 0
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
