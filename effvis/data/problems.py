"""The problems of a data set: the first one is raised, or all of them are collected."""

from __future__ import annotations

from effvis.errors import UserError


class Problems:
    """Use ``with problems:`` around each check: a mistake found inside ends the reading, as a ``UserError``; with
    ``collect`` it is noted instead, and what follows the block is checked too.

    Attributes:
        errors: what makes the data set unusable, in the order in which it was found.
        warnings: signs of a mistake in what reading does not rely on; only looked for with ``collect``.
    """

    def __init__(self, *, collect: bool = False):
        self.collect = collect
        self.errors: list[UserError] = []
        self.warnings: list[UserError] = []

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> bool:
        if not self.collect or not isinstance(error, UserError):
            return False
        self.errors.append(error)
        return True
