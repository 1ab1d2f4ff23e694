"""Estimates how long a grid's missing runs will take, from past runs: the committed cells and the run store.

A run takes as long as its configuration took before, whatever the seed. A configuration that never ran takes as long per pixel
seen as the most similar runs.
"""

from __future__ import annotations

import heapq
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

import yaml

from pipeline.runs import cells
from pipeline.scheduling.pool import Queue, Status

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec, TrainSpec
    from pipeline.planning.plan import Plan
    from pipeline.scheduling.pool import Job
    from pipeline.settings.params import Params


@dataclass(frozen=True)
class Duration:
    """Seconds, and what the estimate is based on: runs of the same configuration, or similar runs."""

    seconds: float
    basis: Literal["same", "similar"]


@dataclass(frozen=True)
class _Past:
    """A finished training or evaluation.

    Attributes:
        training: its configuration, or that of the training that was evaluated, as in a run's ``config.yaml``.
        inference: an evaluation's inference configuration.
    """

    training: Mapping[str, Any]
    seconds: float
    inference: Mapping[str, Any] | None = None

    @cached_property
    def pixels(self) -> float:
        return pixels_seen(self.training)


def durations(params: Params, plan: Plan) -> dict[str, Duration]:
    """Durations of the plan's missing runs by key; runs that no past run tells anything about are left out."""
    if not plan.missing:
        return {}
    trainings, evaluations = map(_Pasts, _past_runs(params))
    found = {spec.key: _training(trainings, spec) for spec in plan.trainings if spec.key in plan.missing}
    found |= {spec.key: _evaluation(evaluations, spec) for spec in plan.evaluations if spec.key in plan.missing}
    return {key: duration for key, duration in found.items() if duration is not None}


def pixels_seen(training: Mapping[str, Any]) -> float:
    """Pixels that a training sees, up to a factor that all trainings on a data set share."""
    sides = training["input_size"]
    height, width = sides.values() if isinstance(sides, Mapping) else sides
    return training["train"]["epochs"] * training["model"]["clip_length"] * height * width


def elapsed(jobs: Iterable[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until all jobs are done, ``slots`` of them side by side, the longest first."""
    statuses = {job.key: Status(job) for job in jobs}
    queue = Queue(statuses, rank=lambda job: -seconds[job.key])
    running: list[tuple[float, str]] = []
    now = 0.0
    while True:
        for status in queue.next_jobs(slots - len(running)):
            heapq.heappush(running, (now + seconds[status.job.key], status.job.key))
        if not running:
            return now
        now, key = heapq.heappop(running)
        statuses[key].state = "done"
        queue.settle(statuses[key])


class _Pasts:
    """Past runs, indexed by what they may share with a future run: a grid of a thousand rows looks up each run.

    Attributes:
        same: seconds of the runs with the same configuration and inference.
        similar: trainings of the same kind, or evaluations with the same way of linking.
        all: all past runs.
    """

    def __init__(self, runs: list[_Past]):
        self.all = runs
        self.same: dict[Any, list[float]] = defaultdict(list)
        self.similar: dict[Any, list[_Past]] = defaultdict(list)
        for run in runs:
            self.same[_configuration(run.training, run.inference)].append(run.seconds)
            self.similar[_kind(run.training) if run.inference is None else run.inference["linking"]].append(run)


def _training(past: _Pasts, spec: TrainSpec) -> Duration | None:
    wanted = spec.describe()
    if same := past.same.get(_configuration(wanted)):
        return Duration(mean(same), "same")
    similar = past.similar.get(_kind(wanted), past.all)
    if not similar:
        return None
    by_pixels: dict[float, list[float]] = defaultdict(list)
    for run in similar:
        by_pixels[run.pixels].append(run.seconds)
    distances = {pixels: abs(math.log(pixels / pixels_seen(wanted))) for pixels in by_pixels}
    nearest = [pixels for pixels, distance in distances.items() if distance == min(distances.values())]
    pace = mean(seconds / pixels for pixels in nearest for seconds in by_pixels[pixels])
    return Duration(pace * pixels_seen(wanted), "similar")


def _evaluation(past: _Pasts, spec: EvalSpec) -> Duration | None:
    inference = spec.inference.model_dump(mode="json")
    if same := past.same.get(_configuration(spec.train.describe(), inference)):
        return Duration(mean(same), "same")
    # An evaluation sees every video of its split once, whatever the training did; the way of linking clips decides its time.
    similar = past.similar.get(inference["linking"], past.all)
    return Duration(mean(run.seconds for run in similar), "similar") if similar else None


def _configuration(training: Mapping[str, Any], inference: Mapping[str, Any] | None = None) -> Any:
    """What decides how long a training takes: everything but its seed, its start and the version of the code.

    Given weights have no ``train``.
    """
    return _hashable([*(training.get(name) for name in ("kind", "model", "train", "input_size", "dataset_digest")), inference])


def _kind(training: Mapping[str, Any]) -> Any:
    """What trainings of similar pace have in common. Networks of other methods have other settings."""
    model, correspondence = training["model"], training["train"].get("correspondence")
    return _hashable([training["kind"], model["backbone"], sorted(model), correspondence, training["input_size"],
                      training["dataset_digest"]])


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((name, _hashable(one)) for name, one in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _past_runs(params: Params) -> tuple[list[_Past], list[_Past]]:
    """Past trainings and evaluations. The store also has pretrainings, and trainings that are not evaluated yet."""
    trainings: dict[str, _Past] = {}
    evaluations = []
    for cell in cells.read_all(params):
        config, times = cell.config, cell.times
        evaluations.append(_Past(config.train, times.evaluate_seconds, config.inference))
        if times.train_seconds is not None:
            trainings[cell.run] = _Past(config.train, times.train_seconds)
    for file in sorted(params.runs_dir.glob("*/done.json")):
        if file.parent.name not in trainings:
            config = yaml.safe_load((file.parent / "config.yaml").read_text(encoding="utf-8"))
            seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
            trainings[file.parent.name] = _Past(config, seconds)
    return list(trainings.values()), evaluations
