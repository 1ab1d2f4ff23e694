"""How long what a grid misses will take, from past runs: the committed cells and the run store.

A run takes as long as its configuration took before, whatever the seed. One that never ran takes as long per pixel seen as
the runs that are most like it.
"""

from __future__ import annotations

import heapq
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.plan import Plan
    from pipeline.schedule import Job
    from pipeline.specs import EvalSpec, TrainSpec


@dataclass(frozen=True)
class Duration:
    """Seconds, and what they stand on: runs of the same configuration, or similar runs."""

    seconds: float
    basis: Literal["same", "similar"]


@dataclass(frozen=True)
class _Past:
    """A training or an evaluation that ended.

    Attributes:
        training: its configuration, or that of the training that was evaluated; as in a run's ``config.yaml``.
        inference: of an evaluation.
    """

    training: Mapping[str, Any]
    seconds: float
    inference: Mapping[str, Any] | None = None


def durations(params: Params, plan: Plan) -> dict[str, Duration]:
    """By key, for what the plan misses; what no past run tells anything about is left out."""
    trainings, evaluations = _past_runs(params)
    found = {spec.key: _training(trainings, spec) for spec in plan.trainings if spec.key in plan.missing}
    found |= {spec.key: _evaluation(evaluations, spec) for spec in plan.evaluations if spec.key in plan.missing}
    return {key: duration for key, duration in found.items() if duration is not None}


def pixels_seen(training: Mapping[str, Any]) -> float:
    """Pixels that a training sees, but for a factor that all trainings on a data set share."""
    height, width = training["input_size"]
    return training["train"]["epochs"] * training["model"]["clip_length"] * height * width


def elapsed(jobs: Iterable[Job], seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until all jobs are done, ``slots`` side by side, those that take longest first."""
    jobs = list(jobs)
    waiting = sorted(jobs, key=lambda job: -seconds[job.key])
    unfinished = {job.key for job in jobs}
    running: list[tuple[float, str]] = []
    now = 0.0
    while unfinished:
        for job in [job for job in waiting if not unfinished.intersection(job.needs)][: slots - len(running)]:
            waiting.remove(job)
            heapq.heappush(running, (now + seconds[job.key], job.key))
        now, key = heapq.heappop(running)
        unfinished.remove(key)
    return now


def _training(past: list[_Past], spec: TrainSpec) -> Duration | None:
    wanted = spec.describe()
    same = [run.seconds for run in past if _configuration(run.training) == _configuration(wanted)]
    if same:
        return Duration(mean(same), "same")
    similar = [run for run in past if _kind(run.training) == _kind(wanted)] or past
    if not similar:
        return None
    distances = [abs(math.log(pixels_seen(run.training) / pixels_seen(wanted))) for run in similar]
    nearest = [run for run, distance in zip(similar, distances, strict=True) if distance == min(distances)]
    pace = mean(run.seconds / pixels_seen(run.training) for run in nearest)
    return Duration(pace * pixels_seen(wanted), "similar")


def _evaluation(past: list[_Past], spec: EvalSpec) -> Duration | None:
    wanted, inference = spec.train.describe(), spec.inference.model_dump(mode="json")
    same = [run.seconds for run in past
            if run.inference == inference and _configuration(run.training) == _configuration(wanted)]
    if same:
        return Duration(mean(same), "same")
    # An evaluation sees every validation video once, whatever the training did; how clips are linked decides its time.
    similar = [run for run in past if run.inference["linking"] == inference["linking"]] or past
    return Duration(mean(run.seconds for run in similar), "similar") if similar else None


def _configuration(training: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how long a training takes: all but its seed, its start and the version of the code."""
    return tuple(training[name] for name in ("kind", "model", "train", "input_size", "dataset_digest"))


def _kind(training: Mapping[str, Any]) -> tuple[Any, ...]:
    """What trainings of similar pace have in common. Another method's network has other settings."""
    model, correspondence = training["model"], training["train"].get("correspondence")
    return (training["kind"], model["backbone"], sorted(model), correspondence, training["input_size"],
            training["dataset_digest"])


def _past_runs(params: Params) -> tuple[list[_Past], list[_Past]]:
    """Trainings and evaluations. The store has pretrainings, too, and trainings that are not evaluated yet."""
    import yaml

    from pipeline import cells

    trainings: dict[str, _Past] = {}
    evaluations = []
    for cell in cells.read_all(params):
        config, times = cell["config"], cell["times"]
        evaluations.append(_Past(config["train"], times["evaluate_seconds"], config["inference"]))
        if times["train_seconds"] is not None:
            trainings[cell["run"]] = _Past(config["train"], times["train_seconds"])
    for file in sorted(params.runs_dir.glob("*/done.json")):
        if file.parent.name not in trainings:
            config = yaml.safe_load((file.parent / "config.yaml").read_text(encoding="utf-8"))
            seconds = json.loads(file.read_text(encoding="utf-8"))["seconds"]
            trainings[file.parent.name] = _Past(config, seconds)
    return list(trainings.values()), evaluations
