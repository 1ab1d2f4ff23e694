"""Masks at the network's input size, of which only the part around the instance is ever decoded, resized or kept."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from effvis.data.dataset import Track
from effvis.data.masks import RLE, run_lengths

# Decoded masks are kept in memory up to this many bytes.
MASK_CACHE_BYTES = 2**29
# Memory that Python needs for each kept mask besides its bits.
ENTRY_BYTES = 400
# A resized pixel belongs to the mask from 127.5 of 255 on, which Pillow rounds up: eight and seven times that.
HALF_OF_EIGHT, HALF_OF_SEVEN = 1020, 893
OF_SEVENTHS = np.array([round(255 * sevenths / 7) for sevenths in range(8)], np.uint16)


class MaskPart(NamedTuple):
    """The rows and columns of a mask that hold its instance: ``inside`` is bool (rows, columns) and starts at (top, left)."""

    top: int
    left: int
    inside: np.ndarray


class MaskReader:
    """Masks of a split, each video's at one size; the first ones drawn stay in memory as bits, up to ``cache_bytes``."""

    def __init__(self, cache_bytes: int = MASK_CACHE_BYTES):
        self._cache: dict[tuple[int, int, int], tuple[int, int, tuple[int, int], np.ndarray]] = {}
        self._room = cache_bytes

    def draw(self, track: Track, frame: int, mask_HW: np.ndarray) -> None:
        """Fills an empty bool array (H, W), of the video's size here, with the mask of a frame that shows the instance."""
        key = (track.video_index, track.id, frame)
        if key in self._cache:
            top, left, shape, bits = self._cache[key]
            inside = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)
        else:
            top, left, inside = mask_part(track.rles[frame], track.boxes_L4[frame], mask_HW.shape)
            self._keep(key, top, left, inside)
        mask_HW[top: top + inside.shape[0], left: left + inside.shape[1]] = inside

    def _keep(self, key: tuple[int, int, int], top: int, left: int, inside: np.ndarray) -> None:
        needed = inside.size // 8 + ENTRY_BYTES
        if needed <= self._room:
            self._room -= needed
            self._cache[key] = top, left, inside.shape, np.packbits(inside)


def mask_part(rle: RLE, box_4: np.ndarray, size: tuple[int, int]) -> MaskPart:
    """A mask at another (height, width), as if it had been resized bilinearly as a whole and thresholded at one half.

    Args:
        box_4: the mask's box x0, y0, x1, y1 in its own pixels.
    """
    left, top, right, bottom = (int(side) for side in box_4)
    height, width = rle["size"]
    if (height, width) == size:
        return MaskPart(top, left, coco_mask.decode(rle)[top:bottom, left:right].view(bool))
    if (height, width) == (2 * size[0], 2 * size[1]) and min(size) > 1:
        return _halved(rle, box_4, size)
    x, y = _Span.around(left, right, width, size[1]), _Span.around(top, bottom, height, size[0])
    # Columns first, as in an RLE. Pillow resizes along x, then along y, and rounds in between: so do these two calls.
    columns = Image.fromarray(_decode_columns(rle, x, y, inside=255))
    columns = columns.resize((y.read, x.made), Image.Resampling.BILINEAR, (0, x.offset, y.read, x.offset + x.source))
    columns = columns.resize((y.made, x.made), Image.Resampling.BILINEAR, (y.offset, 0, y.offset + y.source, x.made))
    return MaskPart(y.first, x.first, np.asarray(columns).T >= 128)


