"""The missing trainings and evaluations of a grid, each once, in an order in which they can run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.identity.specs import GivenSpec, TrainSpec
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.tables import speeds

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row, Table
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params


@dataclass(frozen=True)
class Plan:
    """Unique specs in the order in which the rows name them.

    Attributes:
        trainings: all trainings, with pretrainings before the trainings that start from them.
        missing: keys that need work. A training whose evaluations are all there needs none, even if its weights are
            elsewhere: a grid may be spread over machines.
        labels: names for people, by key.
    """

    trainings: tuple[TrainSpec, ...]
    evaluations: tuple[EvalSpec, ...]
    missing: frozenset[str]
    labels: dict[str, str]

    @property
    def unfinished_runs(self) -> set[str]:
        """Keys of the trainings that are missing or have a missing evaluation."""
        trainings = {spec.key for spec in self.trainings if spec.key in self.missing}
        return trainings | {spec.train.key for spec in self.evaluations if spec.key in self.missing}


def plan_rows(params: Params, rows: Iterable[Row]) -> Plan:
    """Finds what the rows share, and what of it is already in the store or in the committed cells."""
    store = RunStore(params.runs_dir)
    trainings: dict[str, TrainSpec] = {}
    evaluations: dict[str, EvalSpec] = {}
    names: dict[str, dict[str, None]] = defaultdict(dict)
    for row in rows:
        for spec in row.to_run:
            evaluations[spec.key] = spec
            for one in (*_trainings(spec), spec):
                names[one.key][f"{row.table}: {row.name}"] = None
            trainings |= {one.key: one for one in _trainings(spec)}
    missing = {spec.key for spec in evaluations.values() if cells.find_cell(params, spec) is None}
    for key in tuple(missing):
        missing |= {one.key for one in _missing_trainings(evaluations[key], store)}
    labels = {spec.key: _training_label(list(names[spec.key]), spec) for spec in trainings.values()}
    labels |= {spec.key: _evaluation_label(list(names[spec.key]), spec) for spec in evaluations.values()}
    return Plan(tuple(trainings.values()), tuple(evaluations.values()), frozenset(missing), labels)


def _trainings(spec: EvalSpec) -> tuple[TrainSpec, ...]:
    """An evaluation's training, after those that it starts from; none for weights that were given."""
    found: tuple[TrainSpec, ...] = ()
    training = spec.train if isinstance(spec.train, TrainSpec) else None
    while training is not None:
        found, training = (training, *found), training.parent
    return found


def _missing_trainings(spec: EvalSpec, store: RunStore) -> tuple[TrainSpec, ...]:
    """The trainings needed for an evaluation's weights; nothing before a finished training is needed."""
    needed: tuple[TrainSpec, ...] = ()
    for training in _trainings(spec):
        needed = () if store.is_done(training.key) else (*needed, training)
    return needed


def _training_label(cells: list[str], spec: TrainSpec) -> str:
    label = _label(cells, spec.seed)
    return f"{spec.dataset_name}, single frames, for {label}" if spec.kind == "pretrain" else label


def _evaluation_label(cells: list[str], spec: EvalSpec) -> str:
    if spec.start_on is not None:
        return f"before clips of {_label(cells, spec.train.seed)}"
    if isinstance(spec.train, GivenSpec):
        return _first(cells)
    return _label(cells, spec.train.seed) + (f", after 1/{2**spec.halvings}" if spec.halvings else "")


def _label(cells: list[str], seed: int) -> str:
    return f"{_first(cells)}, seed {seed}"


def _first(cells: list[str]) -> str:
    return f"{cells[0]} +{len(cells) - 1}" if len(cells) > 1 else cells[0]


def keys_of_table(params: Params, table: Table) -> dict[str, object]:
    """The keys that decide a table's numbers; in place of a training's, a row of given weights has theirs. With them the speeds
    that it shows, which follow from no key.

    Raises:
        UserError: the file of speeds is wrong.
    """
    conditions, speed = speeds.of_table(params, table)
    rows = [
        {"name": row.name, "trainings": [spec.train.key for spec in row.evaluations],
         "evaluations": [spec.key for spec in row.to_run]}
        for row in table.rows
    ]
    keys: dict[str, object] = {"table": table.name, "rows": rows}
    if conditions is not None:
        keys["speed"] = {"conditions": conditions.model_dump(mode="json"),
                         "rows": {name: one.model_dump() for name, one in speed.items()}}
    return keys
