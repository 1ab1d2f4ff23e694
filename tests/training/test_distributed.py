"""A batch in parts: two workers, or two parts in turn, train the same as one. Real processes, gloo and Ray Train are used."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import psutil
import pytest
import torch
import torch.distributed as dist
from support.builders import clip_pairs, small_vistr, tiny_model
from support.project import CHECKOUT, write_params
from support.stored import saved_at, steps_done

from effvis.config import LossWeights, TrainConfig
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from effvis.training import correspondence
from effvis.training.loop import train
from effvis.vistr import losses as vistr_losses
from effvis.vistr.config import VisTRLossWeights
from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import headline_spec
from pipeline.runs.store import RunStore
from pipeline.scheduling.pool import Job, run_pool
from pipeline.settings.loading import load_params

STEPS, PAIRS = 20, 3  # three pairs, so that two parts differ in size
METHODS = ("EfficientVIS", "VisTR")


def mostly_empty(index):
    """An index with instances in only two of the five videos, so that parts, and even whole batches, have none."""
    return replace(index, tracks=tuple(track for track in index.tracks if track.video_index < 2))


def training(index, method, *, steps=STEPS, resume=None, precision="fp32", accumulate=1, dtype=torch.float32):
    """A short training from seed 0; yields its progress."""
    classes = len(index.categories)
    if method == "VisTR":
        model = small_vistr(2, num_classes=classes)
        losses_of = partial(vistr_losses.pair_losses, model, weights=VisTRLossWeights())
    else:
        model = tiny_model(2, num_classes=classes)
        losses_of = partial(correspondence.pair_losses, model, weights=LossWeights(), correspondence=True)
    model.to(dtype)
    pairs = clip_pairs(index, batch_size=PAIRS)
    config = TrainConfig(epochs=steps, lr=1e-4, lr_drop_epoch=15, warmup_steps=3, precision=precision)
    assert len(pairs) == 1
    yield from train(model, losses_of, pairs, config, resume=resume, accumulate=accumulate)


def curve(index, method, **options):
    """Losses of all steps, and the weights after the last step, in float64: in float32 the parts' sums differ by 1e-7, AdamW
    divides gradients that are nothing but rounding by their own size, boxes drift by 1e-3 pixels within ten steps, and a
    pixel of a mask's target falls on the other side of one half."""
    losses = []
    for progress in training(index, method, dtype=torch.float64, **options):
        losses.append(progress.losses)
    return losses, progress.state()["model"]


def assert_same_curve(found, expected):
    assert len(found) == len(expected) == STEPS
    for step, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one == pytest.approx(other, rel=1e-10, abs=1e-12), f"step {step + 1}"


def two_workers(rank, port, split, out):
    """One of two processes; it does all the tests' work at once, so that the processes start only once."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    index = mostly_empty(read_split(split))
    curves = {method: curve(index, method) for method in METHODS}
    try:
        curve(index, "EfficientVIS", accumulate=2)
    except UserError as error:
        curves["refused"] = str(error)
    torch.save(curves, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_workers(drawn_index, tmp_path_factory):
    """The results of each of two workers."""
    out = tmp_path_factory.mktemp("workers")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(two_workers, (port, drawn_index.images.parent, out), nprocs=2)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def of_one_worker(drawn_index):
    return {method: curve(mostly_empty(drawn_index), method) for method in METHODS}


def test_the_batches_are_what_the_test_needs(drawn_index):
    pairs = clip_pairs(mostly_empty(drawn_index), batch_size=PAIRS)
    seen = set()
    for step in range(STEPS):
        parts = [pairs.batch(step, part, 2) for part in range(2)]
        seen.add(tuple(sum(len(clip) for clips in part.targets for clip in clips) > 0 for part in parts))
    assert {(True, False), (False, True), (True, True)} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_workers_lose_what_one_does(of_two_workers, of_one_worker, method):
    for found in of_two_workers:
        assert_same_curve(found[method][0], of_one_worker[method][0])
    weights, others = (found[method][1] for found in of_two_workers)
    assert all(torch.equal(weights[name], others[name]) for name in weights), "workers have drifted apart"


@pytest.mark.slow
def test_fewer_pairs_than_parts_are_refused(of_two_workers):
    assert "train: batch_size: 3 pairs cannot be divided into 4 parts" in of_two_workers[1]["refused"]


@pytest.mark.parametrize("method", METHODS)
def test_parts_one_after_the_other_lose_what_the_whole_does(drawn_index, of_one_worker, method):
    assert_same_curve(curve(mostly_empty(drawn_index), method, accumulate=2)[0], of_one_worker[method][0])


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_parts_hold_every_pair_once(drawn_index, parts):
    pairs = clip_pairs(drawn_index, batch_size=4, flip=True, augmentation="multi-scale", scales=(1.0, 1.5))
    for step in range(3):
        whole = pairs.batch(step)
        found = {}
        for part in range(parts):
            batch = pairs.batch(step, part, parts)
            assert abs(len(batch.videos) - 4 / parts) < 1
            found |= {video: tuple(frames[place] for frames in batch.frames) for place, video in enumerate(batch.videos)}
        assert sorted(found) == sorted(whole.videos) and len(set(whole.videos)) == 4
        for place, video in enumerate(whole.videos):
            assert all(torch.equal(one, frames[place]) for one, frames in zip(found[video], whole.frames, strict=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_resumes(drawn_index, method, precision):
    unbroken = list(training(drawn_index, method, steps=4, precision=precision))[-1].state()
    snapshot = next(progress.state() for progress in training(drawn_index, method, steps=4, precision=precision)
                    if progress.step == 2)
    assert ("scaler" in snapshot) == (precision == "fp16")
    resumed = list(training(drawn_index, method, steps=4, precision=precision, resume=snapshot))[-1].state()
    full = list(training(drawn_index, method, steps=4))[-1].state()["model"]
    for name, value in unbroken["model"].items():
        assert torch.equal(value, resumed["model"][name]) and value.dtype == full[name].dtype, name
        assert torch.isfinite(value).all(), name
    assert any(not torch.equal(value, full[name]) for name, value in unbroken["model"].items()), "nothing was cast"


def test_full_precision_is_in_no_key(tiny_project):
    file = tiny_project() / "params.yaml"
    plain, full, half = (headline_spec(load_params(file, changes)).train
                         for changes in ([], ["train.precision=fp32"], ["train.precision=bf16"]))
    assert "precision" not in plain.describe()["train"] and plain.key == full.key
    assert half.describe()["train"]["precision"] == "bf16" and half.key != plain.key
    shared = headline_spec(load_params(file, ["resources.workers_per_run=4", "resources.accumulate=2"])).train
    assert shared.key == plain.key, "who computes a batch is nobody's key"


def kill_a_worker(run, killed):
    """Kills one of Ray Train's workers, once, when there is a checkpoint to go on from."""
    if killed or not list(run.glob("checkpoint/*.sha256")):
        return
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::") and "TrainWorker" in process.name():
            killed.append(process.pid)
            process.send_signal(signal.SIGKILL)
            return