def _halved(rle: RLE, box_4: np.ndarray, size: tuple[int, int]) -> MaskPart:
    """``mask_part`` at half the size, the case of most data sets: three times as fast as Pillow, with the same pixels.

    Bilinear weights are then 1, 3, 3, 1 of four pixels, and 3, 3, 1 of three at the image's edges.
    """
    left, top, right, bottom = (int(side) for side in box_4)
    x, y = _Span.half(left, right, size[1]), _Span.half(top, bottom, size[0])
    columns = _decode_columns(rle, x, y, inside=1)
    for edge in y.edges(size[0]):
        columns[:, edge] = 0  # beyond the image, where a run passes that continues in the next column
    a, b, c, d = (columns[tap : tap + 2 * x.made : 2] for tap in range(4))
    weighted = a + 3 * (b + c) + d
    values = (255 * weighted.astype(np.uint16) + 4) >> 3  # Pillow rounds between the axes, halves up
    for edge in x.edges(size[1]):
        values[edge] = OF_SEVENTHS[weighted[edge]]
    # First copied to separate arrays: NumPy adds neighbours in memory several times faster than every other number.
    even, odd = values[:, ::2].copy(), values[:, 1::2].copy()
    a, b, c, d = even[:, :-1], odd[:, :-1], even[:, 1:], odd[:, 1:]
    weighted = a + 3 * (b + c) + d
    inside = weighted >= HALF_OF_EIGHT
    for edge in y.edges(size[0]):
        inside[:, edge] = weighted[:, edge] >= HALF_OF_SEVEN
    return MaskPart(y.first, x.first, inside.T)


class _Span(NamedTuple):
    """The part that is resized along one axis: pixels ``first`` to ``first + made`` of the result, made from ``source``
    pixels, for which ``read`` pixels are read from ``start`` on; ``offset`` of those come before the source."""

    first: int
    made: int
    start: int
    read: int
    source: int
    offset: int

    @classmethod
    def around(cls, low: int, high: int, length: int, resized: int) -> _Span:
        """The span of all pixels that may differ from zero where only ``low`` to ``high`` of ``length`` do.

        It begins and ends where a pixel of the result begins at a pixel of the source, so that the filter weights are
        the same as for the whole axis.
        """
        common = math.gcd(length, resized)
        step, step_made = length // common, resized // common
        reach = math.ceil(max(length / resized, 1)) + 1  # how far the filter looks beyond a pixel
        first = max(low - reach, 0) // step
        last = min(-(-(high + reach) // step), common)
        start, end = max(first * step - reach, 0), min(last * step + reach, length)
        return cls(first=first * step_made, made=(last - first) * step_made, start=start, read=end - start,
                   source=(last - first) * step, offset=first * step - start)

    @classmethod
    def half(cls, low: int, high: int, resized: int) -> _Span:
        """The span at half the length: a result's pixel is made from two pixels and their neighbours, even beyond edges."""
        first, last = max(low - 2, 0) // 2, min(high // 2 + 2, resized)
        made = last - first
        return cls(first=first, made=made, start=2 * first - 1, read=2 * made + 2, source=2 * made, offset=1)

    def edges(self, resized: int) -> list[int]:
        """Indices in the result of the first and the last pixel of the whole axis, where it contains them."""
        return [0] * (self.first == 0) + [-1] * (self.first + self.made == resized)


def _decode_columns(rle: RLE, x: _Span, y: _Span, inside: int) -> np.ndarray:
    """The pixels that the spans read, as uint8 (columns, rows) of 0 and ``inside``; outside them the mask is empty."""
    height = rle["size"][0]
    ends = np.cumsum(run_lengths(rle["counts"]))
    runs_R2 = ends[: len(ends) // 2 * 2].reshape(-1, 2)  # where the mask's runs begin and end
    runs_R2 = runs_R2[runs_R2[:, 0] < runs_R2[:, 1]]
    runs_R2[:, 1] -= 1  # the last pixel: what follows it may be in another column
    # (c - x.start) * y.read + row - y.start, where c is the column and row is the place minus c * height.
    place_R2 = runs_R2 + runs_R2 // height * (y.read - height) - (x.start * y.read + y.start)
    place_R2[:, 1] += 1
    bounds = np.concatenate(([0], place_R2.ravel(), [x.read * y.read]))
    values = np.zeros(bounds.size - 1, np.uint8)
    values[1::2] = inside
    return np.repeat(values, bounds[1:] - bounds[:-1]).reshape(x.read, y.read)
