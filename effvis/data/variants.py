"""What tools write in place of what a format says, where the meaning is plain."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

BYTES_NOTATION = ("b'", 'b"')


def is_nothing(value: Any) -> bool:
    """null, an empty list, an empty object or an empty text: what tools write where there is nothing to say."""
    return not value and (value is None or isinstance(value, list | dict | str))


def shows_nothing(segmentation: Any) -> bool:
    """Whether a segmentation stands for an instance that is not seen: nothing, lists of nothing, four zeros (an empty box), or
    an RLE whose counts are nothing."""
    if isinstance(segmentation, dict):
        return not segmentation or ("counts" in segmentation and is_nothing(segmentation["counts"]))
    if isinstance(segmentation, list):
        return segmentation == [0, 0, 0, 0] or all(map(shows_nothing, segmentation))
    return is_nothing(segmentation)


def has_extent(box: Any, area: Any) -> bool:
    """Whether a box (x, y, width, height) or an area (pixels) says that something is seen."""
    sides = box[2:] if isinstance(box, list) and len(box) == 4 else []
    return (len(sides) == 2 and all(_is_number(side) and side > 0 for side in sides)) or (_is_number(area) and area > 0)


def as_polygons(segmentation: list) -> list:
    """Polygons as COCO has them, a list of flat lists x0, y0, x1, y1, ..., from a single flat list, or from lists of points
    [x, y]; anything else as it is."""
    if len(segmentation) >= 6 and all(map(_is_number, segmentation)):
        return [segmentation]
    if len(segmentation) >= 3 and all(map(_is_point, segmentation)):
        return [_flat(segmentation)]
    return [_flat(polygon) if isinstance(polygon, list) and polygon and all(map(_is_point, polygon)) else polygon
            for polygon in segmentation]


def counts_text(counts: str) -> str:
    """The text of compressed counts of which Python's notation for bytes was written, ``b'...'``; other texts as they are."""
    if counts[:2] not in BYTES_NOTATION or counts[-1] != counts[1]:
        return counts
    try:
        return ast.literal_eval(counts).decode("ascii")
    except (ValueError, SyntaxError, AttributeError):  # ValueError: not ASCII, too
        return counts


def name_below(folder: Path, name: str) -> str:
    """A file's name relative to ``folder``, with slashes, from one with backslashes or one that begins with the folder.

    A file of exactly the given name counts. The disk is only looked at for names that look otherwise. The result is as
    little to be trusted as the name was.
    """
    if "\\" in name and not os.path.isfile(folder / name):
        name = name.replace("\\", "/")
    _, at, below = f"/{name}".partition(f"/{folder.name}/")
    return below if at and below and not os.path.isfile(folder / name) else name


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def _flat(points: list) -> list:
    return [side for point in points for side in point]
