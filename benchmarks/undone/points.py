"""The points, by their number in docs/results.md."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from benchmarks.undone import point1, point2, point3, point4, point5, point6, point7, point8

# What the method does of the paper's while a point of these is undone, it must have learned.
TRAINED = {1: point1, 2: point2, 3: point3, 4: point4, 5: point5, 8: point8}
# These only read from weights.
READ = {6: point6, 7: point7}
WHAT: dict[int, str] = {number: point.WHAT for number, point in sorted((TRAINED | READ).items())}
PATCHES: dict[int, Callable[[], AbstractContextManager[None]]] = {number: point.patch for number, point in TRAINED.items()}
