"""Peak memory when predicting one long video with the paper's profile: frames in, tracklets as run lengths out.

    python -m benchmarks.memory --frames 600
    python -m benchmarks.memory --method vistr --frames 36 --height 300 --width 540

This is the worst case: every tracklet is present in every frame, and its mask is noise, which makes the longest run lengths.
Weights are random; the frames are also noise, written as JPEGs one by one. The peak is that of the whole process (ru_maxrss),
so each measurement needs a fresh one.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from effvis.config import InferenceConfig, ModelConfig
from effvis.data.clips import FrameReader, clip_frames
from effvis.data.dataset import Category, DatasetIndex, Video
from effvis.inference import handcraft, predictor
from effvis.inference.tracklets import best_results
from effvis.model.efficientvis import EfficientVIS
from effvis.model.resnet import ResNet
from effvis.vistr import clip as vistr_clip
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR

PROFILE = Path(__file__).resolve().parents[1] / "experiments" / "profiles" / "paper.yaml"
CLASSES, CLIP_LENGTH = 40, 36  # YouTube-VIS, and the paper's T on it.
Watch = Callable[[nn.Module], nn.Module]


def peak_bytes() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def noise(module: nn.Module, inputs: tuple, logits: torch.Tensor) -> torch.Tensor:
    """Replaces the output of a mask head."""
    return torch.randn_like(logits)


def noise_video(folder: Path, frames: int, height: int, width: int) -> DatasetIndex:
    """A split of one video of blotches that are 8 pixels wide."""
    rng = np.random.default_rng(0)
    names = tuple(f"{frame:05d}.jpg" for frame in range(frames))
    for name in names:
        blotches = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(blotches).resize((width, height), Image.Resampling.BILINEAR).save(folder / name)
    categories = tuple(Category(number, f"category {number}") for number in range(1, CLASSES + 1))
    return DatasetIndex(folder, "", categories, (Video(1, height, width, 6.0, names),), ())


def efficientvis_results(index: DatasetIndex, inference: InferenceConfig, watch: Watch) -> list[dict]:
    """Results of EfficientVIS, by the same path as every evaluation's."""
    profile = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))
    model = watch(EfficientVIS(ModelConfig(**profile["model"], num_classes=CLASSES, clip_length=CLIP_LENGTH)))
    model.mask_heads[-1].register_forward_hook(noise)
    video = index.videos[0]
    return predictor.predict_split(model, index, inference, input_size=(video.height, video.width)).results


def vistr_results(index: DatasetIndex, inference: InferenceConfig, watch: Watch) -> list[dict]:
    """Results of VisTR clip by clip, linked by hand-crafted matching."""
    body = ResNet("resnet50")
    model = watch(VisTR(VisTRConfig(num_classes=CLASSES, clip_length=CLIP_LENGTH), body, body.channels)).eval()
    model.sequence_masks.register_forward_hook(noise)
    video = index.videos[0]
    size = (video.height, video.width)
    reader = FrameReader(index, size, cache_bytes=0)
    clips = []
    for start in range(0, video.length, CLIP_LENGTH):
        pixels = reader.clip(0, clip_frames(start, CLIP_LENGTH, video.length))
        frames = list(range(start, min(start + CLIP_LENGTH, video.length)))
        clips.append((frames, vistr_clip.predict_clip(model, pixels, size, inference)))
    tracklets = handcraft.link(clips, size, inference.handcraft.model_copy(update={"score_threshold": 0.0}))
    return best_results(tracklets, video_id=1, category_ids=[category.id for category in index.categories],
                        length=video.length, most=inference.max_tracklets)


METHODS = {"efficientvis": efficientvis_results, "vistr": vistr_results}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=METHODS, default="efficientvis")
    parser.add_argument("--frames", type=int, default=72, help="frames of the video (default: 72, two clips)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    args = parser.parse_args()

    began, clips = time.monotonic(), 0

    def report(*_) -> None:
        nonlocal clips
        clips += 1
        print(f"clip {clips}: peak {peak_bytes() / 1e9:.3f} GB, {time.monotonic() - began:.0f} s", flush=True)

    def watch(model: nn.Module) -> nn.Module:
        print(f"network: peak {peak_bytes() / 1e9:.3f} GB", flush=True)
        model.register_forward_hook(report)
        return model

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        index = noise_video(Path(folder), args.frames, args.height, args.width)
        results = METHODS[args.method](index, InferenceConfig(presence_threshold=0.0), watch)
    masks = {id(rle): rle for result in results for rle in result["segmentations"] if rle is not None}
    letters = sum(len(rle["counts"]) for rle in masks.values())
    print(f"{args.method}, {args.frames} frames of {args.height}x{args.width}: peak {peak_bytes() / 1e9:.3f} GB, "
          f"{time.monotonic() - began:.0f} s; {len(masks)} masks in the results, {letters / 1e6:.1f} MB of run lengths")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
