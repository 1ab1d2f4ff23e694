"""How the drawn shapes move: smooth paths that bounce off the frame's border, some fast, some leaving for a while."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CANDIDATES = 12
"""Sets of paths drawn per video, of which the one whose crossings are nearest to the wanted strength is taken."""


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
    exit: tuple[float, float, float, int] | None
    """Centre and half length of the absence, length of the way out, in frames; side -1 (left) or 1 (right)."""

    def at(self, times_K: np.ndarray) -> Pose:
        size, rate, phase = self.pulsation
        radius_K = self.radius * (1 + size * np.sin(rate * times_K + phase))
        sway, sway_rate, sway_phase = self.sway
        waves_K = sway * np.sin(sway_rate * times_K + sway_phase)
        x_K = _bounce(self.start[0] + self.velocity[0] * times_K - waves_K * np.sign(self.velocity[1]),
                      self.radius, self.width - self.radius)
        y_K = _bounce(self.start[1] + self.velocity[1] * times_K + waves_K * np.sign(self.velocity[0]),
                      self.radius, self.height - self.radius)
        if self.exit is not None:
            centre, half, way, side = self.exit
            gone_K = np.clip((half + way - np.abs(times_K - centre)) / way, 0, 1)
            gone_K = gone_K * gone_K * (3 - 2 * gone_K)
            beyond_K = 1.1 * radius_K + 2
            outside_K = -beyond_K if side < 0 else self.width + beyond_K
            x_K = x_K + gone_K * (outside_K - x_K)
        return Pose(x_K, y_K, radius_K, self.angle + self.turning * times_K)


def _bounce(position: np.ndarray, low: float, high: float) -> np.ndarray:
    """Folds a straight path into low..high, as a ball between two walls."""
    span = max(high - low, 1e-6)
    return low + span - np.abs((position - low) % (2 * span) - span)


def draw_paths(
    rng: np.random.Generator, *, count: int, frames: int, height: int, width: int, occlusion: float, exits: float,
    speed: float, change: float, min_radius: float, max_radius: float,
) -> list[Path2D]:
    """``count`` paths through a video of ``frames`` frames, the farthest shape first. Strengths are in 0..1."""
    candidates = [
        [_draw_path(rng, frames, height, width, exits, speed, change, min_radius, max_radius) for _ in range(count)]
        for _ in range(CANDIDATES)
    ]
    # At full strength, two shapes of a video overlap in half of the frames.
    wanted = 0.5 * occlusion
    return min(candidates, key=lambda paths: abs(_crossing(paths, frames) - wanted))


def _crossing(paths: list[Path2D], frames: int) -> float:
    """Share of the frames in which some two shapes overlap by a good part."""
    poses = [path.at(np.arange(frames)) for path in paths]
    overlap_L = np.zeros(frames, bool)
    for i, a in enumerate(poses):
        for b in poses[:i]:
            overlap_L |= np.hypot(a.x - b.x, a.y - b.y) < 0.65 * (a.radius + b.radius)
    return float(overlap_L.mean())


def _draw_path(rng: np.random.Generator, frames: int, height: int, width: int, exits: float, speed: float,
               change: float, min_radius: float, max_radius: float) -> Path2D:
    pulse = 0.25 * change * rng.uniform(0.2, 1)
    # The largest size of the pulsation must still fit.
    radius = rng.uniform(min_radius, max_radius) / (1 + pulse)
    pace = rng.uniform(0.5, 1.8) + (rng.random() < speed) * rng.uniform(1, 2 + 4 * speed)
    heading = rng.uniform(0, 2 * np.pi)
    way = rng.uniform(4, 7)
    absence = (rng.uniform(-0.1, 1.1) * frames, rng.uniform(1, 4), way, int(rng.choice((-1, 1))))
    leaves = rng.random() < exits
    return Path2D(
        height=height, width=width,
        start=(rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)),
        velocity=(pace * np.cos(heading), pace * np.sin(heading)),
        sway=(rng.uniform(0, 4), rng.uniform(0.15, 0.5), rng.uniform(0, 2 * np.pi)),
        radius=radius, pulsation=(pulse, rng.uniform(0.2, 0.6), rng.uniform(0, 2 * np.pi)),
        angle=rng.uniform(0, 2 * np.pi), turning=rng.choice((-1, 1)) * rng.uniform(0.02, 0.05 + 0.25 * change),
        exit=absence if leaves else None)
