"""Choices by one rule: every family of rows has the same small search, on val, with training shortened by the same share.

A family is a method at one of the paper's clip lengths on one data set. What its rows share is tried, and nothing that sets
one row apart from the next. The candidates are trials of an ordinary search (pipeline/search/trials.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from effvis import methods as networks
from effvis.config import Config, Share, build
from effvis.errors import UserError
from pipeline import methods
from pipeline.grid import choices
from pipeline.grid.choice_file import Candidate, FamilyChoice
from pipeline.grid.rows import known_tables, runnable_rows
from pipeline.search.search import Search, new_search, open_search
from pipeline.search.space import Base, Distribution, SpaceFile
from pipeline.settings.loading import read_mapping, with_values
from pipeline.settings.params import Params, RowSettings

_FIRST = "youtube-vis-2019"  # a row without a data set is of this one


class ChoiceSpace(Config):
    """What is tried for every family, besides the profile's own values, which always are."""

    share: Share = Field(description="of a row's epochs that a candidate is trained, with the learning rate's drop moved alike")
    rates: tuple[PositiveFloat, ...] = Field((), description="factors of all learning rates of the profile")
    presence_thresholds: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()

    def candidates(self, own_threshold: float) -> list[tuple[float, float]]:
        """All (factor of the rates, presence threshold); the profile's own first, and those that share a training far apart, so
        that no two that run side by side wait for the same one."""
        thresholds = dict.fromkeys((own_threshold, *self.presence_thresholds))
        return [(rate, threshold) for threshold in thresholds for rate in dict.fromkeys((1.0, *self.rates))]


@dataclass(frozen=True)
class Family:
    """Rows that share their choice.

    Attributes:
        dataset: the paper's data set.
        rows: their settings by ``<table>:<row's name>``.
    """

    method: str
    T: int
    dataset: str
    rows: dict[str, RowSettings]

    @property
    def name(self) -> str:
        """A name for people and folders, e.g. efficientvis-T9 or efficientvis-T36-youtube-vis-2021."""
        return f"{self.method}-T{self.T}" + ("" if self.dataset == _FIRST else f"-{self.dataset}")

    @property
    def shared(self) -> RowSettings:
        """The settings that all rows have alike; where they differ, the parameters' own value."""
        first, *others = self.rows.values()
        same = {name: getattr(first, name) for name in first.model_fields_set
                if all(getattr(other, name) == getattr(first, name) for other in others)}
        return RowSettings(**{**same, "method": self.method, "T": self.T})

    def of_rows(self, params: Params) -> Params:
        """The parameters that its rows share.

        Raises:
            UserError: the parameters have no data set for the paper's.
        """
        shared = self.shared
        return with_values(params.with_dataset(shared.dataset), shared.params, where=self.name, prefix="set.params")

    @property
    def linked_by_hand(self) -> bool:
        """Whether some of its rows link clips by hand, with weights and a threshold to be chosen."""
        if networks.get(self.method).link is not None:  # links frames in a way of its own
            return False
        first = methods.get(self.method).linkings[0]
        return any((settings.linking or first) == "hand-craft" for settings in self.rows.values())


def load_choice_space(file: Path) -> ChoiceSpace:
    """
    Raises:
        UserError: something in the file is wrong.
    """
    return build(ChoiceSpace, read_mapping(file, "Restore it from git"), where=file)


def families(params: Params, tables: Iterable[str], wanted: Iterable[str]) -> list[Family]:
    """The families of these methods that have a row in these tables, with their rows in all tables.

    Raises:
        UserError: there is no such table, or something in one is wrong.
    """
    named = {_family(settings) for table in tables for _, settings in _trained(params, table) if settings.method in wanted}
    rows: dict[tuple[str, int, str], dict[str, RowSettings]] = {}
    for table in known_tables(params):
        for name, settings in _trained(params, table):
            rows.setdefault(_family(settings), {})[f"{table}:{name}"] = settings
    return [Family(*family, of_family) for family, of_family in rows.items() if family in named]


def _trained(params: Params, table: str) -> Iterator[tuple[str, RowSettings]]:
    return ((row.name, settings) for row, settings in runnable_rows(params, table) if settings.weights is None)


def _family(settings: RowSettings) -> tuple[str, int, str]:
    return settings.method, settings.T, settings.dataset or _FIRST


def base_of(params: Params, family: Family, space: ChoiceSpace) -> Base:
    """The row that the candidates of a family differ from: what its rows share, trained for the share.

    It sets everything that is chosen, so that neither it nor the search's key follows from an earlier choice.
    """
    shared, method = family.shared, methods.get(family.method)
    of_row = family.of_rows(params)
    train = of_row.of_method(family.method).train
    own = {
        **choices.rates(of_row, family.method), **choices.threshold(of_row, family.method),
        f"{method.prefix}train.epochs": train.epochs * space.share,
        f"{method.prefix}train.lr_drop_epoch": train.lr_drop_epoch * space.share,
        "inference.handcraft.new_tracklet_below": of_row.inference.handcraft.new_tracklet_below,
    }
    settings = shared.model_copy(update={"params": {**shared.params, **own}})
    written = {**shared.model_dump(exclude_unset=True), "params": settings.params}
    return Base(f"what the rows of {family.name} share", settings, written, {})


def space_of(params: Params, family: Family, space: ChoiceSpace) -> SpaceFile:
    """The candidates of a family as the trials of a search that stops none."""
    of_row = family.of_rows(params)
    rates = choices.rates(of_row, family.method)
    ((key, threshold),) = choices.threshold(of_row, family.method).items()
    listed = tuple({**choices.scaled(rates, factor), key: value} for factor, value in space.candidates(threshold))
    tried = {name: Distribution(choice=tuple(dict.fromkeys(one[name] for one in listed))) for name in listed[0]}
    return SpaceFile(search="random", rungs=0, space=tried, listed=listed)


@dataclass(frozen=True)
class FamilySearch:
    """The search of a family, before or after it is run."""

    family: Family
    base: Base
    space: SpaceFile
    search: Search

    @classmethod
    def of(cls, params: Params, family: Family, space: ChoiceSpace) -> FamilySearch:
        """The family's search as it was left, or a new one. One of other data, code or candidates gives way to the new one:
        what is still the same run is found in the store.

        Raises:
            UserError: the data set is not indexed, or there are no weights to start from.
        """
        base, trials = base_of(params, family, space), space_of(params, family, space)
        new = new_search(family.of_rows(params), f"choice-{family.name}", trials, base, 1)
        try:
            return cls(family, base, trials, open_search(params, new))
        except UserError:
            return cls(family, base, trials, new)


def choice_of(params: Params, family: Family, space: ChoiceSpace, search: Search, command: str) -> FamilyChoice:
    """The choice that a finished search makes: the best AP on val, of equal ones the first, so the profile's own before any.

    Raises:
        LookupError: no candidate was trained to its end.
    """
    best = search.best()
    if best is None:
        raise LookupError(search.name)
    of_row = family.of_rows(params)
    own = choices.threshold(of_row, family.method)
    (threshold,) = own.values()
    tried = tuple(
        Candidate(rate=rate, presence_threshold=value, AP=None if trial.value is None else round(trial.value, 4),
                  run=trial.runs[0])
        for (rate, value), trial in zip(space.candidates(threshold), search.trials, strict=True))
    row: dict[str, Any] = family.shared.model_dump(exclude_unset=True, mode="json")
    return FamilyChoice(method=family.method, T=family.T, data=choices.data_of(of_row), row=row, share=space.share,
                        chosen=best.parameters, instead_of={**choices.rates(of_row, family.method), **own},
                        command=command, candidates=tried)
