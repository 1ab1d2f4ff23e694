"""Texts beside objects: sized to the picture, inside it, and not over each other as long as there is room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from effvis.colours import RGB, ink

SMALLEST, LEAST_SQUEEZED = 11, 6  # pixels
LINES = 40  # of text, that the shorter side of a picture holds if it is large
MARGIN = 2  # pixels of a label around its text

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A text, the colour behind it, and the box (xyxy in pixels of the picture) of the object that it names."""

    text: str
    background: RGB
    box: Box


def draw_labels(picture: Image.Image, labels: Sequence[Label]) -> None:
    """Draws labels onto a picture."""
    size = max(SMALLEST, min(picture.size) // LINES)
    fonts = [_fitting(label.text, size, picture.width - 2 * MARGIN) for label in labels]
    sizes = [_size(label.text, font) for label, font in zip(labels, fonts, strict=True)]
    places = place(sizes, [label.box for label in labels], picture.size)
    pen = ImageDraw.Draw(picture)
    for label, font, (width, height), (x, y) in zip(labels, fonts, sizes, places, strict=True):
        pen.rectangle((x, y, x + width - 1, y + height - 1), fill=label.background)
        pen.text((x + MARGIN, y + MARGIN), label.text, fill=ink(label.background), font=font)


def place(sizes: Sequence[tuple[int, int]], boxes: Sequence[Box], picture: tuple[int, int]) -> list[tuple[int, int]]:
    """Upper left corners for labels, one after the other, each where it covers least of those before it.

    Best is above the object's box, then in its upper left corner, then below it, then what is nearest to the first.

    Args:
        sizes: (width, height) of each label.
        boxes: xyxy of the object that each names.
        picture: (width, height). A label as large as the picture or larger begins at its edge.
    """
    taken_N4 = np.zeros((0, 4))
    places = []
    for (width, height), box in zip(sizes, boxes, strict=True):
        x0, y0, _, y1 = box
        room = max(0, picture[0] - width), max(0, picture[1] - height)
        x, y, covered = _freest(np.array([(x0, y0 - height), (x0, y0), (x0, y1)]), width, height, room, taken_N4)
        if covered:
            grid_P2 = _grid(max(1, width // 2), height, *room)
            # A line is read along: a step aside costs less than one up or down.
            distance_P = np.abs((grid_P2 - (x0, y0 - height)) / (2, 1)).sum(axis=1)
            x, y, _ = _freest(grid_P2[distance_P.argsort(kind="stable")], width, height, room, taken_N4)
        places.append((x, y))
        taken_N4 = np.vstack([taken_N4, (x, y, x + width, y + height)])
    return places


@cache
def _grid(step_x: int, step_y: int, right: int, bottom: int) -> np.ndarray:
    """(P, 2) corners all over a picture."""
    return np.array([(x, y) for y in range(0, bottom + 1, step_y) for x in range(0, right + 1, step_x)])


def _freest(
    corners_P2: np.ndarray, width: int, height: int, room: tuple[int, int], taken_N4: np.ndarray,
) -> tuple[int, int, float]:
    """The first corner, moved into the room there is, at which a label covers least of the taken boxes, and how much."""
    corners_P2 = np.clip(corners_P2.round(), 0, room)
    low_PN2 = np.maximum(corners_P2[:, None], taken_N4[None, :, :2])
    high_PN2 = np.minimum(corners_P2[:, None] + (width, height), taken_N4[None, :, 2:])
    covered_P = np.clip(high_PN2 - low_PN2, 0, None).prod(axis=-1).sum(axis=1)
    best = covered_P.argmin()
    return int(corners_P2[best, 0]), int(corners_P2[best, 1]), float(covered_P[best])


def _fitting(text: str, size: int, width: int) -> ImageFont.FreeTypeFont:
    """The font at a size, or at the largest one at which the text is not wider than ``width``."""
    while size > LEAST_SQUEEZED and _font(size).getlength(text) > width:
        size -= 1
    return _font(size)


def _size(text: str, font: ImageFont.FreeTypeFont) -> tuple[int, int]:
    """(width, height) of a label; the height is the same for all texts of a font."""
    return int(np.ceil(font.getlength(text))) + 2 * MARGIN, sum(font.getmetrics()) + 2 * MARGIN


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
