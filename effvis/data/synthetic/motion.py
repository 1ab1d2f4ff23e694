"""How the drawn shapes move: smooth, mostly slow paths that bounce off the frame's border; some are fast, some leave for
a while, some cross another shape's path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Pose:
    """Centres x, y and radius in pixels, angle in radians; (K,) each, for K times."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


@dataclass(frozen=True)
class Path2D:
    """Where a shape is at any time (in frames, fractions allowed)."""

    height: int
    width: int
    start: tuple[float, float]
    velocity: tuple[float, float]
    sway: tuple[float, float, float]
    radius: float
    pulsation: tuple[float, float, float]
    angle: float
    turning: float
    exit: tuple[float, float, float] | None
    """Centre and half length of the absence, length of the way out, in frames; it leaves by the nearer side."""

    def at(self, times_K: np.ndarray) -> Pose:
        size, rate, phase = self.pulsation
        radius_K = self.radius * (1 + size * np.sin(rate * times_K + phase))
        x_K, y_K = self._inside(times_K)
        if self.exit is not None:
            centre, half, way = self.exit
            gone_K = np.clip((half + way - np.abs(times_K - centre)) / way, 0, 1)
            gone_K = gone_K * gone_K * (3 - 2 * gone_K)
            beyond_K = 1.1 * radius_K + 2
            to_the_left = self._inside(np.array([centre]))[0][0] < self.width / 2
            outside_K = -beyond_K if to_the_left else self.width + beyond_K
            x_K = x_K + gone_K * (outside_K - x_K)
        return Pose(x_K, y_K, radius_K, self.angle + self.turning * times_K)

    def crossing(self, other: Path2D, time: float, offset: tuple[float, float]) -> Path2D:
        """This path, moved so that at ``time`` it is ``offset`` pixels away from the other one (ignoring exits)."""
        at = np.array([time])
        own_x, own_y = self._straight(at)
        x, y = other._inside(at)
        start = (self.start[0] + float(x[0] - own_x[0]) + offset[0], self.start[1] + float(y[0] - own_y[0]) + offset[1])
        return replace(self, start=start)

    def _straight(self, times_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The centres as if there were no border."""
        sway, rate, phase = self.sway
        waves_K = sway * np.sin(rate * times_K + phase)
        return (self.start[0] + self.velocity[0] * times_K - waves_K * np.sign(self.velocity[1]),
                self.start[1] + self.velocity[1] * times_K + waves_K * np.sign(self.velocity[0]))

    def _inside(self, times_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The centres as if the shape never left."""
        x_K, y_K = self._straight(times_K)
        return _bounce(x_K, self.radius, self.width - self.radius), _bounce(y_K, self.radius, self.height - self.radius)


def _bounce(position: np.ndarray, low: float, high: float) -> np.ndarray:
    """Folds a straight path into low..high, like that of a ball between two walls."""
    span = max(high - low, 1e-6)
    return low + span - np.abs((position - low) % (2 * span) - span)


def draw_paths(
    rng: np.random.Generator, *, crosses: Sequence[int | None], frames: int, height: int, width: int, exits: float,
    speed: float, change: float, min_radius: float, max_radius: float,
) -> list[Path2D]:
    """Paths through a video of ``frames`` frames.

    Args:
        crosses: for each shape the number of an earlier one whose path it crosses, or None.
        exits, speed, change: strengths in 0..1.
    """
    paths: list[Path2D] = []
    for other in crosses:
        path = _draw_path(rng, frames, height, width, exits, speed, change, min_radius, max_radius)
        time, pace = rng.uniform(0.2, 0.8) * frames, rng.uniform(1.5, 3.5)
        aside, turn, near = rng.uniform(0, 2 * np.pi), rng.uniform(-1, 1), rng.uniform(0.1, 0.6)
        if other is not None:
            # In the opposite direction, so that they pass each other within a few frames and do not stay together.
            heading = np.arctan2(-paths[other].velocity[1], -paths[other].velocity[0]) + turn
            away = near * (path.radius + paths[other].radius)
            path = replace(path, velocity=(pace * np.cos(heading), pace * np.sin(heading))).crossing(
                paths[other], time, (away * np.cos(aside), away * np.sin(aside)))
        paths.append(path)
    return paths


def _draw_path(rng: np.random.Generator, frames: int, height: int, width: int, exits: float, speed: float,
               change: float, min_radius: float, max_radius: float) -> Path2D:
    pulse = 0.35 * change * rng.uniform(0.2, 1)
    # The largest radius of the pulsation must still fit.
    radius = rng.uniform(min_radius, max_radius) / (1 + pulse)
    pace = rng.uniform(0.3, 1.3) + (rng.random() < speed) * rng.uniform(1, 2 + 4 * speed)
    heading = rng.uniform(0, 2 * np.pi)
    absence = (rng.uniform(0, 1) * frames, rng.uniform(0.5, 2.5), rng.uniform(2, 4))
    leaves = rng.random() < exits and frames > 1  # what has left a picture is not in it
    return Path2D(
        height=height, width=width,
        start=(rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)),
        velocity=(pace * np.cos(heading), pace * np.sin(heading)),
        sway=(rng.uniform(0, 3), rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi)),
        radius=radius, pulsation=(pulse, rng.uniform(0.3, 1.0), rng.uniform(0, 2 * np.pi)),
        angle=rng.uniform(0, 2 * np.pi), turning=rng.choice((-1, 1)) * rng.uniform(0.02, 0.05 + 0.4 * change),
        exit=absence if leaves else None)
