"""Frames that lose their content: in a single frame one shape, or all of them, can be found but not read.

The frames before and after show the content. Only the pixels lose it: the ground truth stays what was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effvis.data.synthetic.motion import Path2D

LOSSES = ("blur", "blocks", "dark")
SENSOR_NOISE = 0.03
REACH = 1.5
"""A loss around one shape reaches so many radii."""


@dataclass(frozen=True)
class Losses:
    """Which frames lose what.

    Attributes:
        whole_L: whether the whole frame is degraded.
        around_NL: whether the surroundings of shape n are degraded in that frame.
        kind_L: index into ``LOSSES``, in every frame where anything is degraded.
    """

    whole_L: np.ndarray
    around_NL: np.ndarray
    kind_L: np.ndarray

    @property
    def degraded_NL(self) -> np.ndarray:
        """Whether shape n cannot be read in a frame."""
        return self.around_NL | self.whole_L

    def weights(self, paths: Sequence[Path2D], height: int, width: int) -> np.ndarray:
        """The share of each pixel that is degraded, (L, H, W)."""
        frames = len(self.whole_L)
        weight_LHW = np.repeat(self.whole_L[:, None, None].astype(float), height, axis=1).repeat(width, axis=2)
        across_W, down_H = np.arange(width) + 0.5, np.arange(height) + 0.5
        for path, around_L in zip(paths, self.around_NL, strict=True):
            pose = path.at(np.arange(frames)[around_L])
            away_KHW = np.hypot(across_W - pose.x[:, None, None], down_H[:, None] - pose.y[:, None, None])
            near_KHW = np.clip(0.5 + (REACH * pose.radius[:, None, None] - away_KHW) / 4, 0, 1)
            weight_LHW[around_L] = np.maximum(weight_LHW[around_L], near_KHW)
        return weight_LHW


def draw_losses(rng: np.random.Generator, count: int, frames: int, strength: float) -> Losses:
    """Draws the losses. At strength 1 a quarter of the frames are lost as a whole, and each shape is lost in one frame in
    five besides; no shape is lost in two frames in a row."""
    whole_L = _never_twice(rng.random((1, frames)) < 0.33 * strength, np.zeros(frames, bool))[0]
    beside_L = whole_L.copy()
    beside_L[1:] |= whole_L[:-1]
    beside_L[:-1] |= whole_L[1:]
    around_NL = _never_twice(rng.random((count, frames)) < 0.8 * strength, beside_L)
    return Losses(whole_L, around_NL, rng.integers(len(LOSSES), size=frames))


def _never_twice(wanted_NL: np.ndarray, forbidden_L: np.ndarray) -> np.ndarray:
    """The wanted frames without the forbidden ones and without those that directly follow a kept one."""
    kept_NL = wanted_NL & ~forbidden_L
    for frame in range(1, kept_NL.shape[1]):
        kept_NL[:, frame] &= ~kept_NL[:, frame - 1]
    return kept_NL


def degrade(
    rng: np.random.Generator, frames_LHW3: np.ndarray, weight_LHW: np.ndarray, kind_L: np.ndarray, size: float
) -> None:
    """Degrades frames in place, each pixel by its share in ``weight_LHW``.

    Args:
        size: radius of a large shape, in pixels; the sizes of blur and blocks follow from it.
    """
    for frame in np.flatnonzero(weight_LHW.any(axis=(1, 2))):
        clean_HW3 = frames_LHW3[frame]
        lost_HW3 = _DEGRADE[LOSSES[kind_L[frame]]](rng, clean_HW3, size)
        lost_HW3 = lost_HW3 + rng.normal(0, SENSOR_NOISE, clean_HW3.shape)
        frames_LHW3[frame] += weight_LHW[frame, ..., None] * (lost_HW3 - clean_HW3)


def add_grain(rng: np.random.Generator, frames_LHW3: np.ndarray, strength: float) -> None:
    """Adds noise in place that differs in each frame: dots of two pixels, stronger in some videos than in others."""
    frames, height, width, _ = frames_LHW3.shape
    amount = 0.3 * strength * rng.uniform(0.3, 1)
    dots = rng.normal(0, amount, (frames, (height + 1) // 2, (width + 1) // 2, 3))
    frames_LHW3 += dots.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]


def _blur(rng: np.random.Generator, frame_HW3: np.ndarray, size: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter  # half a second, which every command would wait for

    return gaussian_filter(frame_HW3, sigma=(0.4 * size, 0.4 * size, 0), mode="nearest")


def _blocks(rng: np.random.Generator, frame_HW3: np.ndarray, size: float) -> np.ndarray:
    """Blocks of wrong colour, as in a damaged stream."""
    height, width, _ = frame_HW3.shape
    side = max(1, round(size / 4))
    wrong = rng.uniform(0, 0.9, (-(-height // side), -(-width // side), 3))
    return 0.4 * frame_HW3 + 0.6 * wrong.repeat(side, axis=0).repeat(side, axis=1)[:height, :width]


def _dark(rng: np.random.Generator, frame_HW3: np.ndarray, size: float) -> np.ndarray:
    return 0.2 * frame_HW3


_DEGRADE = {"blur": _blur, "blocks": _blocks, "dark": _dark}
