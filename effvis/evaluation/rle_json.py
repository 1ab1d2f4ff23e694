"""Reading JSON that consists mostly of uncompressed run-length counts.

The official ground truth holds millions of run lengths, each of which ``json`` would turn into a Python object. Here
the lists of counts are first taken out of the text and parsed as arrays, all numbers of many masks at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

COUNTS = re.compile(rb'("counts"\s*:\s*)\[([^]]*)\]')
# JSON itself has no such constant, but Python's reader accepts it and calls ``parse_constant`` at each one, in order.
PLACEHOLDER = "-Infinity"
MASKS_AT_ONCE = 64
MOST_DIGITS = 9
COMMA, ZERO = ord(","), ord("0")
WHITE_SPACE = b" \t\r\n"


def loads(text: bytes) -> Any:
    """Like ``json.loads``, except that ``counts`` that are lists of non-negative integers come back as int32 arrays.

    (Leading zeros in them, which JSON forbids, are accepted.)

    Raises:
        ValueError: the text is not JSON (json.JSONDecodeError) or not UTF-8.
    """
    pieces = COUNTS.split(text)
    arrays = None if PLACEHOLDER.encode() in text else _integer_lists(pieces[2::3])
    if arrays is None:
        return json.loads(text)
    # Of every three pieces, the third is the counts; the first two stay in the text, followed by the placeholder.
    pieces[2::3] = [PLACEHOLDER.encode()] * len(arrays)
    remaining = iter(arrays)
    try:
        return json.loads(b"".join(pieces), parse_constant=lambda name: _constant(name, remaining))
    except json.JSONDecodeError:
        # Parsed again as it was written, for an error that names the right line and column.
        return json.loads(text)


def _constant(name: str, arrays: Iterator[np.ndarray]) -> Any:
    return next(arrays) if name == PLACEHOLDER else float(name)


def _integer_lists(texts: Sequence[bytes]) -> list[np.ndarray] | None:
    """The integers of each comma-separated text; None where the plain reader is needed, for odd or huge numbers."""
    arrays, scratch = [], _Scratch()
    for start in range(0, len(texts), MASKS_AT_ONCE):
        batch = texts[start : start + MASKS_AT_ONCE]
        if any(space in text for text in batch for space in WHITE_SPACE):
            # Removing white space must not join two numbers.
            if any(re.search(rb"\d\s+\d", text) for text in batch):
                return None
            batch = [text.translate(None, WHITE_SPACE) for text in batch]
        found = _integers(batch, scratch)
        if found is None:
            return None
        arrays += found
    return arrays


class _Scratch:
    """Memory for intermediate arrays, reused for each batch: new memory costs more than the computation in it."""

    def __init__(self):
        self._arrays: dict[str, np.ndarray] = {}

    def __call__(self, name: str, size: int, dtype: type) -> np.ndarray:
        """An uninitialised array, which is valid until the next call for this name."""
        if name not in self._arrays or self._arrays[name].size < size:
            self._arrays[name] = np.empty(size * 5 // 4, dtype)
        return self._arrays[name][:size]


def _integers(texts: Sequence[bytes], scratch: _Scratch) -> list[np.ndarray] | None:
    """The comma-separated numbers, as int32; None if something else is there, or one is empty or has too many digits."""
    # A number of our own in front, left out below, so that the characters read before each comma exist.
    characters = np.frombuffer(b",".join([b"00", *texts, b""]), np.uint8)
    is_comma = np.equal(characters, COMMA, out=scratch("is", characters.size, np.bool_))
    commas = np.flatnonzero(is_comma)
    values = np.subtract(characters, np.uint8(ZERO), out=scratch("values", characters.size, np.uint8))
    digits = np.subtract(commas[1:], commas[:-1] + 1, out=scratch("digits", commas.size - 1, np.int64))
    foreign = np.count_nonzero(np.greater(values, 9, out=is_comma)) - commas.size
    if foreign or digits.min() < 1 or digits.max() > MOST_DIGITS:
        return None
    numbers = _last_three_digits(values, commas[1:], digits, scratch).astype(np.int32)
    longer, place = np.flatnonzero(digits > 3), 3
    while longer.size:
        numbers[longer] += values[commas[longer + 1] - 1 - place] * np.int32(10**place)
        place += 1
        longer = longer[digits[longer] > place]
    bounds = np.searchsorted(commas[1:], list(accumulate((len(text) + 1 for text in texts), initial=3)))
    return [numbers[first:end] for first, end in pairwise(bounds)]


def _last_three_digits(values: np.ndarray, commas: np.ndarray, digits: np.ndarray, scratch: _Scratch) -> np.ndarray:
    """The number (int16) that at most three digits before each comma make; nearly all counts have no more."""
    numbers, few = scratch("numbers", commas.size, np.int16), scratch("few", commas.size, np.int8)
    few[:] = digits
    place, one = np.subtract(commas, 1, out=scratch("place", commas.size, np.int64)), scratch("one", commas.size, np.uint8)
    numbers[:] = values.take(place, out=one, mode="clip")
    for fewer, ten in ((1, 10), (2, 100)):
        place -= 1
        values.take(place, out=one, mode="clip")
        one *= np.greater(few, fewer, out=scratch("more", commas.size, np.bool_))
        numbers += np.multiply(one, np.int16(ten), out=scratch("tens", commas.size, np.int16), dtype=np.int16)
    return numbers
