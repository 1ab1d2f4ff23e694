"""What the drawn videos look like: colours and surfaces of the shapes, the background behind them, the light.

Arrays are indexed by N shapes, L frames, H rows and W columns; colours are RGB in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Surface:
    """Brightness of a shape's surface, in its own turning coordinates: from 1 down to 1 - ``depth``.

    Args:
        kind: of ``SURFACES``.
    """

    def __init__(self, rng: np.random.Generator, strength: float, kind: str = "stripes"):
        self.kind = kind
        self.direction = rng.uniform(0, np.pi)
        self.frequency = rng.uniform(2.5, 5.0)  # radians per radius / 1.3
        self.phase = rng.uniform(0, 2 * np.pi)
        self.depth = 0.5 * strength

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = x * np.cos(self.direction) + y * np.sin(self.direction)
        across = y * np.cos(self.direction) - x * np.sin(self.direction)
        return 1 - self.depth * SURFACES[self.kind](along, across, 1.3 * self.frequency, self.phase)


def _stripes(along: np.ndarray, across: np.ndarray, rate: float, phase: float) -> np.ndarray:
    return 0.5 + 0.5 * np.sin(rate * along + phase)


def _dots(along: np.ndarray, across: np.ndarray, rate: float, phase: float) -> np.ndarray:
    """Dark dots in a square grid, about a third of the surface."""
    return np.clip(0.5 + 1.5 * (np.sin(rate * along + phase) * np.sin(rate * across + phase) - 0.3), 0, 1)


def _checks(along: np.ndarray, across: np.ndarray, rate: float, phase: float) -> np.ndarray:
    """Dark and bright squares side by side."""
    return np.clip(0.5 + 3 * np.sin(0.7 * rate * along + phase) * np.sin(0.7 * rate * across), 0, 1)


def _gradient(along: np.ndarray, across: np.ndarray, rate: float, phase: float) -> np.ndarray:
    """Ever darker from one side to the other; it has no rate."""
    return np.clip(0.5 + 0.5 * (along if phase < np.pi else -along), 0, 1)


SURFACES = {"stripes": _stripes, "dots": _dots, "checks": _checks, "gradient": _gradient}


def draw_surfaces(
    rng: np.random.Generator, twin_of: Sequence[int | None], strength: float, kinds: Sequence[str] = ("stripes",)
) -> list[Surface]:
    """Each shape's surface, of one of the kinds; a twin has that of the shape that it resembles."""
    surfaces: list[Surface] = []
    for twin in twin_of:
        # A single kind is not drawn: what is random in data sets of stripes alone stays what it was.
        own = Surface(rng, strength, kinds[0] if len(kinds) == 1 else kinds[rng.integers(len(kinds))])
        surfaces.append(own if twin is None else surfaces[twin])
    return surfaces


def draw_colours(
    rng: np.random.Generator, twin_of: Sequence[int | None], frames: int, change: float,
    saturation: tuple[float, float] = (0.7, 1.0), brightness: tuple[float, float] = (0.85, 1.0),
) -> np.ndarray:
    """Colours (N, L, 3), with hues evenly spaced over the shapes of a video, whatever their categories.

    ``change`` makes hues drift by up to half a turn over the video, so that one shape may end where another began, and
    makes brightness flicker from frame to frame.

    Args:
        twin_of: for each shape the number of an earlier one that it resembles, or None.
        saturation, brightness: least and largest, before a frame is dimmed.
    """
    count = len(twin_of)
    hue_N = rng.uniform() + (rng.permutation(count) + rng.uniform(-0.1, 0.1, count)) / count
    drift_N = change * rng.uniform(-0.5, 0.5, count)
    saturation_N, value_N = rng.uniform(*saturation, count), rng.uniform(*brightness, count)
    dimming_NL = 0.5 * change * rng.random((count, frames))
    off_N = rng.uniform(-0.015, 0.015, count)
    for n, twin in enumerate(twin_of):
        if twin is not None:
            hue_N[n], drift_N[n] = hue_N[twin] + off_N[n], drift_N[twin]
            saturation_N[n], value_N[n] = saturation_N[twin], value_N[twin]
    time_L = np.linspace(0, 1, frames)
    return rgb(hue_N[:, None] + drift_N[:, None] * time_L, saturation_N[:, None], value_N[:, None] * (1 - dimming_NL))


def draw_light(rng: np.random.Generator, frames: int, change: float) -> np.ndarray:
    """Brightness (L,) of the whole frame."""
    return 1 - 0.35 * change * rng.random(frames)


def draw_background(rng: np.random.Generator, height: int, width: int, clutter: float) -> np.ndarray:
    """A dim, nearly grey background (H, W, 3) with large and small blotches."""
    tint_3 = rgb(*(np.array(value) for value in (rng.uniform(), rng.uniform(0, 0.4), rng.uniform(0.15, 0.28))))
    large_HW = _smooth_noise(rng, height, width, cell=24)
    small_HW3 = np.stack([_smooth_noise(rng, height, width, cell=6) for _ in range(3)], axis=-1)
    contrast = 0.15 + 0.5 * clutter
    return tint_3 * (1 + contrast * large_HW[..., None]) + 0.12 * clutter * small_HW3


def rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV (hue in turns) to RGB on a new last axis."""
    wave = np.abs((hue[..., None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return value[..., None] * (1 - saturation[..., None] * (1 - np.clip(wave, 0, 1)))


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    """Noise (H, W) in -1..1 that changes over ``cell`` pixels."""
    def blend(size: int) -> np.ndarray:
        nodes = size // cell + 2
        away = np.abs(np.arange(size)[:, None] / cell - np.arange(nodes))
        return np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * away), 0)

    down, across = blend(height), blend(width)
    return down @ rng.uniform(-1, 1, (down.shape[1], across.shape[1])) @ across.T
