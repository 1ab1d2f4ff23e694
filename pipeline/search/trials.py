"""Runs the trials of a search side by side with Ray Tune, which decides which trials to stop.

A trial trains in its own Tune actor, which holds the processors of one run. It starts no Ray tasks and waits for none, so
any number of trials can run in any number of slots. The files that Tune itself would store are thrown away: its Tuner.restore
forgets the scheduler's rungs and unpickles files. A search goes on from search.json and the run store instead: the scheduler
gets the results of finished trials again, and interrupted trials start again and find what is done.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from effvis.errors import UserError
from pipeline.engine.run import evaluate_run, train_run
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.scheduling import cluster
from pipeline.scheduling.machine import side_by_side
from pipeline.scheduling.pool import Job, Status, execute
from pipeline.scheduling.progress import Report, Stop
from pipeline.scheduling.ray_session import WORKER_DEATHS_ALLOWED, ray_running, slots_now
from pipeline.search.search import ENDED, Search, Trial, log_of, new_trial, work_folder, write_search
from pipeline.search.space import Base, SpaceFile, draw

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

_VALUE, _PART = "value", "part"  # a trial reports the metric, and the part of its training that is done, in 1/2**rungs
_ATTEMPTS = 100  # attempts to find parameters that no trial has yet
_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the command as it ends every other
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # the checkpoint is not used
    "TUNE_WARN_SLOW_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "60",
    "RAY_AIR_NEW_OUTPUT": "0",  # the banner would stand between the results on stdout
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}


@dataclass(frozen=True)
class Plan:
    """The inputs of a trial's process, besides its parameters."""

    params: Params
    base: Base
    space: SpaceFile
    seeds: int
    name: str

    def job(self, trial: Trial, work: Callable[..., object]) -> Job:
        """A trial as a job, for the pool's board."""
        return Job(trial.evaluations[0], "train", trial.label(), work, log_of(self.params, self.name, trial))

    def status(self, trial: Trial) -> Status:
        job = self.job(trial, print)
        return Status(job, progress_file=self.params.runs_dir / ".progress" / f"{job.key}.json")

def run_trials(plan: Plan, search: Search, *, trials: int, on_change: Callable[[list[Status]], None]) -> None:
    """Brings a search to this number of trials, and finishes trials that were interrupted.

    Args:
        search: the search; it is updated and written whenever results come in.
        on_change: called with the status of each trial of this attempt.

    Raises:
        UserError: the search asks for Optuna, which is not installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    proposals = _Proposals(plan, search, trials)
    scheduler = _scheduler(plan.space, search)
    resources, runs_dir = plan.params.resources, plan.params.runs_dir
    memory = cluster.memory(resources)
    storage = work_folder(plan.params, plan.name) / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    progress_folder = runs_dir / ".progress"
    progress_folder.mkdir(parents=True, exist_ok=True)
    stop = Stop(progress_folder)
    with (ray_running(side_by_side(resources) * resources.threads, runs_dir, client=False),
          stop.when_interrupted(lambda: [status.progress_file for status in proposals.statuses.values()])):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_run_trial, plan=plan, stop=stop),
                                {"cpu": resources.threads, "gpu": resources.gpus_per_worker,
                                 **({"memory": memory} if memory else {})}),
            tune_config=tune.TuneConfig(search_alg=proposals, scheduler=scheduler, num_samples=proposals.open,
                                        max_concurrent_trials=slots_now(resources, runs_dir), reuse_actors=True),
            run_config=tune.RunConfig(name="trials", storage_path=str(storage), verbose=0,
                                      callbacks=[_Watch(proposals, on_change)],
                                      failure_config=tune.FailureConfig(max_failures=WORKER_DEATHS_ALLOWED)),
        )
        tuner.fit()
    shutil.rmtree(storage, ignore_errors=True)


def _scheduler(space: SpaceFile, search: Search) -> Any:
    """Asynchronous successive halving that knows the values of earlier attempts' trials at its rungs."""
    if not space.stops:
        return FIFOScheduler()
    scheduler = ASHAScheduler(time_attr=_PART, metric=_VALUE, mode="max", grace_period=1, max_t=2**space.rungs,
                              reduction_factor=space.reduction)
    for trial in search.trials:
        if trial.state in ENDED:
            known = SimpleNamespace(trial_id=f"earlier-{trial.number}")
            scheduler.on_trial_add(None, known)
            for report in trial.reports:
                scheduler.on_trial_result(None, known, _result(space, report.halvings, report.value))
    return scheduler


