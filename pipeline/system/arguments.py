"""Types for argparse: numbers in a range. For other numbers, the command names the option and ends with exit code 2."""

from __future__ import annotations

import argparse
import math


def positive_int(text: str) -> int:
    return _int_from(text, 1)


def natural_int(text: str) -> int:
    return _int_from(text, 0)


def positive_number(text: str) -> float:
    number = _number(text)
    if not (number > 0 and math.isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def probability(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return number


def _int_from(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of {least} or more")
    return number


def _number(text: str) -> float:
    """The text as a number, or NaN, which is in no range, if it is not one."""
    try:
        return float(text)
    except ValueError:
        return math.nan
