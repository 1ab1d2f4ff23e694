"""A row's network, trained and scored in this process, with whatever code stands in effvis at the moment."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from torch import nn

from effvis.data.dataset import DatasetIndex
from effvis.data.parsing import annotation_file
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from effvis.evaluation.ground_truth_file import read_ground_truth_file
from effvis.inference.predictor import Predictions
from effvis.methods import build_model
from effvis.training.loop import train
from pipeline import methods
from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import score
from pipeline.engine.training import initial_weights, set_up_torch, start
from pipeline.grid.rows import evaluation_spec, find_in_table
from pipeline.grid.starts import Initial
from pipeline.identity.specs import EvalSpec
from pipeline.indexing.read import dataset_facts, load_clips, load_index
from pipeline.runs.store import RunStore
from pipeline.scheduling.machine import device
from pipeline.settings.params import Params, RowSettings

METRICS = ("AP", "AP50", "AP75")


class RowToTrain(NamedTuple):
    """A row for one seed.

    Attributes:
        params: the parameters, of the row's data set.
        settings: the row in the paper's terms.
        start: the weights it starts from; None: random ones.
    """

    params: Params
    settings: RowSettings
    spec: EvalSpec
    start: Initial | None


class Split(NamedTuple):
    """The videos that are scored."""

    name: str
    index: DatasetIndex
    truth: dict[str, Any]


def row_to_train(params: Params, row: str, seed: int) -> RowToTrain:
    """The row ``<table>:<name>``.

    Raises:
        UserError: there is no such row, it is of another method, or what it starts from is not trained yet.
    """
    settings = find_in_table(params, row)[1]
    if settings.method != methods.DEFAULT:
        raise UserError("--row", row, f"is of {methods.get(settings.method).title}", "Name a row of EfficientVIS")
    spec = evaluation_spec(params, settings, seed)
    params = params.of_dataset(spec.train.dataset_name)
    store, parent = RunStore(params.runs_dir), spec.train.parent
    if parent is not None and not store.is_done(parent.key):
        raise UserError("--row", row, f"starts from the training {parent.key}, which is not done",
                        f"Run python -m pipeline.pretrain --row {row!r}")
    return RowToTrain(params, settings, spec, initial_weights(params, spec.train, store))


def split_of(params: Params, name: str) -> Split:
    """The split ``val`` of the index, or the folder of another name in the data set.

    Raises:
        UserError: there is no such split, it has no instances, or other categories.
    """
    if name == "val":
        index = load_index(params, name)
        return Split(name, index, ground_truth(params, index))
    folder = params.dataset_folder / name
    file = annotation_file(folder)
    if file is None:
        raise UserError(folder, "--split", "there are no annotations of such a split", "Name another one: val is always there")
    index, categories = read_split(folder), dataset_facts(params).categories
    found = tuple(category.name for category in index.categories)
    if found != categories:
        raise UserError(file, "categories", f"are {', '.join(found)}", f"Those of train are {', '.join(categories)}")
    return Split(name, index, read_ground_truth_file(file).content)


def trained(row: RowToTrain, *, steps: int, every: int, title: str) -> tuple[nn.Module, dict[str, Any]]:
    """Trains the row's network from its start; returns it, and what the training took.

    Args:
        steps: stop after so many; 0: train to the end.
        every: steps from one printed line to the next.
    """
    params, spec = row.params, row.spec.train
    set_up_torch(params)
    began, processor = time.monotonic(), time.process_time()
    begun = start(spec, load_index(params, "train"), load_clips(params, "train", spec.model.clip_length), row.start)
    begun.model.to(device(params.resources))
    for step in train(begun.model, begun.losses_of, begun.pairs, spec.train):
        last = step.step == (min(steps, step.total_steps) if steps else step.total_steps)
        if last or step.step % every == 0:
            print(f"{title}: step {step.step} of {step.total_steps}, loss {step.losses['total']:.2f}", flush=True)
        if last:
            break
    return begun.model, {"steps": step.step, "seconds": round(time.monotonic() - began, 1),
                         "cpu_seconds": round(time.process_time() - processor, 1)}


def loaded(row: RowToTrain, weights: dict[str, Any]) -> nn.Module:
    """The row's network with its trained weights."""
    set_up_torch(row.params)
    model = build_model(row.spec.train.model)
    model.load_state_dict(weights)
    return model.to(device(row.params.resources))


def predicted(row: RowToTrain, model: nn.Module, split: Split) -> Predictions:
    """The predictions of a split in the row's way."""
    spec = row.spec
    return methods.get(spec.train.method).predict(model, split.index, spec.inference, spec.train.input_size, None)


def scored(split: Split, predictions: Predictions) -> dict[str, float]:
    """AP, AP50 and AP75 in percent, on the frames that the predictions were made for."""
    metrics = score(split.truth, predictions).metrics
    return {name: round(100 * metrics[name], 2) for name in METRICS}
