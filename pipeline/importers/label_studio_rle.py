"""Decodes the brush masks of Label Studio, whose RLE is not COCO's.

The bytes are a stream of bits, highest first: the number of values in 32 bits; the bits of a value, less one, in 5; four
lengths of counts, less one, in 4 each. Then, until there are enough values: one bit that says whether a value is repeated;
which of the four lengths the count has, in 2 bits; the count less one; and one value to be repeated, or as many values as
counted. The values are the bytes of an RGBA picture, row by row, whose alpha is the mask. (The format as
``label_studio_sdk.converter.brush`` reads it; it is that of the JavaScript package @thi.ng/rle-pack.)
"""

from __future__ import annotations

import numpy as np

CHANNELS, ALPHA = 4, 3


def decode(numbers: list[int], height: int, width: int) -> np.ndarray:
    """The boolean (H, W) mask of ``value.rle``.

    Raises:
        ValueError: the numbers are no bytes, end too early, or stand for a picture of another size.
    """
    if not numbers or not all(type(number) is int and 0 <= number < 256 for number in numbers):
        raise ValueError("it is not a list of bytes")
    stream = _Bits(np.unpackbits(np.array(numbers, np.uint8)))
    count, word = stream.number(32), stream.number(5) + 1
    sizes = [stream.number(4) + 1 for _ in range(4)]
    if count != height * width * CHANNELS:
        raise ValueError(f"it stands for {count} values, but the image of {width}x{height} has {height * width * CHANNELS}")
    values, repeats, found = [], [], 0
    while found < count:
        repeated, size = stream.number(1), sizes[stream.number(2)]
        length = stream.number(size) + 1
        values.append(stream.numbers(1 if repeated else length, word) > 0)
        repeats.append(np.full(len(values[-1]), length if repeated else 1))
        found += length
    picture = np.repeat(np.concatenate(values), np.concatenate(repeats))[:count]
    return picture.reshape(height, width, CHANNELS)[..., ALPHA]


class _Bits:
    """A stream of bits, read from its start."""

    def __init__(self, bits: np.ndarray):
        self._bits, self._at = bits, 0

    def number(self, size: int) -> int:
        return int(self.numbers(1, size)[0])

    def numbers(self, count: int, size: int) -> np.ndarray:
        """``count`` numbers of ``size`` bits each, int64."""
        end = self._at + count * size
        if end > len(self._bits):
            raise ValueError("it ends in the middle")
        bits = self._bits[self._at:end].reshape(count, size)
        self._at = end
        return bits.astype(np.int64) @ (1 << np.arange(size - 1, -1, -1, dtype=np.int64))
