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

COUNTS = re.compile(rb'("counts"\s*:\s*)\[(\s*\d[\d\s,]*)\]')
# JSON itself has no such constant, but Python's reader accepts it and calls ``parse_constant`` at each one, in order.
PLACEHOLDER = "-Infinity"
MASKS_AT_ONCE = 64
MOST_DIGITS = 9
COMMA, ZERO = ord(","), ord("0")


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
        batch = b"]".join(texts[start : start + MASKS_AT_ONCE])
        short = batch.translate(None, b" \t\r\n")
        # Removing white space must not have joined two numbers.
        broken = len(short) != len(batch) and re.search(rb"\d\s+\d", batch)
        numbers = None if broken else _integers(short.replace(b"]", b","))
        if numbers is None:
            return None
        ends = accumulate(text.count(b",") + 1 for text in short.split(b"]"))
        arrays += [numbers[first:end] for first, end in pairwise([0, *ends])]
    return arrays


def _integers(text: bytes) -> np.ndarray | None:
    """The numbers of digits and commas only, as int32; None if one is empty or has too many digits."""
    characters = np.frombuffer(text + b",", np.uint8)
    commas = np.flatnonzero(characters == COMMA)
    digits = np.diff(commas, prepend=-1) - 1
    if digits.min() < 1 or digits.max() > MOST_DIGITS:
        return None
    numbers = np.zeros(commas.size, np.int32)
    chosen = slice(None)
    for place in range(int(digits.max())):
        # Nearly all counts have two or three digits, where working on all of them is cheaper than choosing.
        if place >= 2:
            chosen = np.flatnonzero(digits > place)
        digit = (characters[commas[chosen] - 1 - place] - np.uint8(ZERO)).astype(np.int32)
        numbers[chosen] += digit * np.int32(10**place) * (digits[chosen] > place)
    return numbers
