"""experiments/speed/<profile>.json: frames per second of tables' rows, as ``python -m benchmarks.speed --rows`` measured them
in turns in one run.

What of a row decides its speed has a key. A number whose key is no longer the row's is stale: the row's network, its input
size, its way of linking or the code that computes it has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from effvis.config import Config, HandcraftConfig, InferenceConfig
from effvis.data.sizes import InputSize, written
from pipeline.grid import given
from pipeline.grid.rows import network
from pipeline.identity.digests import code_digest, key
from pipeline.settings.loading import with_values
from pipeline.settings.params import RowSettings
from pipeline.system.files import json_bytes, write_atomically
from pipeline.system.models import read_model
from pipeline.tables.form import Speed, SpeedConditions

if TYPE_CHECKING:
    from pipeline.grid.table_file import Table
    from pipeline.settings.params import Params

# Settings of inference that choose, score and rename what was found. The benchmark has one value of them for all rows.
_WITHOUT_BEARING = ("test_fps", "scored_frames", "same_frames_fps", "max_tracklets", "category")


class MeasuredNetwork(Config):
    """A network as it was measured.

    Attributes:
        key: ``Timed.key`` of what was measured.
        rows: ``<table>:<row's name>`` of the rows that have it.
        input_size: (height, width) of its input, in pixels.
        masks_per_frame: how many masks there were in a frame, in the mean.
        fps_model, fps_end_to_end: as in ``Speed``.
    """

    key: str
    method: str
    rows: tuple[str, ...]
    clip_length: int
    input_size: tuple[int, int]
    masks_per_frame: float
    gflop_per_frame: float
    fps_model: float = Field(gt=0)
    fps_end_to_end: float = Field(gt=0)


class SpeedFile(Config):
    """What one run of the benchmark measured."""

    conditions: SpeedConditions
    networks: tuple[MeasuredNetwork, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Timed:
    """What of a row decides its speed: a network, its input size, and an inference without thresholds of scores."""

    model: Config
    input_size: InputSize
    inference: InferenceConfig

    @property
    def key(self) -> str:
        return key({
            "method": self.model.method,
            "model": self.model.model_dump(mode="json"),
            "input_size": written(self.input_size),
            "inference": self.inference.model_dump(mode="json"),
            "code": _code_digest(self.model.method),
        })


@cache
def _code_digest(method: str) -> str:
    """Digest of the code that takes frames through a method's network and links what it finds."""
    return code_digest((f"effvis.{method}.method", "effvis.predictor"))


def timed(params: Params, settings: RowSettings, classes: int) -> Timed:
    """What of a row decides its speed. Needs neither data nor weights; a network that is described with given weights keeps its
    own number of classes.

    Raises:
        UserError: given weights have no description.
    """
    if settings.weights is not None:
        description, _ = given.described(params.root / settings.weights)
        return Timed(description.model, description.input_size, _finding_all(given.inference_of(description, settings)))
    of_row = with_values(params, settings.params, where="a row", prefix="set.params")
    inference = of_row.inference_of(settings.method)
    if settings.linking is not None:
        inference = inference.model_copy(update={"linking": settings.linking})
    model = network(params, settings).resolve(classes, of_row.clip_length(settings.T))
    return Timed(model, of_row.input_size_of(settings.method), _finding_all(inference))


def _finding_all(inference: InferenceConfig) -> InferenceConfig:
    """The inference without thresholds of scores, and with the usual values of what has no bearing on time."""
    usual = {name: type(inference).model_fields[name].default for name in _WITHOUT_BEARING}
    return inference.model_copy(update=usual | {
        "presence_threshold": 0.0, "handcraft": HandcraftConfig(score_threshold=0.0)})


def file_of(params: Params) -> Path:
    return params.root / "experiments" / "speed" / f"{params.profile}.json"


def write(file: Path, speeds: SpeedFile) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json_bytes(speeds.model_dump(mode="json")))


def of_table(params: Params, table: Table) -> tuple[SpeedConditions | None, dict[str, Speed]]:
    """The speeds of a table's rows by name, and the conditions that they were measured under; None if no row has one.

    Raises:
        UserError: the file of speeds is wrong.
    """
    file = file_of(params)
    if not file.is_file():
        return None, {}
    found = read_model(SpeedFile, file, "Measure again with python -m benchmarks.speed --rows, or remove it (docs/speed.md)")
    measured = {name: one for one in found.networks for name in one.rows}
    speeds = {}
    for row in table.rows:
        one = measured.get(f"{table.name}:{row.name}")
        if one is not None and row.not_run is None:
            now = timed(params, RowSettings(**row.set), found.conditions.classes)
            speeds[row.name] = Speed(model=one.fps_model, end_to_end=one.fps_end_to_end, stale=one.key != now.key)
    return (found.conditions if speeds else None), speeds
