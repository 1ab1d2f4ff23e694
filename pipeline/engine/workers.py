"""Runs that several workers share: a training is a Ray TorchTrainer, an evaluation has a Ray task for each part of the videos.

The process that starts the workers takes no processor for itself. Workers write to the run store, so they need its folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effvis.data.holdout import select
from effvis.errors import UserError
from pipeline.runs.store import RunStore
from pipeline.scheduling import cluster
from pipeline.scheduling.progress import Stop, read_progress, write_progress
from pipeline.scheduling.ray_session import WORKER_DEATHS_ALLOWED, ray_running

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from pipeline.identity.specs import EvalSpec, TrainSpec
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params, ResourceSettings

REPORT_SECONDS = 1.0
_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # an end goes unnoticed for as long; the default is 2 s
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def train_on_workers(params: Params, spec: TrainSpec, report: OnProgress | None) -> None:
    """Trains on ``resources.workers_per_run`` workers, each of which computes its part of every batch.

    If a worker dies, all workers are started again and go on from the last checkpoint.

    Raises:
        KeyboardInterrupt, UserError: as in ``pipeline.engine.run.train_run``.
    """
    resources = params.resources
    storage = params.runs_dir / ".ray"
    mistake = storage / f"{spec.key}.mistake.json"
    storage.mkdir(parents=True, exist_ok=True)
    mistake.unlink(missing_ok=True)
    with (ray_running(resources.workers_per_run * resources.threads, params.runs_dir, client=False) as ray,
          _progress_files(params, spec.key, 1) as files):
        stop = Stop(files[0].parent)
        fit = ray.remote(_fit).options(num_cpus=0, max_retries=WORKER_DEATHS_ALLOWED)
        fitted = fit.remote(params, spec, files[0], mistake, stop)
        try:
            with stop.when_interrupted(lambda: files):
                _relay(ray, fitted, files[0], report)
            _value(ray, fitted)
        finally:
            ray.cancel(fitted, force=True)  # ends its workers, too, if it has not ended and Ray goes on
    if mistake.exists():
        where, key, problem, remedy = json.loads(mistake.read_text())
        mistake.unlink()
        raise UserError(where, key, problem, remedy)
    shutil.rmtree(storage / spec.key, ignore_errors=True)


def _fit(params: Params, spec: TrainSpec, progress_file: Path, mistake: Path, stop: Stop) -> None:
    """Runs in a Ray task, whose main thread waits in ``fit`` until everything has ended.

    In the driver's main thread, Ray Train would handle Ctrl-C itself. In another thread of the driver, it would not end with
    an interrupted training, and a thread that waits in Ray while Python exits crashes: Ray polls Python for signals every
    second.
    """
    cluster.check_here()
    for name, value in _TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = params.resources
    TorchTrainer(
        _train_function(params, spec, progress_file, mistake, stop),
        scaling_config=ScalingConfig(
            num_workers=resources.workers_per_run, use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=_of_a_worker(resources)),
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        run_config=RunConfig(name=spec.key, storage_path=str(mistake.parent),
                             failure_config=FailureConfig(max_failures=WORKER_DEATHS_ALLOWED))).fit()


def _of_a_worker(resources: ResourceSettings) -> dict[str, float]:
    wanted = {"CPU": resources.threads, "GPU": resources.gpus_per_worker, "memory": cluster.memory(resources)}
    return {name: amount for name, amount in wanted.items() if amount}


def _train_function(
    params: Params, spec: TrainSpec, progress_file: Path, mistake: Path, stop: Stop
) -> Callable[[], None]:
    """The function that each worker runs; it is a closure, because Ray Train sends the function to the workers as it is."""
    def function() -> None:
        from effvis.training.parts import workers
        from pipeline.engine.training import work

        cluster.check_here()
        if mistake.exists():  # an earlier attempt found it, and another attempt would not help
            return
        first = workers()[0] == 0
        # A driver that died may have left workers that have not ended yet.
        alone = RunStore(params.runs_dir).lock(f"{spec.key}-workers") if first else contextlib.nullcontext()
        try:
            with alone:
                work(params, spec, stop.reporting(progress_file) if first else None)
        except UserError as error:
            mistake.write_text(json.dumps([error.where, error.key, error.problem, error.remedy]))
            raise
        except KeyboardInterrupt:  # as requested; the driver, which waits for this, ends the other workers
            progress_file.unlink()

    return function


def _relay(ray: Any, fitted: Any, progress_file: Path, report: OnProgress | None) -> None:
    """Waits for the training, and passes on the first worker's reports.

    Raises:
        KeyboardInterrupt: ``report`` asked to stop.
    """
    said: dict[str, Any] = {}
    pending = [fitted]
    while pending:
        _, pending = ray.wait(pending, timeout=REPORT_SECONDS)
        progress = read_progress(progress_file)
        if report is not None and progress and progress != said:
            said = progress
            if report(progress):
                raise KeyboardInterrupt


def _value(ray: Any, reference: Any) -> Any:
    """The result of a task or of a list of tasks; raises the task's exception."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def predict_on_workers(
    params: Params, spec: EvalSpec, index: DatasetIndex, report: OnProgress | None
) -> tuple[Predictions, float]:
    """As ``pipeline.engine.prediction.predict_here``, in ``resources.workers_per_run`` tasks with a part of the videos each.

    The predictions are the same, in the same order; the time is that of the slowest task.
    """
    from effvis.inference.predictor import Predictions

    resources = params.resources
    places = [part.tolist() for part in np.array_split(range(len(index.videos)), resources.workers_per_run) if len(part)]
    with (ray_running(resources.workers_per_run * resources.threads, params.runs_dir) as ray,
          _progress_files(params, spec.key, len(places)) as files):
        task = ray.remote(_predict_part).options(
            num_cpus=resources.threads, num_gpus=resources.gpus_per_worker, memory=cluster.memory(resources) or None,
            max_retries=WORKER_DEATHS_ALLOWED)
        references = [task.remote(params, spec, select(index, part), file) for part, file in zip(places, files, strict=True)]
        pending = references
        while pending:
            _, pending = ray.wait(pending, num_returns=len(pending), timeout=REPORT_SECONDS)
            if report is not None:
                report({"step": sum(read_progress(file).get("step", 0) for file in files), "total": len(index.videos)})
        parts = _value(ray, references)
    predictions = Predictions([result for found, _ in parts for result in found.results],
                              {video: frames for found, _ in parts for video, frames in found.kept.items()})
    return predictions, max(seconds for _, seconds in parts)


def _predict_part(
    params: Params, spec: EvalSpec, index: DatasetIndex, progress_file: Path
) -> tuple[Predictions, float]:
    from pipeline.engine.prediction import predict_here

    cluster.check_here()
    return predict_here(params, spec, index, partial(write_progress, progress_file))


@contextlib.contextmanager
def _progress_files(params: Params, key: str, workers: int) -> Iterator[list[Path]]:
    folder = params.runs_dir / ".progress"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{key}.worker-{number}.json" for number in range(workers)]
    for file in files:
        file.unlink(missing_ok=True)
    try:
        yield files
    finally:
        for file in files:
            file.unlink(missing_ok=True)
