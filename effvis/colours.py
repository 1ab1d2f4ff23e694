"""Colours that stay apart: one per identity, and the ink that is legible on each."""

from __future__ import annotations

from functools import cache

import numpy as np

RGB = tuple[int, int, int]

COLOURS = 64
_STEPS = 16  # candidate values per channel
_LIGHTNESS, _CHROMA = (50, 92), 45  # neither lost in shadows or snow, nor grey as most of a photograph
_APART = 3.0  # successive colours differ so many times as much as others must
_FIRST = np.array([255.0, 97.0, 38.0])  # orange: far from grass, sky, tar and skin


def colour(identity: int) -> RGB:
    """The RGB colour of an identity (from 0). The first ``COLOURS`` differ, and the first few differ most; then they recur."""
    return _palette()[identity % COLOURS]


def ink(background: RGB) -> RGB:
    """Black or white, whichever contrasts more with a background: at least 4.5 to 1 as WCAG 2 counts."""
    luminance = float(_linear(np.array(background)) @ (0.2126, 0.7152, 0.0722))
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)


@cache
def _palette() -> tuple[RGB, ...]:
    """Bright colours, each as far as possible from all before it, most of all from the one before, in CIELAB's distances."""
    levels = np.linspace(0, 255, _STEPS).round()
    candidates_N3 = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    lab_N3 = _lab(candidates_N3)
    bright = (lab_N3[:, 0] > _LIGHTNESS[0]) & (lab_N3[:, 0] < _LIGHTNESS[1]) & (np.hypot(*lab_N3[:, 1:].T) > _CHROMA)
    candidates_N3, lab_N3 = candidates_N3[bright], lab_N3[bright]
    chosen = [int(np.linalg.norm(lab_N3 - _lab(_FIRST), axis=1).argmin())]
    nearest_N = np.full(len(lab_N3), np.inf)
    while len(chosen) < COLOURS:
        previous_N = np.linalg.norm(lab_N3 - lab_N3[chosen[-1]], axis=1)
        nearest_N = np.minimum(nearest_N, previous_N)
        chosen.append(int(np.minimum(nearest_N, previous_N / _APART).argmax()))
    return tuple(tuple(map(int, candidates_N3[i])) for i in chosen)


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) from 0 to 255 as light, from 0 to 1."""
    share = rgb / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) from 0 to 255 in CIELAB, white point D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = _linear(rgb) @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
