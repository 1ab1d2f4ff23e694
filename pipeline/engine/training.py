"""A training in this process: the network, its losses, its steps, history and checkpoints."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from effvis.data.clips import ClipPairs
from effvis.data.prefetch import Prefetched
from effvis.errors import UserError
from effvis.methods import build_model
from effvis.training.loop import total_steps, train
from effvis.training.parts import of_first_worker, workers
from pipeline import methods
from pipeline.grid import imagenet, starts
from pipeline.identity.specs import steps_after
from pipeline.indexing.read import load_clips, load_index
from pipeline.runs.environment import environment
from pipeline.runs.log import RunLog
from pipeline.runs.store import RunStore
from pipeline.scheduling.machine import device, peak_memory_mib, reset_peak_memory
from pipeline.system.cli import deferred_stop

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.data.index import ClipIndex
    from effvis.data.targets import ClipPairBatch
    from pipeline.identity.specs import TrainSpec
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params


REPORT_SECONDS = 1.0
LAST_STEPS = 50  # the final loss is the mean over this many steps


class Diverged(UserError):
    """The loss of a training is not finite: its settings are at fault, and training it again would end the same way."""


class Start(NamedTuple):
    """A training before its first step.

    Attributes:
        losses_of: computes the losses of a batch, by name.
        left_out: names of weights that stay as initialised, and of initial weights that fit nowhere.
    """

    model: nn.Module
    losses_of: Callable[[ClipPairBatch], dict[str, Any]]
    pairs: ClipPairs
    left_out: list[str]


def start(spec: TrainSpec, index: DatasetIndex, clips: ClipIndex, initial: starts.Initial | None) -> Start:
    """Builds the network and the batches that it will be trained on.

    A change here changes the training: the training code's digest covers this function.

    Raises:
        UserError: the initial weights do not belong to this network.
    """
    method = methods.get(spec.method)
    torch.manual_seed(spec.seed)
    model = build_model(spec.model)
    try:
        categories = [category.name for category in index.categories]
        left_out = initial.load_into(model, categories) if initial is not None else []
    except ValueError as error:
        raise UserError("params.yaml", f"{method.prefix}pretrain.source", f"{spec.init} is of another network: {error}",
                        "Give weights of this one, or set scratch") from None
    clips_per_video = method.clips_per_video(spec.train, spec.model.clip_length, index.longest_video)
    pairs = ClipPairs(index, clips, input_size=spec.input_size, batch_size=spec.train.batch_size, seed=spec.seed,
                      flip=spec.train.horizontal_flip, augmentation=spec.train.augmentation, scales=spec.train.scales,
                      crop_share=spec.train.crop_share, clips_per_video=clips_per_video, colour=spec.train.colour)
    return Start(model, method.losses(model, spec.train), pairs, left_out)


def set_up_torch(params: Params) -> None:
    """Sets PyTorch to deterministic algorithms only, and to as many threads as the parameters give a run."""
    torch.set_num_threads(params.resources.threads)
    torch.use_deterministic_algorithms(True)
    # Every fresh tensor would be filled first, so that what reads it too early is found; nothing here does.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_flush_denormal(True)  # tiny gradients would slow the processor down


def work(params: Params, spec: TrainSpec, report: OnProgress | None, until: int = 0) -> None:
    """Trains in this process: the whole training or, if torch.distributed is initialised, one worker's part.

    Only the first worker writes to the store.

    Args:
        until: as in ``train_run``.

    Raises:
        UserError: as in ``train_run``.
    """
    began = time.time()
    reset_peak_memory()
    params = params.of_dataset(spec.dataset_name)
    set_up_torch(params)
    index = load_index(params, "train")
    if index.digest != spec.dataset_digest:
        raise UserError(params.index_folder, "digest", "the dataset changed after this run was planned", "Start again")
    clips = load_clips(params, "train", spec.model.clip_length)
    store = RunStore(params.runs_dir)
    begun = start(spec, index, clips, initial_weights(params, spec, store))
    begun.model.to(device(params.resources))

    log = RunLog(store.folder(spec.key))
    prefetch = params.resources.prefetch
    try:
        with Prefetched(begun.pairs) if prefetch else nullcontext(begun.pairs) as pairs:
            begun = begun._replace(pairs=pairs)
            if workers()[0] > 0:
                _follow(params, spec, begun, log)
                return
            store.begin(spec.key, spec.describe())
            steps, times = _steps(params, spec, begun, store, log, until, report)
    except FloatingPointError as error:
        raise Diverged(store.folder(spec.key), "train.lr", str(error), "Lower it, or raise train.warmup_steps") from None
    finally:
        log.close()
    if until:
        return
    store.finish(spec.key, begun.model.state_dict(), {
        "steps": steps, **{name: round(value, 3) for name, value in times.items()}, "began": began, "ended": time.time(),
        "clips_per_second": round(steps * spec.train.batch_size * begun.pairs.clips_per_video / times["seconds"], 3),
        "code_digest": spec.code_digest, "initial_weights_left_out": begun.left_out,
        "peak_memory_mib": peak_memory_mib(), **environment()})


def _steps(
    params: Params, spec: TrainSpec, begun: Start, store: RunStore, log: Any, until: int, report: OnProgress | None
) -> tuple[int, dict[str, float]]:
    """Trains to the end, or as far as ``until`` says, with history and checkpoints; returns the steps and the times of all
    attempts together."""
    snapshot = log.resume() or {"training": None, "times": {"seconds": 0.0, "cpu_seconds": 0.0}}
    clock = _Clock(snapshot["times"])
    saved, step = time.monotonic(), of_first_worker(snapshot["training"]["step"] if snapshot["training"] else 0)
    pace = _Pace(report)
    with deferred_stop() as stop:
        for progress in train(begun.model, begun.losses_of, begun.pairs, spec.train, resume=snapshot["training"],
                              accumulate=params.resources.accumulate):
            step, times = progress.step, clock.read()
            log.append({"step": step, "time": time.time(), "seconds": round(times["seconds"], 3), "epoch": progress.epoch,
                        "videos_seen": progress.videos_seen, "lr": progress.lr, "loss": progress.losses["total"],
                        **{f"loss_{name}": value for name, value in progress.losses.items() if name != "total"}})
            for halvings in range(1, max(params.resources.snapshots, until) + 1):
                if step == steps_after(progress.total_steps, halvings):
                    store.keep_snapshot(spec.key, halvings, begun.model.state_dict())
            if pace.step(step, progress.total_steps, loss=progress.losses["total"], lr=progress.lr):
                stop.ask()
            enough = until and step >= steps_after(progress.total_steps, until)
            if stop or enough or time.monotonic() - saved > params.resources.checkpoint_seconds:
                log.checkpoint({"training": progress.state(), "times": times}, step)
                saved = time.monotonic()
            stop.raise_if_set()
            if enough:
                break
    return step, clock.read()


def _follow(params: Params, spec: TrainSpec, begun: Start, log: Any) -> None:
    """Trains to the end beside the first worker, from the snapshot that the first worker found."""
    step = of_first_worker(0)
    resume = log.snapshot(step)["training"] if step else None
    for _ in train(begun.model, begun.losses_of, begun.pairs, spec.train, resume=resume,
                   accumulate=params.resources.accumulate):
        pass


class _Clock:
    """Wall and processor time of a training; a resumed training counts on from the times of its checkpoint."""

    def __init__(self, before: Mapping[str, float]):
        self._wall, self._cpu = time.monotonic() - before["seconds"], time.process_time() - before["cpu_seconds"]

    def read(self) -> dict[str, float]:
        return {"seconds": time.monotonic() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


class _Pace:
    """Passes on about one report a second, with the time left at the pace of this process."""

    def __init__(self, report: OnProgress | None):
        self._report, self._said = report, float("-inf")
        self._first: tuple[int, float] | None = None

    def step(self, step: int, total: int, **facts: Any) -> bool:
        """Reports a step; returns whether the training is asked to stop."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        if self._report is None or (now - self._said < REPORT_SECONDS and step < total):
            return False
        self._said = now
        done, elapsed = step - self._first[0], now - self._first[1]
        eta = elapsed / done * (total - step) if done else None
        return bool(self._report({"step": step, "total": total, **facts, "eta": eta}))


def initial_weights(params: Params, spec: TrainSpec, store: RunStore) -> starts.Initial | None:
    if spec.parent is not None:
        return starts.Initial(store.load_weights(spec.parent.key), spec.parent.categories)
    if spec.init is None:
        return None
    if spec.init.startswith(imagenet.PREFIX):
        return imagenet.load(spec.model)
    if spec.init.startswith("file:"):
        source = params.of_method(spec.method).pretrain.source
        return starts.load_file_start(params.root / starts.file_name(source, spec.model), spec.init)
    return starts.load(spec.init)


def steps_of_whole(folder: Path, spec: TrainSpec) -> int:
    """The number of steps of a whole training, which may not have reached its end yet."""
    with (folder / "history.jsonl").open() as history:
        first = json.loads(history.readline())
    return total_steps(spec.train, round(first["step"] / first["epoch"]))


def final_loss(folder: Path) -> float:
    """Mean loss of a run's last steps."""
    last = (folder / "history.jsonl").read_text().splitlines()[-LAST_STEPS:]
    return sum(json.loads(line)["loss"] for line in last) / len(last)
