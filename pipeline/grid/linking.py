"""experiments/linking/<profile>.yaml: the hand-crafted linking of each method and clip length, as pipeline.linking chose it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import Field, PositiveInt

from effvis.config import Config, HandcraftConfig, build
from pipeline.settings.loading import read_mapping
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.settings.params import Params


class Choice(Config):
    """The best linking of a method at one clip length.

    Attributes:
        T: the paper's clip length, before scaling.
        command: what made the choice.
        run: the key of the training whose clips were linked.
        held_out: how many videos AP was measured on; the run was not trained on them, and none of them is reported.
        AP, AP_of_defaults: of the chosen linking and of the one in the parameters, as fractions.
    """

    method: str
    T: PositiveInt
    handcraft: HandcraftConfig
    command: str
    run: str
    held_out: PositiveInt
    AP: float
    AP_of_defaults: float


class ChoiceFile(Config):
    choices: tuple[Choice, ...] = Field(min_length=1)


def file_of(params: Params) -> Path:
    return params.root / "experiments" / "linking" / f"{params.profile}.yaml"


def chosen(params: Params, method: str, T: int) -> HandcraftConfig | None:
    """The linking chosen for a method at the paper's clip length ``T``; None if none was.

    Raises:
        UserError: the file of choices is wrong.
    """
    return next((choice.handcraft for choice in _read(file_of(params)) if (choice.method, choice.T) == (method, T)), None)


def keep(params: Params, choice: Choice) -> Path:
    """Writes a choice into the file, in the place of an earlier one for the same method and T; returns the file.

    Raises:
        UserError: the file of choices is wrong.
    """
    file = file_of(params)
    others = [other for other in _read(file) if (other.method, other.T) != (choice.method, choice.T)]
    choices = sorted([*others, choice], key=lambda one: (one.method, one.T))
    text = yaml.safe_dump({"choices": [one.model_dump(mode="json") for one in choices]}, sort_keys=False, width=120)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, f"# Written by python -m pipeline.linking (docs/evaluation.md); AP as fractions.\n{text}".encode())
    return file


def _read(file: Path) -> tuple[Choice, ...]:
    if not file.exists():
        return ()
    remedy = "Restore it from git, or remove it and run pipeline.linking again"
    return build(ChoiceFile, read_mapping(file, remedy), where=file).choices
