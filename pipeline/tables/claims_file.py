"""experiments/claims.yaml: the paper's claims, and the evaluations of the rows that they compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, field_validator, model_validator

from effvis.config import Config, build
from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.grid.starts import NothingFits
from pipeline.identity.specs import EvalSpec
from pipeline.settings.loading import read_mapping
from pipeline.settings.params import Params


class Holds(Config):
    """The range of the margin if the claim is true: above or below a bound in percent AP, or between two bounds.

    ``keeps_below`` is for a collapse: the second row keeps less than this share of the first one's AP. The tested value is
    then that share of the first AP minus the second AP; it has to be above 0.
    """

    above: float | None = None
    below: float | None = None
    keeps_below: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _is_one_range(self):
        bounds = [self.above, self.below]
        if (bounds == [None, None]) == (self.keeps_below is None):
            raise ValueError("give above, below or both, or else keeps_below")
        if None not in bounds and self.above >= self.below:
            raise ValueError(f"above {self.above} is not less than below {self.below}")
        return self

    @property
    def share(self) -> float:
        """The share of the first row's AP that is compared with the second row's AP."""
        return self.keeps_below or 1.0

    @property
    def range(self) -> tuple[float, float]:
        """The range of the tested value, in percent AP."""
        above = 0.0 if self.keeps_below else self.above
        return -math.inf if above is None else above, math.inf if self.below is None else self.below

    def text(self) -> str:
        """The range as text, e.g. ``above -2``."""
        words = (f"{name.replace('_', ' ')} {value:g}" for name, value in self.model_dump().items() if value is not None)
        return ", ".join(words)


class Claim(Config):
    """A claim as it is written.

    Attributes:
        row, than: ``<table>:<row's name>``; the margin is the AP of ``row`` minus that of ``than``.
        published: the paper's margin in percent AP, if it gives one.
    """

    id: str
    says: str
    row: str
    than: str
    published: float | None = None
    holds: Holds


class _ClaimsFile(Config):
    confidence: float = Field(0.95, gt=0, lt=1)
    least_ap: float = Field(0.0, ge=0, description="percent; if both rows stay below, the claim is inconclusive")
    claims: tuple[Claim, ...] = Field(min_length=1)

    @field_validator("claims")
    @classmethod
    def _each_once(cls, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        name, count = Counter(claim.id for claim in claims).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} claims are called {name!r}")
        return claims


@dataclass(frozen=True)
class Ledger:
    """The claims and the evaluations that they compare, before anything is measured.

    Attributes:
        evaluations: one per seed, by ``<table>:<row's name>``.
        obstacles: why a table's rows cannot be planned with these parameters, by table.
    """

    confidence: float
    least_ap: float
    claims: tuple[Claim, ...]
    evaluations: Mapping[str, tuple[EvalSpec, ...]]
    obstacles: Mapping[str, str]


def load_ledger(params: Params) -> Ledger:
    """Reads experiments/claims.yaml and finds the rows that it names.

    Raises:
        UserError: something in it is wrong, or there is no such row to run.
    """
    path = params.root / "experiments" / "claims.yaml"
    file = build(_ClaimsFile, read_mapping(path, "Restore it"), where=path)
    evaluations: dict[str, tuple[EvalSpec, ...]] = {}
    obstacles: dict[str, str] = {}
    tables = dict.fromkeys(name.partition(":")[0] for claim in file.claims for name in (claim.row, claim.than))
    for table in tables:
        try:
            rows = load_table(params, table).rows
        except NothingFits as error:
            obstacles[table] = f"{error.problem}. {error.remedy}"
        else:
            evaluations |= {f"{table}:{row.name}": row.evaluations for row in rows if row.not_run is None}
    for number, claim in enumerate(file.claims):
        for key, name in (("row", claim.row), ("than", claim.than)):
            table = name.partition(":")[0]
            if name not in evaluations and table not in obstacles:
                known = ", ".join(repr(other) for other in evaluations if other.startswith(f"{table}:"))
                raise UserError(path, f"claims.{number}.{key}", f"there is no row {name!r} to run", f"There are {known}")
    return Ledger(file.confidence, file.least_ap, file.claims, evaluations, obstacles)
