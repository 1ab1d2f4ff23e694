"""What a grid comes down to: its unique trainings and evaluations, and what of them is missing.

As a command it writes the keys of everything that the parameters ask for, a small file for the headline run's training
(train.json), for its evaluation (evaluate.json) and for each table, to results/plan. The stages of dvc.yaml depend on
those files: a comment in the code or a parameter that a stage does not use changes no key, and so reruns nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import Params, Row, Table
    from pipeline.schedule import Job
    from pipeline.specs import EvalSpec, TrainSpec
    from pipeline.store import RunStore


@dataclass(frozen=True)
class Plan:
    """Unique specs in the order in which the rows name them.

    Attributes:
        trainings: pretrainings among them before what starts from them.
        missing: keys that need work. A training whose evaluations are all there does not, even if its weights are
            elsewhere: a grid may be spread over machines.
        labels: key → what a person calls it.
    """

    trainings: tuple[TrainSpec, ...]
    evaluations: tuple[EvalSpec, ...]
    missing: frozenset[str]
    labels: dict[str, str]


def plan_rows(params: Params, rows: Iterable[Row]) -> Plan:
    """Finds what rows share and what the store and the committed cells have of it."""
    from pipeline import cells
    from pipeline.store import RunStore

    store = RunStore(params.runs_dir)
    trainings: dict[str, TrainSpec] = {}
    evaluations: dict[str, EvalSpec] = {}
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for spec in (*row.evaluations, *row.curve):
            evaluations[spec.key] = spec
            for one in (*_ancestors_first(spec.train), spec):
                names[one.key][f"{row.table}: {row.name}"] = None
            trainings |= {one.key: one for one in _ancestors_first(spec.train)}
    missing = {spec.key for spec in evaluations.values() if cells.find(params, spec) is None}
    for key in tuple(missing):
        missing |= {one.key for one in _missing_trainings(evaluations[key].train, store)}
    labels = {spec.key: _training_label(list(names[spec.key]), spec) for spec in trainings.values()}
    labels |= {spec.key: _evaluation_label(list(names[spec.key]), spec) for spec in evaluations.values()}
    return Plan(tuple(trainings.values()), tuple(evaluations.values()), frozenset(missing), labels)


def _ancestors_first(spec: TrainSpec) -> tuple[TrainSpec, ...]:
    return (*_ancestors_first(spec.parent), spec) if spec.parent else (spec,)


def _missing_trainings(spec: TrainSpec, store: RunStore) -> tuple[TrainSpec, ...]:
    """What has to be trained for a spec's weights: what starts from a training that is done needs nothing before it."""
    if store.is_done(spec.key):
        return ()
    return (*(_missing_trainings(spec.parent, store) if spec.parent else ()), spec)


def _training_label(cells: list[str], spec: TrainSpec) -> str:
    return f"single frames for {_first(cells)}" if spec.kind == "pretrain" else _label(cells, spec.seed)


def _evaluation_label(cells: list[str], spec: EvalSpec) -> str:
    return _label(cells, spec.train.seed) + (f", after 1/{2**spec.halvings}" if spec.halvings else "")


def _label(cells: list[str], seed: int) -> str:
    return f"{_first(cells)}, seed {seed}"


def _first(cells: list[str]) -> str:
    return f"{cells[0]} +{len(cells) - 1}" if len(cells) > 1 else cells[0]


def jobs(params: Params, plan: Plan) -> list[Job]:
    """The missing keys as jobs for the pool; a training's cost is its estimated time, or what it sees where nothing ran yet."""
    from pipeline.estimate import durations, pixels_seen
    from pipeline.evaluate import evaluate_run
    from pipeline.schedule import Job
    from pipeline.specs import TrainSpec
    from pipeline.store import RunStore
    from pipeline.train import train_run

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


def keys_of_table(table: Table) -> dict[str, object]:
    """What decides a table's numbers."""
    rows = [
        {"name": row.name, "trainings": [spec.train.key for spec in row.evaluations],
         "evaluations": [spec.key for spec in (*row.evaluations, *row.curve)]}
        for row in table.rows
    ]
    return {"table": table.name, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    options = parser(__doc__, "pipeline.plan").parse_args(argv)
    from pipeline.config import headline_spec, load_params, load_table
    from pipeline.prepare import prepare
    from pipeline.store import write_atomically

    params = load_params(options.params, options.set)
    prepare(params, params.tables)
    headline = headline_spec(params)
    plans = {"train": {"run": headline.train.key}, "evaluate": {"run": headline.train.key, "evaluation": headline.key}}
    plans |= {name: keys_of_table(load_table(params, name)) for name in params.tables}
    folder = params.results_dir / "plan"
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in plans.items():
        write_atomically(folder / f"{name}.json", (json.dumps(keys, indent=2) + "\n").encode())
    for file in folder.glob("*.json"):
        if file.stem not in plans:  # of a table that is not asked for any more
            file.unlink()
    print(f"{folder}: {', '.join(plans)}")
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
