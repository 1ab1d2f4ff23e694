"""The format of experiments/search/<name>.yaml, which says which parameters of which row to search, and how.

A trial is a row with other parameters, so its training and its evaluation have keys like those of every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from effvis.config import Config, build, later
from effvis.errors import UserError
from pipeline.grid.rows import evaluation_spec, find_in_table
from pipeline.settings.loading import read_mapping, with_values
from pipeline.settings.params import Params, RowSettings

if TYPE_CHECKING:
    import numpy as np

    from pipeline.identity.specs import EvalSpec

_DIGITS = 3  # significant digits of a drawn number, so that a row stays legible


def _number(value: Any) -> Any:
    """The value as a number: YAML 1.1 reads 1e-3 as text, and only 1.0e-3 as a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class Distribution(Config):
    """The distribution of one parameter's values: exactly one of these keys is set. Ranges include their ends."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = Field(None, description="uniform in the exponent")
    integer: tuple[int, int] | None = None
    choice: tuple[Annotated[bool | int | float | str | None, BeforeValidator(_number)], ...] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_that_makes_sense(self):
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(type(self).model_fields)}")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"{given[0]} is [lowest, highest], the lowest first")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError("log_uniform needs a lowest value above 0")
        return self

    @property
    def range(self) -> tuple[float, float] | None:
        """The ends of the range; None if there are only choices."""
        return self.uniform or self.log_uniform or self.integer

    @property
    def ends(self) -> tuple[Any, ...]:
        """All choices, or both ends of the range: if these can be run, so can every value that is drawn."""
        return self.choice if self.choice is not None else self.range

    def draw(self, generator: np.random.Generator) -> Any:
        if self.choice is not None:
            return self.choice[int(generator.integers(len(self.choice)))]
        if self.integer is not None:
            return int(generator.integers(self.integer[0], self.integer[1] + 1))
        if self.log_uniform is not None:
            return self.rounded(math.exp(generator.uniform(*map(math.log, self.log_uniform))))
        return self.rounded(generator.uniform(*self.uniform))

    def rounded(self, value: Any) -> Any:
        """The value: a number rounded to a few digits inside the range, or an unchanged choice."""
        if self.choice is not None or self.integer is not None:
            return value
        low, high = self.range
        return min(max(float(f"{value:.{_DIGITS}g}"), low), high)


class SpaceFile(Config):
    """A search as it is written."""

    row: str | None = Field(None, description="TABLE:NAME, the row that trials differ from; None: the headline run")
    search: Literal["asha", "random", "optuna"] = "asha"
    metric: Literal["AP", "AP50", "AP75", "AR1", "AR10"] = "AP"
    rungs: int = Field(2, ge=0, le=12, description="how often a trial is evaluated before its end: after a half, a quarter, …")
    reduction: int = Field(2, ge=2, description="at each rung, one in this many trials goes on")
    seed: int = Field(0, ge=0, description="the seed of the draws; trainings have their own")
    space: dict[str, Distribution] = Field(min_length=1)
    listed: tuple[dict[str, Any], ...] = later((), description="exactly these trials, in this order, instead of drawn ones")

    @model_validator(mode="after")
    def _listed_trials_lie_in_the_space(self):
        for number, values in enumerate(self.listed):
            if values.keys() != self.space.keys() or any(values[name] not in one.ends for name, one in self.space.items()):
                raise ValueError(f"listed.{number}: each trial has a value for every parameter of space, among its choices")
        return self

    @model_validator(mode="after")
    def _trials_are_stopped_at_rungs(self):
        if self.search == "asha" and not self.rungs:
            raise ValueError("asha stops trials at rungs: rungs must be 1 or more, or search random")
        return self

    @property
    def stops(self) -> bool:
        """Whether trials are stopped at rungs."""
        return self.search != "random" and self.rungs > 0


@dataclass(frozen=True)
class Base:
    """The row that trials differ from.

    Attributes:
        name: ``TABLE:NAME``, or ``the headline run``.
        set: the row's settings, as they are written.
        columns: the columns of its table.
    """

    name: str
    settings: RowSettings
    set: Mapping[str, Any]
    columns: Mapping[str, Any]

    def trial(self, params: Params, values: Mapping[str, Any], seeds: int) -> tuple[EvalSpec, ...]:
        """The evaluations of a trial, one per seed, each with its training. They are on val, whatever ``split`` says.

        Raises:
            UserError: a value is wrong, or the data set is not indexed yet.
        """
        settings = self.settings.model_copy(update={"params": {**self.settings.params, **values}})
        return tuple(evaluation_spec(params.on_val(), settings, seed) for seed in range(seeds))


def load_space(file: Path, *, row: str | None) -> SpaceFile:
    """Reads a search.

    Args:
        row: replaces the file's row.

    Raises:
        UserError: something in the file is wrong; the error names the file, the key and the remedy.
    """
    space = build(SpaceFile, read_mapping(file, "Write one like experiments/search/lr.yaml"), where=file)
    return space if row is None else space.model_copy(update={"row": row})


def find_base(params: Params, file: Path, space: SpaceFile) -> Base:
    """The row from which a search starts.

    Raises:
        UserError: there is no such row, or it is not run.
    """
    if space.row is None:
        return Base("the headline run", params.headline, params.headline.model_dump(exclude_unset=True), {})
    try:
        written, settings = find_in_table(params, space.row)
    except UserError as error:
        raise UserError(file, "row", f"{space.row}: {error.problem}", error.remedy) from None
    return Base(space.row, settings, written.set, written.columns)


def check_space(params: Params, file: Path, space: SpaceFile, base: Base) -> None:
    """Tries the ends of every range, and every choice, before anything is trained.

    Raises:
        UserError: no run can have such a value, or the parameter makes no difference to this row.
    """
    for name, distribution in space.space.items():
        for value in distribution.ends:
            with_values(params, {name: value}, where=file, prefix="space")
        if len({base.trial(params, {name: value}, 1)[0].key for value in distribution.ends}) < len(distribution.ends):
            raise UserError(file, f"space.{name}", f"several of its values are the same run of {base.name}",
                            "Remove it: the row sets it itself, or is run without it")


def draw(space: SpaceFile, number: int, attempt: int) -> dict[str, Any]:
    """The values of one trial, which depend only on the space, the trial's number and the attempt. After the last of listed
    trials they begin again."""
    if space.listed:
        return space.listed[number % len(space.listed)]
    generator = np.random.default_rng([space.seed, number, attempt])
    return {name: distribution.draw(generator) for name, distribution in space.space.items()}
