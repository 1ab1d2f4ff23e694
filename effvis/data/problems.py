"""The problems of a data set: the first one is raised, or all of them are collected; and how its file bends its format."""

from __future__ import annotations

from dataclasses import dataclass

from effvis.errors import UserError


@dataclass
class _Bend:
    where: object
    key: str
    remedy: str
    places: int = 0


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
        self._bends: dict[str, _Bend] = {}

    def __enter__(self) -> Problems:
        return self

    def __exit__(self, _kind, error: BaseException | None, _traceback) -> bool:
        if not self.collect or not isinstance(error, UserError):
            return False
        self.errors.append(error)
        return True

    def bend(self, where: object, key: str, problem: str, remedy: str) -> None:
        """Notes a place that is not as its format says, but whose meaning is plain; ``problem`` names the kind."""
        self._bends.setdefault(problem, _Bend(where, key, remedy)).places += 1

    @property
    def bent(self) -> list[UserError]:
        """One warning for each kind of bend, with its first place and the number of places."""
        return [UserError(bend.where, bend.key, problem if bend.places == 1 else f"{problem} (in {bend.places} places)",
                          bend.remedy) for problem, bend in self._bends.items()]
