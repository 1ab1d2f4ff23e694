"""The format of experiments/choices/<profile>.yaml: what was chosen for rows of tables, with all numbers behind it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, PositiveInt

from effvis.config import Config, HandcraftConfig, Share, build
from effvis.errors import UserError
from pipeline.settings.loading import read_mapping
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.settings.params import Params

_REMEDY = "Restore it from git, or move it away and choose again: python -m pipeline.tune --choose all"
_HEAD = "# Written by python -m pipeline.tune --choose and pipeline.linking (docs/search.md); AP as fractions.\n"
DIGITS = 16  # of a split's digest


class Data(Config):
    """The data of a choice: the data set's name, for people, and the digests of what was trained on and scored."""

    name: str
    train: str
    val: str


class Candidate(Config):
    """What one candidate of a family scored on val.

    Attributes:
        rate: the factor of all learning rates.
        AP: a fraction; None: its training diverged.
        run: the key of its training.
    """

    rate: float
    presence_threshold: float
    AP: float | None
    run: str


class FamilyChoice(Config):
    """The learning rates and the presence threshold of a family: the rows of a method at one clip length on one data set.

    Attributes:
        T: the paper's clip length, before scaling.
        row: the settings of the row that was tried; the rows of the family share them.
        share: of a row's training that each candidate was trained.
        chosen: the best candidate's parameters by dotted key.
        instead_of: the profile's values of the same parameters when the choice was made.
        command: what made the choice.
    """

    method: str
    T: PositiveInt
    data: Data
    row: dict[str, Any]
    share: Share
    chosen: dict[str, float] = Field(min_length=1)
    instead_of: dict[str, float] = Field(min_length=1)
    command: str
    candidates: tuple[Candidate, ...] = Field(min_length=1)


class TriedLinking(Config):
    """AP, a fraction, of clips that are linked by hand with these weights and this matching threshold."""

    box_iou: float
    box_l1: float
    mask_iou: float
    category: float
    new_tracklet_below: float
    AP: float


class LinkingChoice(Config):
    """The best linking of a method at one clip length.

    Attributes:
        T: the paper's clip length, before scaling.
        dataset: its name, for people.
        reported: the first digits of the digest of the split that is reported, on which nothing was chosen.
        command: what made the choice.
        run, evaluation: the keys of the training whose clips were linked, and of its evaluation before the choice,
            where it is known.
        held_out: how many videos AP was measured on; the run was not trained on them, and none of them is reported.
        AP, AP_of_defaults: of the chosen linking and of the one in the parameters, as fractions.
        tried: every linking with its AP.
    """

    method: str
    T: PositiveInt
    dataset: str
    reported: str
    handcraft: HandcraftConfig
    command: str
    run: str
    evaluation: str | None = Field(None, exclude_if=lambda key: key is None)
    held_out: PositiveInt
    AP: float
    AP_of_defaults: float
    tried: tuple[TriedLinking, ...] = Field((), exclude_if=lambda tried: not tried)


class ChoiceFile(Config):
    """All choices of a profile."""

    profile: str
    families: tuple[FamilyChoice, ...] = ()
    linking: tuple[LinkingChoice, ...] = ()


def file_of(params: Params) -> Path:
    return params.root / "experiments" / "choices" / f"{params.profile}.yaml"


def read(params: Params) -> ChoiceFile:
    """The choices of the parameters' profile; none if there is no file.

    Raises:
        UserError: the file is wrong, or its choices were made for another profile.
    """
    file = file_of(params)
    try:
        stat = file.stat()
    except OSError:
        return ChoiceFile(profile=params.profile)
    content = _parsed(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    if content.profile != params.profile:
        raise UserError(file, "profile", f"these choices were made for the profile {content.profile}", _REMEDY)
    return content


@lru_cache(maxsize=8)
def _parsed(file: Path, version: tuple[int, ...]) -> ChoiceFile:
    """The content of the file, parsed once per version: every row of a table asks for it."""
    return build(ChoiceFile, read_mapping(file, _REMEDY), where=file)


def keep(params: Params, choice: FamilyChoice | LinkingChoice) -> Path:
    """Writes a choice into the file, in the place of an earlier one for the same rows and data; returns the file.

    Raises:
        UserError: for the reasons of ``read``.
    """
    content = read(params)
    name = "families" if isinstance(choice, FamilyChoice) else "linking"
    others = [other for other in getattr(content, name) if _place(other) != _place(choice)]
    content = content.model_copy(update={name: tuple(sorted([*others, choice], key=_place))})
    file = file_of(params)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False, width=200, default_flow_style=None)
    write_atomically(file, (_HEAD + text).encode())
    return file


def _place(choice: FamilyChoice | LinkingChoice) -> tuple[str, int, str]:
    data = f"{choice.data.name} {choice.data.train} {choice.data.val}" if isinstance(choice, FamilyChoice) else choice.reported
    return choice.method, choice.T, data
