"""What a grid of many rows costs by itself: planning, scheduling, MLflow. Nothing is trained.

    python -m benchmarks.grid_scale
    python -m benchmarks.grid_scale --rows 100 1000 --devices 64 --seconds 10
    python -m benchmarks.grid_scale --dry

For each number of rows there is a project of its own. A table with that many rows, each a training and an evaluation, is
planned with the real planner and run by the real scheduler, on a Ray that is told to have as many processors as devices, with
an MLflow server in a process of its own. Only the jobs' work is a stub: it sleeps, then leaves the files of a run in the store.

- planning: from params.yaml and the table to the jobs; with an empty store, and again when all is done;
- board: drawing the table of all jobs once, on a terminal of 50 lines;
- queue: deciding which job is next, for all jobs together, without Ray;
- a job of 1 ms: an upper bound on the overhead of a job, without MLflow: the whole time over the number of jobs;
- jobs of --seconds, with MLflow: overhead is the time that the pool takes beyond the same jobs on as many devices without
  anything around them, in percent of the latter. Trainings of the laptop profile take a minute and more;
- MLflow: how long after the last job the server had everything; the time from the first job to then over the number of
  runs, an upper bound for one run; and the length of jobs from which the sync keeps up on this many devices.

The first three are processor time, after a first plan: imports and the digests of the code take a second or two once. With
--dry only these three are measured.

The processes of all devices start before anything is timed: starting 64 of them on a few processors takes a minute, which
is not so in a grid of real devices.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from benchmarks.overhead import ROOT, run
from benchmarks.tracking import Server

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec, TrainSpec
    from pipeline.scheduling.pool import Job
    from pipeline.settings.params import Params

TABLE = "tablescale"
STEPS = 20  # lines of each history: what a real history has by the time it is synchronised
SHAPES = ["shapes.train_videos=6", "shapes.val_videos=3", "shapes.test_videos=0", "shapes.frames=8"]
OVERRIDES = [*SHAPES, f"tables=[{TABLE}]", "seeds=1", "pretrain.source=none"]


def project(folder: Path, rows: int) -> None:
    """A project with tiny data and one table, whose rows differ in their learning rate."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copy(ROOT / "params.yaml", folder)
    table = {"title": "Many rows", "rows": [
        {"name": f"row {number}", "set": {"T": 9, "params": {"train.lr": round(1e-4 + 1e-8 * number, 12)}}}
        for number in range(rows)]}
    (folder / "experiments" / f"{TABLE}.yaml").write_text(yaml.safe_dump(table))
    for stage in ("download", "index"):
        run(folder, [f"pipeline.{stage}", *(word for text in OVERRIDES for word in ("-S", text))])


def plan(folder: Path) -> tuple[Params, list[Job], dict[str, TrainSpec | EvalSpec], float]:
    """Parameters, jobs, specs by key, and the seconds that it takes to derive them from the files."""
    from pipeline.grid.rows import load_table
    from pipeline.planning.jobs import jobs
    from pipeline.planning.plan import plan_rows
    from pipeline.settings.loading import load_params

    began = time.process_time()
    params = load_params(folder / "params.yaml", OVERRIDES)
    planned = plan_rows(params, load_table(params, TABLE).rows)
    todo = jobs(params, planned)
    taken = time.process_time() - began
    return params, todo, {spec.key: spec for spec in (*planned.trainings, *planned.evaluations)}, taken


def stub(params: Params, spec: TrainSpec | EvalSpec, seconds: float, *, report: Callable[[Mapping[str, Any]], None]) -> None:
    """Sleeps, and leaves a training's or an evaluation's files. It does not import PyTorch, which every device would load."""
    import numpy as np
    from safetensors.numpy import save

    from effvis.evaluation.average_precision import METRICS
    from pipeline.runs.log import RunLog
    from pipeline.runs.store import RunStore
    from pipeline.system.files import file_sha256, write_atomically

    store = RunStore(params.runs_dir)
    report({"step": 1, "total": 2})
    time.sleep(seconds)
    if hasattr(spec, "halvings"):
        with store.lock(f"{spec.train.key}-{spec.key}"):
            store.write_evaluation(spec.train.key, spec.key, [], {
                "evaluation": spec.key, "metrics": dict.fromkeys(METRICS, 0.25), "per_category": {}, "seconds": seconds,
                "frames_per_second": 9.0, "videos_seen": 4, "inference": spec.inference.model_dump(mode="json")})
        return
    with store.lock(spec.key):
        store.begin(spec.key, spec.describe())
        log = RunLog(store.folder(spec.key))
        log.resume()
        for step in range(1, STEPS + 1):
            log.append({"step": step, "time": time.time(), "lr": 1e-4, "loss": 1 / step, "loss_focal": 0.1, "loss_dice": 0.2})
        log.close()
        write_atomically(store.weights_file(spec.key), save({"w": np.ones(3, np.float32)}))
        done = {"key": spec.key, "sha256": file_sha256(store.weights_file(spec.key)), "seconds": seconds}
        write_atomically(store.folder(spec.key) / "done.json", json.dumps(done).encode())


def hold(seconds: float, *, report: Callable[[Mapping[str, Any]], None]) -> None:
    """Keeps a device busy until all devices have a process with the modules of a job."""
    import safetensors.numpy

    from pipeline.identity import specs
    from pipeline.settings import params

    time.sleep(seconds)
    assert safetensors.numpy and params and specs


def warm_up(folder: Path, devices: int) -> None:
    """Holds all devices at the same time: first for long, while their processes start, then briefly."""
    from pipeline.scheduling.pool import Job, run_pool

    for seconds in (20.0, 1.0):
        todo = [Job(f"hold-{number}", "train", "warm-up", partial(hold, seconds), folder / "warm-up.txt")
                for number in range(devices)]
        run_pool(todo, slots=devices, threads=1, progress_folder=folder / ".progress")


