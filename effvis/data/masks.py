"""Masks as COCO run-length encodings (RLE), a thin layer over pycocotools.

An RLE is ``{"size": [H, W], "counts": str}``: column-major run lengths, compressed into a string as in COCO and
YouTube-VIS. pycocotools trusts its input; foreign segmentations come in only through ``to_compressed``, which
checks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

RLE = dict

# For areas, pycocotools 2.0.11 passes the number of masks through a byte, which NumPy 2 refuses from 256 on.
AREAS_AT_ONCE = 255


def encode(mask_HW: np.ndarray) -> RLE:
    """A boolean (H, W) mask as an RLE."""
    return encode_many(mask_HW[None])[0]


def encode_many(masks_NHW: np.ndarray) -> list[RLE]:
    """Boolean (N, H, W) masks as N RLEs."""
    if not len(masks_NHW):
        return []
    columns_first = np.asfortranarray(np.moveaxis(masks_NHW, 0, -1).astype(np.uint8))
    return [{"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode("ascii")}
            for rle in coco.encode(columns_first)]


def decode(rle: RLE) -> np.ndarray:
    """The boolean (H, W) mask of an RLE."""
    return coco.decode(rle).astype(bool)


def area(rle: RLE) -> int:
    """Number of pixels of the mask."""
    return int(coco.area(rle))


def bbox_xyxy(rle: RLE) -> np.ndarray:
    """(4,) float32 box x0, y0, x1, y1 in pixels; x1 and y1 are the far edges of the last pixels (zeros if empty)."""
    return boxes_xyxy([rle])[0]


def areas(rles: Sequence[RLE]) -> np.ndarray:
    """Numbers of pixels of N masks: (N,) float32."""
    return pixel_counts(rles).astype(np.float32)


def pixel_counts(rles: Sequence[RLE]) -> np.ndarray:
    """Numbers of pixels of N masks: (N,) int64."""
    parts = [coco.area(list(rles[first : first + AREAS_AT_ONCE])) for first in range(0, len(rles), AREAS_AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *parts], dtype=np.int64)


def boxes_xyxy(rles: Sequence[RLE]) -> np.ndarray:
    """(N, 4) float32 boxes, as in ``bbox_xyxy``."""
    if not rles:
        return np.zeros((0, 4), np.float32)
    boxes_N4 = np.asarray(coco.toBbox(list(rles)), np.float32).reshape(-1, 4)
    boxes_N4[:, 2:] += boxes_N4[:, :2]
    return boxes_N4


def run_lengths(counts: str) -> np.ndarray:
    """The run lengths (background first) that a compressed ``counts`` string stands for, as int64.

    Each number is written in digits of five bits, lowest first, one character each (code - 48), of which bit 5 says
    that more follow and bit 4 of the last digit is the sign. From the fourth number on, a number is the difference from
    the one two places before it.

    Raises:
        ValueError: the string is no such encoding.
    """
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8) - np.uint8(48)
    if not digits.size or digits.max() > 63:
        raise ValueError("counts is not a COCO run-length string")
    last = np.flatnonzero(digits < 32)
    if not last.size or last[-1] != digits.size - 1:
        raise ValueError("counts ends in the middle of a number")
    lengths = last - np.concatenate(([-1], last[:-1]))
    if lengths.max() > 8:
        raise ValueError("counts holds a number that is too large")
    runs = (digits[last] ^ 16).astype(np.int64) - 16
    longer, place = np.flatnonzero(lengths > 1), 1
    while longer.size:
        runs[longer] = runs[longer] * 32 + (digits[last[longer] - place] & 31)
        place += 1
        longer = longer[lengths[longer] > place]
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def to_compressed(segmentation: Any, height: int, width: int) -> RLE:
    """A COCO segmentation of an image of the given size (pixels) as an RLE.

    Args:
        segmentation: a compressed RLE, an uncompressed RLE (``counts`` a list of run lengths), or a list of polygons,
            each a flat list x0, y0, x1, y1, ... of at least three points.

    Raises:
        ValueError: it is none of these, is of another size, or its runs do not add up to height x width.
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, height, width)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        raise ValueError("it is neither an RLE with size and counts, nor a list of polygons")
    size, counts = segmentation["size"], segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"RLE of the wrong size: {size}, but the frame is [{height}, {width}]")
    if isinstance(counts, str):
        runs = run_lengths(counts)
    elif isinstance(counts, list) and counts and all(type(run) is int for run in counts):
        runs = np.asarray(counts, object)
    else:
        raise ValueError("counts is neither a string nor a list of whole numbers")
    if runs.min() < 0 or int(runs.sum()) != height * width:
        raise ValueError(f"RLE of the wrong size: its runs cover {int(runs.sum())} pixels, the frame has {height * width}")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts}
    return _with_text(coco.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def tracklet_iou(one: Sequence[RLE | None], other: Sequence[RLE | None]) -> float:
    """The sum of the intersections over the sum of the unions of two tracklets' masks, over all frames; 0 without a pixel."""
    shared = joined = 0
    for a, b in zip(one, other, strict=True):
        if a is not None and b is not None:
            first, second = decode(a), decode(b)
            shared += int((first & second).sum())
            joined += int((first | second).sum())
        elif a is not None or b is not None:
            joined += int(decode(a or b).sum())
    return shared / joined if joined else 0.0


def _from_polygons(polygons: list, height: int, width: int) -> RLE:
    for polygon in polygons:
        is_flat = isinstance(polygon, list) and all(type(number) in (int, float) for number in polygon)
        if not is_flat or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon must be a flat list x0, y0, x1, y1, ... of at least three points")
        if not np.isfinite(polygon).all() or np.abs(polygon).max() > 100 * max(height, width):
            raise ValueError("a polygon has a point that is not finite or far outside the frame")
    if not polygons:
        raise ValueError("the list of polygons is empty; an absent instance is null")
    return _with_text(coco.merge(coco.frPyObjects(polygons, height, width)))


def _with_text(rle: RLE) -> RLE:
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}
