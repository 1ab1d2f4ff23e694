"""results/cells/<evaluation key>.json: one small, committed file per finished evaluation. Tables are made from them alone.

A cell counts as done wherever its weights are, so a grid can be spread over machines and days, and tables can be made on a
machine that trained nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from effvis.config import Config
from effvis.errors import UserError
from pipeline.runs.store import RunStore
from pipeline.system.files import json_bytes, write_atomically
from pipeline.system.models import read_model

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

RESAMPLED = "AP_resampled"  # AP on resamples of the videos, as one short text
SAME_FRAMES = "AP_same_frames"  # AP on only the frames that inference.same_frames_fps keeps


class Settings(Config):
    """The settings that a number follows from, as in a run's config.yaml."""

    train: dict[str, Any]
    inference: dict[str, Any]


class Times(Config):
    """Seconds and pace; they are unknown for a training that is elsewhere."""

    train_seconds: float | None = None
    train_cpu_seconds: float | None = None
    train_clips_per_second: float | None = None
    evaluate_seconds: float
    frames_per_second: float | None = None


class Made(Config):
    """The training's circumstances: peak memory, machine, state of the checkout, package versions."""

    peak_memory_mib: int | None = None
    host: dict[str, Any] = {}
    git: dict[str, Any] | None = None
    packages: dict[str, str] | None = None


class Cell(Config):
    """A finished evaluation.

    Attributes:
        evaluation, run: the keys of the evaluation and of its training.
        split: of the data set, whose videos they are measured on.
        metrics: the 12 numbers as fractions, and AP_any_category; -1 where undefined.
        AP_resampled: AP on resamples of the split's videos, as ``resampled_text`` writes it; None in cells of an earlier
            evaluation, and where AP is undefined.
    """

    evaluation: str
    run: str
    seed: int
    config: Settings
    split: str = Field("val", exclude_if=lambda split: split == "val")
    metrics: dict[str, float]
    AP_resampled: str | None = Field(None, pattern=r"^-?\d+( -?\d+)*$", exclude_if=lambda value: value is None)
    videos_seen: int | None = Field(None, exclude_if=lambda value: value is None)
    times: Times
    made: Made | None = Field(None, exclude_if=lambda value: value is None)


    @property
    def resampled_percent(self) -> list[float] | None:
        """AP in percent on each resample; negative where it is undefined."""
        return None if self.AP_resampled is None else [int(word) / 100 for word in self.AP_resampled.split()]


def resampled_text(fractions: Iterable[float]) -> str:
    """Many fractions as whole numbers of 1/10,000 in one line: five bytes each, which is all that a cell needs of them."""
    return " ".join(str(round(10_000 * fraction)) for fraction in fractions)


def find_cell(params: Params, spec: EvalSpec) -> Cell | None:
    """The evaluation's cell: the committed one, or else one made from the run store, or else None."""
    cell = _read(_file(params, spec))
    return cell if cell is not None and cell.evaluation == spec.key else _from_store(params, spec)


def read_all(params: Params) -> Iterator[Cell]:
    """Every committed cell that can be read, in the order of the files' names."""
    for file in sorted((params.results_dir / "cells").glob("*.json")):
        cell = _read(file)
        if cell is not None:
            yield cell


def write(params: Params, spec: EvalSpec) -> None:
    """Writes the cell of an evaluation that is in the store; an existing cell stays as it is."""
    file = _file(params, spec)
    cell = find_cell(params, spec)
    if cell is not None and cell != _read(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json_bytes(cell.model_dump(mode="json")))


def _file(params: Params, spec: EvalSpec) -> Path:
    return params.results_dir / "cells" / f"{spec.key}.json"


def _read(file: Path) -> Cell | None:
    """The content of a cell's file; None if it is absent or broken (a merge conflict), so that it is made again."""
    try:
        return read_model(Cell, file, "Make it again")
    except UserError:
        return None


def _from_store(params: Params, spec: EvalSpec) -> Cell | None:
    store = RunStore(params.runs_dir)
    report = store.evaluation(spec.train.key, spec.key)
    if report is None:
        return None
    trained = store.done(spec.train.key) or {}
    return Cell(
        evaluation=spec.key,
        run=spec.train.key,
        seed=spec.train.seed,
        config=Settings(train=spec.train.describe(), inference=spec.inference.model_dump(mode="json")),
        split=spec.split,
        metrics=report["metrics"],
        AP_resampled=report.get(RESAMPLED),
        videos_seen=report.get("videos_seen"),
        times=Times(
            train_seconds=trained.get("seconds"),
            train_cpu_seconds=trained.get("cpu_seconds"),
            train_clips_per_second=trained.get("clips_per_second"),
            evaluate_seconds=report["seconds"],
            frames_per_second=report["frames_per_second"],
        ),
        made=Made(
            peak_memory_mib=trained.get("peak_memory_mib"),
            # A machine's name belongs in the run store only, because cells are public.
            host={name: value for name, value in trained.get("host", {}).items() if name != "name"},
            git=trained.get("git"),
            packages=trained.get("packages"),
        ),
    )
