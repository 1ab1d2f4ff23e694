"""The missing trainings and evaluations as jobs of the pool."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pipeline.engine.run import evaluate_run, train_run
from pipeline.identity.specs import TrainSpec
from pipeline.planning.estimate import durations, pixels_seen
from pipeline.planning.plan import Plan
from pipeline.runs.store import RunStore
from pipeline.scheduling.pool import Job

if TYPE_CHECKING:
    from pipeline.settings.params import Params


def jobs(params: Params, plan: Plan) -> list[Job]:
    """The missing keys as jobs for the pool. A training's cost is its estimated time or, if nothing ran yet, what it sees."""
    store = RunStore(params.runs_dir)
    expected = durations(params, plan)
    result = []
    for spec in (*plan.trainings, *plan.evaluations):
        if spec.key not in plan.missing:
            continue
        label = plan.labels[spec.key]
        if isinstance(spec, TrainSpec):
            log = store.folder(spec.key) / "log.txt"
            needs = (spec.parent.key,) if spec.parent else ()
            cost = expected[spec.key].seconds if spec.key in expected else pixels_seen(spec.describe())
            result.append(Job(spec.key, spec.kind, label, partial(train_run, params, spec), log, needs, cost))
        else:
            log = store.folder(spec.train.key) / f"log-{spec.key}.txt"
            work = partial(evaluate_run, params, spec)
            result.append(Job(spec.key, "evaluate", label, work, log, (spec.train.key,)))
    return result
