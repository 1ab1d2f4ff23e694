"""Bars and posts in front of the drawn shapes: they hide instances but are not instances themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from effvis.data.synthetic.appearance import rgb
from effvis.data.synthetic.motion import Path2D

MOST_BARS = 2
"""Passing bars per video, at most."""


@dataclass(frozen=True)
class Bar:
    """A straight band across the whole frame that moves along its normal; a post is one that stands still.

    Attributes:
        angle: the direction of its normal, in radians.
        centre: where its middle is at frame 0, in pixels along the normal; it moves by ``speed`` a frame.
        width: in pixels.
        colour_3: RGB in 0..1.
    """

    angle: float
    centre: float
    speed: float
    width: float
    colour_3: np.ndarray

    def cover(self, frames: int, height: int, width: int) -> np.ndarray:
        """The share of each pixel that the bar covers, (L, H, W)."""
        along_HW = ((np.arange(width) + 0.5) * np.cos(self.angle)
                    + (np.arange(height)[:, None] + 0.5) * np.sin(self.angle))
        middle_L = self.centre + self.speed * np.arange(frames)
        return np.clip(0.5 + self.width / 2 - np.abs(along_HW - middle_L[:, None, None]), 0, 1)


def draw_bars(rng: np.random.Generator, paths: Sequence[Path2D], frames: int, strength: float) -> list[Bar]:
    """Draws bars, each over one of the shapes. At strength 1: two bars that pass by, and in half of the videos a post."""
    bars = []
    for _ in range(rng.binomial(MOST_BARS, strength)):
        path = paths[rng.integers(len(paths))]
        width = path.radius * rng.uniform(1.0, 3.0)
        # It moves by its own width plus the shape's radius within one to two and a half frames.
        speed = (width + path.radius) / rng.uniform(1.0, 2.5)
        bars.append(_bar_over(rng, path, frames, width=width, speed=speed, angle=rng.uniform(0, 2 * np.pi)))
    if rng.random() < 0.5 * strength:
        path = paths[rng.integers(len(paths))]
        width = path.radius * rng.uniform(0.4, 0.8)
        bars.append(_bar_over(rng, path, frames, width=width, speed=0.0, angle=rng.uniform(-0.3, 0.3)))
    return bars


def _bar_over(rng: np.random.Generator, path: Path2D, frames: int, *, width: float, speed: float, angle: float) -> Bar:
    """A bar whose middle is on the shape's centre at some time of the video."""
    time = rng.uniform(0.1, 0.9) * frames
    pose = path.at(np.array([time]))
    there = float(pose.x[0] * np.cos(angle) + pose.y[0] * np.sin(angle))
    colour_3 = rgb(*(np.array(value) for value in (rng.uniform(), rng.uniform(0, 0.35), rng.uniform(0.3, 0.75))))
    return Bar(angle, there - speed * time, speed, width, colour_3)
