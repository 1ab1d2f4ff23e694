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
# What Python needs for a mask that is kept, beside its bits.
ENTRY_BYTES = 400


class MaskPart(NamedTuple):
    """The rows and columns of a mask that hold its instance: ``inside`` is bool (rows, columns), from (top, left) on."""

    top: int
    left: int
    inside: np.ndarray


class MaskReader:
    """Masks of a split at one input size, the first of them kept decoded, as bits, up to ``cache_bytes``."""

    def __init__(self, input_size: tuple[int, int], cache_bytes: int = MASK_CACHE_BYTES):
        self.input_size = input_size
        self._cache: dict[tuple[int, int, int], tuple[int, int, tuple[int, int], np.ndarray]] = {}
        self._room = cache_bytes

    def draw(self, track: Track, frame: int, mask_HW: np.ndarray) -> None:
        """Fills an empty bool (H, W) with a frame's mask, in which the instance is present."""
        key = (track.video_index, track.id, frame)
        if key in self._cache:
            top, left, shape, bits = self._cache[key]
            inside = np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)
        else:
            top, left, inside = mask_part(track.rles[frame], track.boxes_L4[frame], self.input_size)
            self._keep(key, top, left, inside)
        mask_HW[top: top + inside.shape[0], left: left + inside.shape[1]] = inside

    def _keep(self, key: tuple[int, int, int], top: int, left: int, inside: np.ndarray) -> None:
        needed = inside.size // 8 + ENTRY_BYTES
        if needed <= self._room:
            self._room -= needed
            self._cache[key] = top, left, inside.shape, np.packbits(inside)


def mask_part(rle: RLE, box_4: np.ndarray, size: tuple[int, int]) -> MaskPart:
    """A mask at another (height, width), as if it had been resized as a whole, bilinear, and cut at one half.

    Args:
        box_4: of the mask, x0, y0, x1, y1 in its own pixels.
    """
    left, top, right, bottom = (int(side) for side in box_4)
    height, width = rle["size"]
    if (height, width) == size:
        return MaskPart(top, left, coco_mask.decode(rle)[top:bottom, left:right].view(bool))
    x, y = _Span.around(left, right, width, size[1]), _Span.around(top, bottom, height, size[0])
    # Columns first, as in an RLE. Pillow resizes along x before it resizes along y, and rounds between: so do these two.
    columns = Image.fromarray(_decode_columns(rle, x, y))
    columns = columns.resize((y.read, x.made), Image.Resampling.BILINEAR, (0, x.offset, y.read, x.offset + x.source))
    columns = columns.resize((y.made, x.made), Image.Resampling.BILINEAR, (y.offset, 0, y.offset + y.source, x.made))
    return MaskPart(y.first, x.first, np.asarray(columns).T >= 128)


class _Span(NamedTuple):
    """What is resized along one axis: pixels ``first`` to ``first + made`` of the result, made from ``source`` pixels, for
    which ``read`` pixels from ``start`` on are looked at; ``offset`` of those come before the source."""

    first: int
    made: int
    start: int
    read: int
    source: int
    offset: int

    @classmethod
    def around(cls, low: int, high: int, length: int, resized: int) -> _Span:
        """All pixels that may differ from zero where only ``low`` to ``high`` of ``length`` do.

        It begins and ends where a pixel of the result begins at a pixel of the source, so that the same filter weights
        come out as for the whole axis.
        """
        common = math.gcd(length, resized)
        step, step_made = length // common, resized // common
        reach = math.ceil(max(length / resized, 1)) + 1  # how far the filter looks beyond a pixel
        first = max(low - reach, 0) // step
        last = min(-(-(high + reach) // step), common)
        start, end = max(first * step - reach, 0), min(last * step + reach, length)
        return cls(first=first * step_made, made=(last - first) * step_made, start=start, read=end - start,
                   source=(last - first) * step, offset=first * step - start)


def _decode_columns(rle: RLE, x: _Span, y: _Span) -> np.ndarray:
    """The pixels that the spans look at, as uint8 (columns, rows) of 0 and 255; outside them the mask is empty."""
    ends = np.cumsum(run_lengths(rle["counts"]))
    runs_R2 = ends[: len(ends) // 2 * 2].reshape(-1, 2)  # where the mask's runs begin and end
    runs_R2 = runs_R2[runs_R2[:, 0] < runs_R2[:, 1]]
    runs_R2[:, 1] -= 1  # the last pixel: what follows it may be in another column
    column, row = np.divmod(runs_R2, rle["size"][0])
    place_R2 = (column - x.start) * y.read + row - y.start
    place_R2[:, 1] += 1
    values = np.zeros(place_R2.size + 1, np.uint8)
    values[1::2] = 255
    lengths = np.diff(place_R2.ravel(), prepend=0, append=x.read * y.read)
    return np.repeat(values, lengths).reshape(x.read, y.read)
