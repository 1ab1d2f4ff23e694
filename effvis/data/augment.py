"""Training augmentation: pure functions of a random generator, frames and targets.

Random choices are made once for both clips of a pair, so that an object in both looks alike in them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.data.sizes import InputSize, frame_size
from effvis.data.targets import ClipTargets

# Every second sample is cropped, as in the code that the paper builds on.
CROP_PROBABILITY = 0.5
# Shares of red, green and blue in a pixel's grey: ITU-R BT.601, as in Pillow.
GREY = (0.299, 0.587, 0.114)


def draw_window(rng: np.random.Generator, size: tuple[int, int], share: tuple[float, float]) -> tuple[int, int, int, int]:
    """The window (top, left, height, width) in pixels of a random crop; with probability one half it is the whole frame.

    Args:
        size: (height, width) of the frames.
        share: least and largest share of each side, drawn for each side separately.
    """
    if rng.random() >= CROP_PROBABILITY:
        return 0, 0, *size
    height, width = (max(1, round(side * rng.uniform(*share))) for side in size)
    top, left = int(rng.integers(0, size[0] - height + 1)), int(rng.integers(0, size[1] - width + 1))
    return top, left, height, width


def mirror(frames_TCHW: Tensor, targets: ClipTargets) -> tuple[Tensor, ClipTargets]:
    """Mirrors a clip and its targets: left becomes right."""
    width = targets.masks_KTHW.shape[-1]
    x0, y0, x1, y1 = targets.boxes_KT4.unbind(-1)
    boxes = torch.stack((width - x1, y0, width - x0, y1), dim=-1) * targets.present_KT.unsqueeze(-1)
    return frames_TCHW.flip(-1), ClipTargets(
        targets.track_ids_K, targets.labels_K, targets.present_KT, boxes, targets.masks_KTHW.flip(-1), targets.real_T)


def draw_factors(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    """Factors of brightness, contrast and saturation, each from 1 - strength to 1 + strength."""
    return tuple(rng.uniform(1 - strength, 1 + strength, 3).tolist())


def recolour(frames_TCHW: Tensor, factors: tuple[float, float, float]) -> Tensor:
    """Multiplies brightness, then contrast (the distance from the frame's mean grey), then saturation (from the pixel's grey).

    Args:
        frames_TCHW: uint8 frames.
    """
    brightness, contrast, saturation = factors
    frames = frames_TCHW.float() * brightness
    frames = torch.lerp(_grey(frames).mean(dim=(-2, -1), keepdim=True), frames, contrast)
    frames = torch.lerp(_grey(frames), frames, saturation)
    return frames.round_().clamp_(0, 255).to(torch.uint8)


def crop(
    frames_TCHW: Tensor, targets: ClipTargets, window: tuple[int, int, int, int], input_size: InputSize
) -> tuple[Tensor, ClipTargets]:
    """Cuts out a window (top, left, height, width) and resizes it bilinearly, as a video of the window's size would be.

    A box becomes the bounds of what is left of its mask. An instance with no pixel left in a frame is absent there; an
    instance that is absent in all frames leaves the targets. The whole frame as a window changes nothing.

    Args:
        frames_TCHW: uint8 frames.
    """
    top, left, height, width = window
    if (height, width) == targets.size:
        return frames_TCHW, targets
    size = frame_size(input_size, height, width)
    part = (..., slice(top, top + height), slice(left, left + width))
    frames = _resized(frames_TCHW[part].float(), size).round().clamp(0, 255).to(torch.uint8)
    masks = targets.masks_KTHW[part]
    masks = _resized(masks.float(), size) >= 0.5 if len(masks) else masks.new_zeros(*masks.shape[:2], *size)
    masks &= targets.present_KT[..., None, None]
    present = masks.flatten(2).any(dim=-1)
    left_KT, right_KT = _bounds(masks.any(dim=-2))
    top_KT, bottom_KT = _bounds(masks.any(dim=-1))
    boxes = torch.stack((left_KT, top_KT, right_KT, bottom_KT), dim=-1).float() * present.unsqueeze(-1)
    seen = present.any(dim=-1)
    return frames, ClipTargets(
        targets.track_ids_K[seen], targets.labels_K[seen], present[seen], boxes[seen], masks[seen], targets.real_T)


def _grey(frames_TCHW: Tensor) -> Tensor:
    red, green, blue = frames_TCHW.unbind(-3)
    return (red * GREY[0] + green * GREY[1] + blue * GREY[2]).unsqueeze(-3)


def _resized(x_XYHW: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x_XYHW, size=size, mode="bilinear", align_corners=False)


def _bounds(occupied_KTL: Tensor) -> tuple[Tensor, Tensor]:
    """The first occupied place along the last axis and the one after the last."""
    occupied = occupied_KTL.to(torch.uint8)
    return occupied.argmax(dim=-1), occupied.shape[-1] - occupied.flip(-1).argmax(dim=-1)
