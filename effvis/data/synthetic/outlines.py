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


def dome(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The upper half of a disc."""
    return np.maximum(np.hypot(x, y - 0.4) - 0.9, y - 0.4)


def diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Longer than wide, so that no turn makes it a square."""
    wide, long = 0.62, 1.0
    return (np.abs(x) / wide + np.abs(y) / long - 1) / np.hypot(1 / wide, 1 / long)


def ellipse(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Half as wide as long. Its distance is the one to first order, which is exact at the outline."""
    wide, long = 0.5, 1.0
    level = np.hypot(x / wide, y / long)
    return (level - 1) * (level + 1e-9) / (np.hypot(x / wide**2, y / long**2) + 1e-9)


def crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A disc without a smaller one that lies over its right side."""
    return np.maximum(np.hypot(x, y) - 0.95, 0.62 - np.hypot(x - 0.5, y))


def arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """It points upwards: a head as long as its half width is, and a shaft below it."""
    head = np.maximum((np.abs(x) - y - 0.95) / np.sqrt(2), y + 0.05)
    shaft = np.maximum(np.abs(x) - 0.32, np.maximum(-0.5 - y, y - 0.9))
    return np.minimum(head, shaft)


def ell(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A standing bar with a foot to the right."""
    bar = np.maximum(np.abs(x + 0.32) - 0.3, np.abs(y) - 0.75)
    foot = np.maximum(np.abs(x) - 0.62, np.abs(y - 0.45) - 0.3)
    return np.minimum(bar, foot)


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Two discs side by side, and below them a wedge whose sides touch them."""
    x, aside, above, radius = np.abs(x), 0.38, 0.3, 0.48
    disc = np.hypot(x - aside, y + above) - radius
    side = (x - aside + y + above) / np.sqrt(2) - radius
    wedge = np.maximum(side, np.maximum((x - aside - y - above) / np.sqrt(2), -above - y))
    return np.minimum(disc, wedge)


OUTLINES = {"circle": circle, "pacman": pacman, "square": square, "triangle": triangle, "star": star, "cross": cross,
            "tee": tee, "ring": ring, "dome": dome, "diamond": diamond, "ellipse": ellipse, "crescent": crescent,
            "arrow": arrow, "ell": ell, "heart": heart}
