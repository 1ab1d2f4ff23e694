"""Outlines of the drawn shapes, as distances.

Each function takes coordinates x, y (arrays of one shape, in radii, y downwards) and gives the distance to the outline
in radii: negative inside, positive outside, exact or slightly short outside corners. All fit into the unit circle and
cover similar areas, so that size does not tell the category. Some differ in one part only (a pacman is a circle without
a sector, a tee a cross without an arm): where that part is hidden, a single frame cannot tell them apart.
"""

from __future__ import annotations

import numpy as np


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.85


def pacman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A circle with a mouth of 80 degrees, to the right."""
    half = np.deg2rad(40)
    depth_in_mouth = x * np.sin(half) - np.abs(y) * np.cos(half)
    return np.maximum(np.hypot(x, y) - 0.85, depth_in_mouth)


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.7


def triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slanted = np.abs(x) * np.sqrt(0.75) - 0.5 * y
    return np.maximum(slanted, y) - 0.5


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five points; an edge runs from a tip at radius 1 to a notch at radius 0.45."""
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    radius = np.hypot(x, y)
    tip, notch = np.array([1.0, 0.0]), 0.45 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = notch - tip
    outward = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    return outward[0] * (radius * np.cos(angle) - tip[0]) + outward[1] * (radius * np.sin(angle) - tip[1])


def cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    wide = np.maximum(np.abs(x) - 0.92, np.abs(y) - 0.33)
    tall = np.maximum(np.abs(x) - 0.33, np.abs(y) - 0.92)
    return np.minimum(wide, tall)


def tee(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A cross without its upper arm."""
    return np.maximum(cross(x, y), -0.33 - y)


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.68) - 0.27


OUTLINES = {"circle": circle, "pacman": pacman, "square": square, "triangle": triangle, "star": star, "cross": cross,
            "tee": tee, "ring": ring}