def history_of(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_on_two_workers_is_the_run_on_one_though_a_worker_dies(tiny_project):
    """One worker computes the same two parts one after the other: their sum is then rounded alike. In float64 the parts equal
    the whole, as other tests here show."""
    folder = tiny_project(inference={"presence_threshold": 0.0}, pretrain={"source": "none"})
    write_params(folder, train={"epochs": 18, "lr": 1e-4}, resources={"checkpoint_seconds": 0.3})
    alone = load_params(folder / "params.yaml", ["resources.accumulate=2"])
    spec = headline_spec(alone)
    expected_run, expected = train_run(alone, spec.train), evaluate_run(alone, spec)

    shared = load_params(folder / "params.yaml", ["resources.workers_per_run=2", "runs_dir=shared"])
    store, killed, reports = RunStore(shared.runs_dir), [], []
    run = store.folder(spec.train.key)
    jobs = [Job(spec.train.key, "train", "a training", partial(train_run, shared, spec.train), folder / "log.txt"),
            Job(spec.key, "evaluate", "its evaluation", partial(evaluate_run, shared, spec), folder / "log-e.txt",
                (spec.train.key,))]

    def watch(statuses):
        kill_a_worker(run, killed)
        reports.extend(status.progress for status in statuses if status.state == "running")

    ended = run_pool(jobs, slots=1, threads=1, workers=2, progress_folder=shared.runs_dir / ".progress", on_change=watch)
    assert [status.state for status in ended] == ["done", "done"], [status.message for status in ended]
    assert killed, "no worker was found to kill"
    assert any("loss" in report for report in reports)

    rows, expected_rows = history_of(run), history_of(expected_run)
    assert [row["step"] for row in rows] == list(range(1, 55))
    assert rows[0]["time"] < rows[-1]["time"] and store.done(spec.train.key)["steps"] == 54
    losses, expected_losses = ([row["loss"] for row in some] for some in (rows, expected_rows))
    assert losses == pytest.approx(expected_losses, rel=1e-6)
    found = store.evaluation(spec.train.key, spec.key)
    assert found["metrics"] == pytest.approx(expected["metrics"], abs=1e-6) and found["frames"] == expected["frames"]

    # The same weights, evaluated by one and by two workers, give the same file.
    shutil.copytree(run, alone.runs_dir / "again" / spec.train.key, ignore=shutil.ignore_patterns("eval"))
    again = load_params(folder / "params.yaml", [f"runs_dir={alone.runs_dir / 'again'}"])
    assert evaluate_run(again, spec)["results_sha256"] == found["results_sha256"]
    assert not list((shared.runs_dir / ".progress").iterdir()) and not list((shared.runs_dir / ".ray").iterdir())


# pipeline.train, and where its other threads are when Ctrl-C comes. (If the tests themselves run in the background, Ctrl-C
# is ignored, and children inherit that; so the command sets its own handler.)
COMMAND = """
import signal, sys, threading, traceback
from pipeline import train
from pipeline.system import cli

def interrupted(*_):
    for thread, frame in sys._current_frames().items():
        if thread != threading.main_thread().ident:
            traceback.print_stack(frame, file=sys.stdout)
    raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupted)
cli.run(train.main)
"""


@pytest.mark.slow
def test_the_command_starts_its_own_workers_and_ctrl_c_ends_them(tiny_project):
    folder = tiny_project(pretrain={"source": "none"}, train={"epochs": 500},
                          resources={"workers_per_run": 2, "checkpoint_seconds": 1000})
    params = load_params(folder / "params.yaml")
    run = RunStore(params.runs_dir).folder(headline_spec(params).train.key)
    history = run / "history.jsonl"
    process = subprocess.Popen([sys.executable, "-c", COMMAND], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, start_new_session=True)
    while process.poll() is None and not (history.exists() and history.stat().st_size):
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all
    threads, errors = process.communicate(timeout=600)
    # A thread of ours that still waits in Ray while Python ends sometimes crashes the process. Ray ends its own threads.
    assert str(CHECKOUT / "pipeline") not in threads, threads
    assert saved_at(run) == [steps_done(run)]
    assert process.returncode == 130 and errors.splitlines()[-1] == "interrupted" and "Traceback" not in errors, errors
    assert family and not psutil.wait_procs(family, timeout=600)[1], "something is left running"
