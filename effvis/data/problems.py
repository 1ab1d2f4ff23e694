"""What is wrong with a data set: raised at the first, or all of it collected."""

from __future__ import annotations

from effvis.errors import UserError


class Problems:
    """``with problems:`` around each thing that is checked: a mistake found inside ends the reading, as a ``UserError``;
    or, with ``collect``, is noted, and what follows the block is checked too.

    Attributes:
        errors: what makes the data set unusable, in the order in which it was found.
        warnings: what reading does not rely on, but betrays a mistake; only looked for with ``collect``.
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