def _result(space: SpaceFile, halvings: int, value: float) -> dict[str, Any]:
    return {_VALUE: value, _PART: 2 ** (space.rungs - halvings), "halvings": halvings}


class _Proposals(Searcher):
    """Gives Tune the trials that were interrupted, then new ones; records the results that Tune receives."""

    def __init__(self, plan: Plan, search: Search, trials: int):
        super().__init__(metric=_VALUE, mode="max")
        self._plan, self._search, self._trials = plan, search, trials
        self._waiting = [trial for trial in search.trials if trial.state not in ENDED]
        self._model = _Optuna(plan.space, search) if plan.space.search == "optuna" else None
        self._given: dict[str, Trial] = {}
        self._before, self._began = search.seconds, time.monotonic()
        self.statuses: dict[int, Status] = {}

    @property
    def open(self) -> int:
        """How many trials are still missing."""
        return len(self._waiting) + max(0, self._trials - len(self._search.trials))

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        trial = self._waiting.pop(0) if self._waiting else self._new()
        if trial is None:
            return Searcher.FINISHED
        trial.state, trial.message = "running", ""
        self._given[trial_id] = trial
        self.statuses[trial.number] = self._plan.status(trial)
        self._write()
        return {"number": trial.number, "parameters": trial.parameters}

    def started(self, trial_id: str) -> None:
        status = self.statuses[self._given[trial_id].number]
        status.state, status.started = "running", time.monotonic()

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        self._note(self._given[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        trial, result = self._given[trial_id], result or {}
        trial.message = "its process died; see its log" if error else result.get("failure", "")
        self._note(trial, result)
        if trial.message:
            trial.state = "diverged" if result.get("diverged") else "failed"
        else:
            trial.state = "stopped" if trial.at(0) is None else "done"
        if self._model is not None:
            self._model.learn(trial)
        self._end(self.statuses[trial.number], trial)
        self._write()

    def _note(self, trial: Trial, result: Mapping[str, Any]) -> None:
        self._search.seconds = self._before + time.monotonic() - self._began
        if "halvings" in result:
            self._search.report(trial, result["halvings"], result[_VALUE])
        self._write()

    def _end(self, status: Status, trial: Trial) -> None:
        status.state = "failed" if trial.message else "done"
        status.seconds = time.monotonic() - status.started
        value = "" if trial.value is None else f"{self._search.metric} {100 * trial.value:.1f}"
        status.message = trial.message or f"{trial.state}, {value}"

    def _new(self) -> Trial | None:
        """The next trial with new parameters; None if the space seems to hold no more."""
        for attempt in range(_ATTEMPTS):
            number = len(self._search.trials)
            values = self._model.propose() if self._model else draw(self._plan.space, number, attempt)
            same = next((trial for trial in self._search.trials if trial.parameters == values), None)
            if same is None:
                return self._search.add(values, self._plan.base.trial(self._plan.params, values, self._plan.seeds))
            if self._model is not None:
                self._model.learn(same)
        return None

    def _write(self) -> None:
        write_search(self._plan.params, self._search)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing: a search goes on from search.json."""

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a search goes on from search.json")


class _Watch(tune.Callback):
    """Passes on the statuses of the trials."""

    def __init__(self, proposals: _Proposals, on_change: Callable[[list[Status]], None]):
        self._proposals, self._on_change = proposals, on_change

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._proposals.started(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._on_change(list(self._proposals.statuses.values()))


class _Optuna:
    """Proposes parameters with Optuna's tree-structured Parzen estimator, from the values of all trials so far."""

    def __init__(self, space: SpaceFile, search: Search):
        try:
            from optuna import logging as optuna_logging
        except ImportError:
            raise UserError("search space", "search", "Optuna is not installed",
                            "Install it with pip install 'effvis[tune]', or search with asha or random") from None
        optuna_logging.set_verbosity(optuna_logging.ERROR)
        self._space = space
        distributions = {name: _distribution(one) for name, one in space.space.items()}
        # The seed depends on the number of trials, or a later attempt would propose the first trials again.
        self._searcher = OptunaSearch(distributions, metric=_VALUE, mode="max", seed=space.seed + len(search.trials))
        self._asked = 0
        for trial in search.trials:
            if trial.state in ENDED:
                self.learn(trial)

    def propose(self) -> dict[str, Any]:
        self._asked += 1
        found = self._searcher.suggest(str(self._asked))
        return {name: distribution.rounded(found[name]) for name, distribution in self._space.space.items()}

    def learn(self, trial: Trial) -> None:
        """Adds a trial's value at its last rung; a trial that diverged before any rung counts as 0."""
        if trial.state in ENDED:
            self._searcher.add_evaluated_point(trial.parameters, 0.0 if trial.value is None else trial.value)


def _distribution(one: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.choice is not None:
        return CategoricalDistribution(one.choice)
    return IntDistribution(*one.integer) if one.integer else FloatDistribution(*one.range, log=one.log_uniform is not None)


def _run_trial(config: Mapping[str, Any], *, plan: Plan, stop: Stop) -> None:
    """Runs in a Tune actor: trains to each rung, evaluates there and reports; Tune stops it inside ``tune.report``."""
    specs = plan.base.trial(plan.params, config["parameters"], plan.seeds)
    trial = new_trial(config["number"], config["parameters"], specs)
    job = plan.job(trial, partial(_climb, plan, specs))
    message = execute(job, plan.status(trial).progress_file, stop)
    if message:
        tune.report({_VALUE: math.nan, _PART: 0, "failure": message, "diverged": False})


def _climb(plan: Plan, specs: tuple[EvalSpec, ...], *, report: Report) -> None:
    from pipeline.engine.training import Diverged

    for halvings in range(plan.space.rungs, -1, -1):
        try:
            values = [_worth(plan, replace(spec, halvings=halvings), report) for spec in specs]
        except Diverged as error:
            print(f"error: {error}")
            tune.report({_VALUE: math.nan, _PART: 0, "failure": error.problem, "diverged": True})
            return
        if None not in values:
            if not halvings:
                for spec in specs:
                    cells.write(plan.params, spec)
            tune.report(_result(plan.space, halvings, mean(values)))


def _worth(plan: Plan, spec: EvalSpec, report: Report) -> float | None:
    """The metric of an evaluation, which runs if need be; None if a training that went on kept no weights to evaluate.

    Raises:
        Diverged: the loss is not finite.
        UserError: there is no ground truth to score against.
    """
    cell = cells.find(plan.params, spec)
    if cell is None:
        kept = partial(RunStore(plan.params.runs_dir).has_snapshot, spec.train.key, spec.halvings)
        if spec.halvings and not kept() and cells.find(plan.params, replace(spec, halvings=0)) is not None:
            return None
        train_run(plan.params, spec.train, until=spec.halvings, report=report)
        if spec.halvings and not kept():
            return None
        evaluate_run(plan.params, spec, report=report)
        cell = cells.find(plan.params, spec)
    value = cell.metrics[plan.space.metric]
    if value < 0:
        raise UserError(plan.params.dataset_folder, "val", f"{plan.space.metric} is not defined: there is no ground truth to "
                        "score against", "Hold training videos out to validate on, as in -S holdout.fraction=0.1")
    return value
