"""experiments/linking/<profile>.yaml: the hand-crafted linking of each method and clip length, as pipeline.linking chose it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field, PositiveInt

from effvis.config import Config, HandcraftConfig, build
from pipeline.datasets.holdout import reported_videos
from pipeline.settings.loading import read_mapping
from pipeline.settings.params import RowSettings
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.settings.params import Params


class Choice(Config):
    """The best linking of a method at one clip length.

    Attributes:
        T: the paper's clip length, before scaling.
        command: what made the choice.
        run: the key of the training whose clips were linked.
        held_out: how many videos AP was measured on; the run was not trained on them, and none of them is reported.
        reported: which training videos were reported, as ``pipeline.datasets.holdout.reported_videos`` says; None: those of
            val. Among other training videos that are reported may be some that made the choice.
        AP, AP_of_defaults: of the chosen linking and of the one in the parameters, as fractions.
    """

    method: str
    T: PositiveInt
    handcraft: HandcraftConfig
    command: str
    run: str
    held_out: PositiveInt
    reported: str | None = None
    AP: float
    AP_of_defaults: float


class ChoiceFile(Config):
    choices: tuple[Choice, ...] = Field(min_length=1)


def file_of(params: Params) -> Path:
    return params.root / "experiments" / "linking" / f"{params.profile}.yaml"


def chosen(params: Params, method: str, T: int) -> HandcraftConfig | None:
    """The linking chosen for a method at the paper's clip length ``T``, where the videos were reported that are now; else None.

    Raises:
        UserError: the file of choices is wrong, or the data set is not indexed with the parameters' holdout.
    """
    choices = _of(params, method, T)
    if not choices:
        return None
    reported = reported_videos(params)
    return next((choice.handcraft for choice in choices if choice.reported == reported), None)


def chosen_only_for_others(params: Params, method: str, T: int) -> bool:
    """Whether there are choices for a method at ``T``, but each was made where other videos were reported.

    Raises:
        UserError: for the reasons of ``chosen``.
    """
    return bool(_of(params, method, T)) and chosen(params, method, T) is None


def warnings(params: Params, rows: Iterable[Row]) -> list[str]:
    """For users who are about to run these rows: which of them do without a choice because other videos are reported now.

    Raises:
        UserError: for the reasons of ``chosen``.
    """
    found = []
    for row in rows:
        settings = RowSettings(**row.set)
        if not row.evaluations or settings.weights is not None:
            continue
        inference = row.evaluations[0].inference
        if (inference.linking == "hand-craft" and inference.handcraft == HandcraftConfig()
                and chosen_only_for_others(params.with_dataset(settings.dataset), settings.method, settings.T)):
            found.append(f"{row.table}: {row.name}: its linking in {file_of(params)} was chosen where other videos were "
                         "reported, and the default weights and threshold are used. To choose for these videos: "
                         f"python -m pipeline.linking --row {shlex.quote(f'{row.table}:{row.name}')}")
    return found


def keep(params: Params, choice: Choice) -> Path:
    """Writes a choice into the file, in the place of an earlier one for the same method, T and reported videos.

    Returns:
        The file.

    Raises:
        UserError: the file of choices is wrong.
    """
    file = file_of(params)
    others = [other for other in _read(file) if _place(other) != _place(choice)]
    choices = sorted([*others, choice], key=_place)
    text = yaml.safe_dump({"choices": [one.model_dump(mode="json") for one in choices]}, sort_keys=False, width=120)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, f"# Written by python -m pipeline.linking (docs/evaluation.md); AP as fractions.\n{text}".encode())
    return file


def _place(choice: Choice) -> tuple[str, int, str]:
    return choice.method, choice.T, choice.reported or ""


def _of(params: Params, method: str, T: int) -> list[Choice]:
    return [choice for choice in _read(file_of(params)) if (choice.method, choice.T) == (method, T)]


def _read(file: Path) -> tuple[Choice, ...]:
    if not file.exists():
        return ()
    remedy = "Restore it from git, or remove it and run pipeline.linking again"
    return build(ChoiceFile, read_mapping(file, remedy), where=file).choices