def pool(params: Params, todo: list[Job], specs: Mapping[str, TrainSpec | EvalSpec], seconds: float, devices: int) -> float:
    """Seconds that the pool takes for the jobs as stubs, with the board of a terminal and cells as in a grid."""
    from pipeline.runs import cells
    from pipeline.scheduling.board import Board
    from pipeline.scheduling.pool import run_pool

    stubs = [replace(job, work=partial(stub, params, specs[job.key], seconds)) for job in todo]
    began = time.monotonic()
    with contextlib.redirect_stderr(io.StringIO()), Board() as board:
        ended = run_pool(
            stubs, slots=devices, threads=1, progress_folder=params.runs_dir / ".progress", on_change=board.update,
            on_done=lambda job: job.kind == "evaluate" and cells.write(params, specs[job.key]))
    taken = time.monotonic() - began
    wrong = [status for status in ended if status.state != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} jobs did not end well: {wrong[0].job.label}: {wrong[0].message}")
    return taken


def board_seconds(todo: list[Job], devices: int) -> float:
    """Seconds to draw all jobs once, with as many running as there are devices."""
    from rich.console import Console

    from pipeline.scheduling.board import _table
    from pipeline.scheduling.pool import Status

    statuses = [Status(job, "running" if number < devices else "waiting") for number, job in enumerate(todo)]
    began = time.process_time()
    Console(file=io.StringIO(), force_terminal=True, width=160, height=50).print(_table(statuses, most=50))
    return time.process_time() - began


def queue_seconds(todo: list[Job], devices: int) -> float:
    """Seconds to choose all jobs one after the other, on this many devices, where the job that began first ends first."""
    from pipeline.scheduling.pool import Queue, Status

    began = time.process_time()
    queue, running = Queue({job.key: Status(job) for job in todo}), deque()
    while True:
        running.extend(queue.take(devices - len(running)))
        if not running:
            return time.process_time() - began
        ended = running.popleft()
        ended.state = "done"
        queue.settle(ended)


def measure(folder: Path, rows: int, devices: int, seconds: float, dry: bool) -> dict[str, float]:
    """The measurements for one number of rows; the module's docstring explains them."""
    from pipeline.mlflow_view.sync import Tracker, sync
    from pipeline.planning.estimate import elapsed
    from pipeline.scheduling.ray_session import ray_running

    project(folder, rows)
    plan(folder)
    params, todo, specs, planning = plan(folder)
    found = {"rows": rows, "planning": planning, "board": board_seconds(todo, devices), "queue": queue_seconds(todo, devices)}
    if dry:
        return found
    with ray_running(devices, params.runs_dir):
        warm_up(folder, devices)
        found["per_job"] = pool(params, todo, specs, 0.001, devices) / len(todo)
        _, nothing, _, found["planning_done"] = plan(folder)
        assert not nothing
        for place in (params.runs_dir, params.results_dir):
            shutil.rmtree(place)
        server = Server(folder / "server")
        server.start()
        os.environ["MLFLOW_TRACKING_URI"] = server.address
        try:
            server.wait()
            with Tracker(params, last=3600):
                taken = pool(params, todo, specs, seconds, devices)
                ended = time.monotonic()
            found["lag"] = time.monotonic() - ended
            alone = elapsed(todo, {job.key: seconds for job in todo}, devices)
            found["alone"], found["overhead"] = alone, 100 * (taken - alone) / alone
            found["bring"] = (taken + found["lag"]) / len(todo)
            began = time.monotonic()
            assert sync(params) == 0
            found["idle_sync"] = time.monotonic() - began
        finally:
            del os.environ["MLFLOW_TRACKING_URI"]
            server.kill()
    return found


LINES = {
    "planning": "planning, nothing done, s", "planning_done": "planning, all done, s", "board": "board, drawn once, s",
    "queue": "queue, all jobs, s",
    "per_job": "a job of 1 ms, ms", "alone": "jobs of {seconds:g} s alone, s", "overhead": "overhead, %",
    "lag": "MLflow complete after the last job, s", "bring": "a run brought to MLflow, at most, ms",
    "keeps": "sync keeps up with jobs of, s",
    "idle_sync": "a sync without news, s",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid_scale", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 300, 1000], help="table sizes (default: 100 300 1000)")
    parser.add_argument("--devices", type=int, default=64, help="number of devices (default: 64)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the jobs that show overhead (default: 10)")
    parser.add_argument("--dry", action="store_true", help="only what needs neither Ray nor MLflow")
    args = parser.parse_args(argv)
    columns = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory() as temporary:
            found = measure(Path(temporary) / "project", rows, args.devices, args.seconds, args.dry)
        if not args.dry:
            found["keeps"] = found["bring"] * args.devices
            found |= {name: 1000 * found[name] for name in ("per_job", "bring")}
        columns.append(found)
        print(f"{rows} rows: " + ", ".join(f"{name} {value:.3g}" for name, value in found.items()), file=sys.stderr, flush=True)
    print(f"{args.devices} devices" + "".join(f"{found['rows']:>10} rows" for found in columns) + "     growth")
    for name, label in LINES.items():
        if name not in columns[0]:
            continue
        values = [found[name] for found in columns]
        growth = f"{values[-1] / values[0]:11.1f}" if values[0] > 0 else ""
        print(f"{label.format(seconds=args.seconds):40}" + "".join(f"{value:15.3g}" for value in values) + growth)
    return 0


if __name__ == "__main__":
    sys.exit(main())
