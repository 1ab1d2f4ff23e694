"""Reading JSON that consists mostly of uncompressed run-length counts.

The official ground truth holds millions of run lengths, each of which ``json`` would turn into a Python object. Here
the lists of counts are lifted out of the text first and parsed as arrays, all numbers of many masks at once.
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
    """As ``json.loads``, except that ``counts`` that are lists of non-negative integers come back as int32 arrays.

    (Leading zeros in them, which JSON forbids, are let pass.)

    Raises:
        ValueError: the text is not JSON (json.JSONDecodeError) or not UTF-8.
    """
    pieces = COUNTS.split(text)
    arrays = None if PLACEHOLDER.encode() in text else _integer_lists(pieces[2::3])
    if arrays is None:
        return json.loads(text)
    # Of three pieces, the third is the counts: the first two stay in the text, followed by the placeholder.
    pieces[2::3] = [PLACEHOLDER.encode()] * len(arrays)
    remaining = iter(arrays)
    try:
        return json.loads(b"".join(pieces), parse_constant=lambda name: _constant(name, remaining))
    except json.JSONDecodeError:
        # Again as it was written, for an error that names the right line and column.
        return json.loads(text)


def _constant(name: str, arrays: Iterator[np.ndarray]) -> Any:
    return next(arrays) if name == PLACEHOLDER else float(name)


def _integer_lists(texts: Sequence[bytes]) -> list[np.ndarray] | None:
    """The integers of each comma-separated text; None where the plain reader should have a look: odd or huge numbers."""
    arrays = []
    for start in range(0, len(texts), MASKS_AT_ONCE):
        batch = texts[start : start + MASKS_AT_ONCE]
        if any(space in text for text in batch for space in WHITE_SPACE):
            # Removing white space must not join two numbers.
            if any(re.search(rb"\d\s+\d", text) for text in batch):
                return None
            batch = [text.translate(None, WHITE_SPACE) for text in batch]
        found = _integers(batch)
        if found is None:
            return None
        arrays += found
    return arrays


def _integers(texts: Sequence[bytes]) -> list[np.ndarray] | None:
    """The comma-separated numbers, as int32; None if something else is there, or one is empty or has too many digits."""
    characters = np.frombuffer(b",".join([*texts, b""]), np.uint8)
    is_comma = characters == COMMA
    # Multiplying is a tenth of the time of choosing.
    values = (characters - np.uint8(ZERO)) * ~is_comma
    commas = np.flatnonzero(is_comma)
    digits = commas.copy()
    digits[1:] -= commas[:-1] + 1
    if values.max() > 9 or digits.min() < 1 or digits.max() > MOST_DIGITS:
        return None
    numbers = _last_three_digits(values, is_comma)[commas - 1].astype(np.int32)
    longer, place = np.flatnonzero(digits > 3), 3
    while longer.size:
        numbers[longer] += values[commas[longer] - 1 - place] * np.int32(10**place)
        place += 1
        longer = longer[digits[longer] > place]
    ends = np.searchsorted(commas, list(accumulate(len(text) + 1 for text in texts)))
    return [numbers[first:end] for first, end in pairwise([0, *ends])]


def _last_three_digits(values: np.ndarray, is_comma: np.ndarray) -> np.ndarray:
    """The number, int16, that at most three digits make whose last one stands at each character; commas have the value 0.

    Nearly all counts have no more, and doing all characters alike is cheaper than choosing.
    """
    numbers = values.astype(np.int16)
    numbers[1:] += values[:-1] * np.int16(10)
    numbers[2:] += values[:-2] * ~is_comma[1:-1] * np.int16(100)
    return numbers
