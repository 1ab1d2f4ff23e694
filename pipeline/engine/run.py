"""Trains or evaluates one run, unless the run store has the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.data.dataset import Category
from effvis.errors import UserError
from pipeline.engine.workers import predict_on_workers, train_on_workers
from pipeline.grid.rows import evaluation_digest
from pipeline.identity.specs import GivenSpec, steps_after
from pipeline.indexing.read import load_index
from pipeline.runs.storage import pull_run
from pipeline.runs.store import RunStore
from pipeline.system.cli import progress_bar

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec, TrainSpec
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params


def train_run(params: Params, spec: TrainSpec, *, until: int = 0, report: OnProgress | None = None) -> Path:
    """Trains a run unless the store has it, and returns its folder.

    It may be killed at any moment and called again: it goes on from its last checkpoint, and ends with bitwise the same
    weights (on several workers, the same except for rounding). Only one process at a time works on a key; the run that it
    starts from is trained first.

    Args:
        until: the training ends after 1/2**until of its steps, and keeps these weights as a snapshot. Unless it is 0, the run
            is not done: a later call goes on from there.
        report: called about once a second.

    Raises:
        Diverged: the loss is not finite.
        KeyboardInterrupt: ``report`` asked to stop; a checkpoint of the last step is kept.
        UserError: the dataset is not the one that the spec was made for.
    """
    store = RunStore(params.runs_dir)
    if not store.is_done(spec.key):
        pull_run(params, spec.key)
        if spec.parent is not None and not store.is_done(spec.key):
            train_run(params, spec.parent, report=report)
    with store.lock(spec.key):
        if not store.is_done(spec.key) and not (until and store.has_snapshot(spec.key, until)):
            if params.resources.workers_per_run == 1:
                from pipeline.engine.training import work

                work(params, spec, report, until)
            else:
                train_on_workers(params, spec, report)
    return store.folder(spec.key)


def train_with_bars(params: Params, spec: TrainSpec) -> Path:
    """``train_run`` with a progress bar for each training, beginning with the one that it starts from."""
    if spec.parent is not None and not RunStore(params.runs_dir).is_done(spec.key):
        train_with_bars(params, spec.parent)
    with progress_bar(f"{spec.kind} {spec.key}") as update:
        return train_run(params, spec, report=lambda r: update(r["step"], r["total"], f"loss {r['loss']:.3f}"))


def evaluate_run(params: Params, spec: EvalSpec, *, report: OnProgress | None = None) -> dict[str, Any]:
    """The content of the evaluation's ``metrics.json``, computed unless the store has it.

    Args:
        report: called with ``step`` and ``total``, in videos.

    Returns:
        ``metrics`` (the 12 numbers as fractions, AP_any_category, and with ``inference.same_frames_fps`` AP_same_frames; of
        a start all but AP_any_category are undefined), ``AP_resampled`` (``pipeline.runs.cells``), ``per_category``,
        ``seconds`` of prediction, ``frames``, ``frames_per_second``, the ``split``, and the keys ``run`` and ``evaluation``.

    Raises:
        UserError: the run is not trained far enough, given weights have changed, or the dataset is not the one that the spec
            was made for.
    """
    store = RunStore(params.runs_dir)
    run, own = spec.train.key, spec.key
    found = store.evaluation(run, own)
    if found is not None:
        return found
    if isinstance(spec.train, GivenSpec):
        with store.lock(run):
            store.begin(run, spec.train.describe())
    else:
        pull_run(params, run)
    with store.lock(f"{run}-{own}"):
        return store.evaluation(run, own) or _evaluate(params, spec, store, report)


def _evaluate(params: Params, spec: EvalSpec, store: Any, report: OnProgress | None) -> dict[str, Any]:
    from pipeline.engine.prediction import predict_here
    from pipeline.engine.scoring import scored
    from pipeline.engine.training import steps_of_whole

    params, of_start = params.of_dataset(spec.start_on or spec.train.dataset_name), spec.start_on is not None
    index = load_index(params, spec.split)
    if evaluation_digest(spec.train.method, index.digest) != spec.evaluation_digest:
        raise UserError(params.index_folder, "digest", "the dataset changed after this evaluation was planned", "Start again")
    if of_start:  # its categories are not the data set's, and any names will do
        index = replace(index, categories=tuple(Category(k + 1, str(k + 1)) for k in range(spec.train.model.num_classes)))
    if params.resources.workers_per_run == 1:
        predictions, seconds = predict_here(params, spec, index, report)
    else:
        predictions, seconds = predict_on_workers(params, spec, index, report)
    facts = {"run": spec.train.key, "evaluation": spec.key, "split": spec.split,
             **scored(params, index, predictions, spec.inference, seconds, of_start=of_start)}
    if not (of_start or isinstance(spec.train, GivenSpec)):
        whole = steps_of_whole(store.folder(spec.train.key), spec.train)
        facts["videos_seen"] = steps_after(whole, spec.halvings) * spec.train.train.batch_size
    return store.write_evaluation(spec.train.key, spec.key, predictions.results, facts)
