"""What scheduling, tracking and start-up add to the training time of a grid, or of a single run.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --grid table1d,table1e --seeds 3
    python -m benchmarks.overhead --run
    python -m benchmarks.overhead --start

Runs ``python -m pipeline.ablate`` in a temporary project, with real trainings of the laptop profile, and compares its time
with the times that its trainings and evaluations report themselves, as if they had run side by side without anything around
them: each training from its first step to its last, each evaluation from its first frame to its last. Everything else
counts as overhead: starting Python and Ray, imports, building networks, waiting for a slot, the last write of checkpoints,
scoring, MLflow, tables.

With --run it measures one training of about a minute: its function called in a process of its own, then in a pool whose Ray
runs already, as a plain Ray task and on two workers of Ray Train. For each, the time before the first step and after the last
one is taken, however many steps there are. In the separate process this is imports, reading the data set, building the network
and writing the run; in the pool it is that and what Ray adds. What the workers' collectives cost is part of the steps.

With --start it measures the time from the command of a grid to the end of the first step of any training in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.identity.specs import TrainSpec
    from pipeline.settings.params import Params

ROOT = Path(__file__).resolve().parents[1]
# Seconds that a run of a minute may take longer in the pool than by itself, by the number of its workers.
GOALS = {1: 3.0, 2: 25.0}
GOAL_OF_START = 15.0


def project(folder: Path, arguments: list[str]) -> None:
    """A project of its own with its data in place, but without results."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copy(ROOT / "params.yaml", folder)
    for stage in ("download", "index"):
        run(folder, [f"pipeline.{stage}", *arguments])


def run(folder: Path, words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", *words, "--params", str(folder / "params.yaml")], cwd=ROOT, check=True)


def seconds_of(folder: Path, keys: set[str], runs: str = "runs") -> dict[str, float]:
    """The seconds that each run reports, by key."""
    files = [*folder.glob(f"{runs}/*/done.json"), *folder.glob(f"{runs}/*/eval/*/metrics.json")]
    return {file.parent.name: json.loads(file.read_text())["seconds"] for file in files if file.parent.name in keys}


def run_of(folder: Path, runs: str, workers: int, overrides: list[str]) -> tuple[Params, TrainSpec]:
    """The headline training, in a store of its own."""
    from pipeline.grid.rows import headline_spec
    from pipeline.settings.loading import load_params

    params = load_params(folder / "params.yaml", [*overrides, "pretrain.source=none", f"runs_dir={folder / runs}",
                                                  f"resources.workers_per_run={workers}"])
    return params, headline_spec(params).train


def train_here(folder: str, *overrides: str) -> None:
    """What the separate process runs."""
    from pipeline.engine.run import train_run

    train_run(*run_of(Path(folder), "runs-alone", 1, list(overrides)))


def alone(folder: Path, overrides: list[str]) -> tuple[float, float]:
    """Seconds that a process of its own takes for the training, and those from its first step to its last."""
    code = "import sys; from benchmarks.overhead import train_here; train_here(*sys.argv[1:])"
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code, str(folder), *overrides], cwd=ROOT, check=True)
    taken = time.monotonic() - began
    _, spec = run_of(folder, "runs-alone", 1, overrides)
    return taken, seconds_of(folder, {spec.key}, "runs-alone")[spec.key]


def in_a_pool(folder: Path, workers: int, overrides: list[str]) -> tuple[float, float]:
    """The same in a pool, on this many workers."""
    from pipeline.engine.run import train_run
    from pipeline.scheduling.pool import Job, run_pool
    from pipeline.scheduling.ray_session import ray_running

    params, spec = run_of(folder, f"runs-{workers}", workers, overrides)
    threads = params.resources.threads
    job = Job(spec.key, "train", f"{workers} workers", partial(train_run, params, spec), params.runs_dir / "log.txt")
    with ray_running(workers * threads, params.runs_dir):
        began = time.monotonic()
        (ended,) = run_pool([job], slots=1, threads=threads, gpus=params.resources.gpus_per_worker, workers=workers,
                            progress_folder=params.runs_dir / ".progress")
        taken = time.monotonic() - began
    if ended.state != "done":
        raise RuntimeError(f"{ended.message}; see {job.log}:\n{job.log.read_text()}")
    return taken, seconds_of(folder, {spec.key}, params.runs_dir.name)[spec.key]


def around_steps(name: str, taken: float, steps: float) -> float:
    print(f"{name}: {taken:.1f} s for {steps:.1f} s of steps: {taken - steps:.1f} s before and after them", flush=True)
    return taken - steps


def show_single_runs(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        project(folder, [word for text in overrides for word in ("-S", text)])
        by_itself = around_steps("a process of its own", *alone(folder, overrides))
        for workers, goal in GOALS.items():
            name = "a Ray task" if workers == 1 else f"a TorchTrainer of {workers} workers"
            more = around_steps(name, *in_a_pool(folder, workers, overrides)) - by_itself
            print(f"  {more:.1f} s more (goal: at most {goal:g})", flush=True)


def seconds_to_first_step(folder: Path, grid: str, arguments: list[str]) -> float:
    """Seconds from the start of the grid's process to the end of the first step in any history; then the grid is ended."""
    began = time.time()
    command = [sys.executable, "-m", "pipeline.ablate", "--grid", grid, "--params", str(folder / "params.yaml"), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None:
                lines = [file.read_text().partition("\n") for file in folder.glob("runs/*/history.jsonl")]
                if whole := [json.loads(first)["time"] for first, end, _ in lines if end]:
                    return min(whole) - began
                time.sleep(0.05)
        finally:
            process.terminate()
    raise RuntimeError(f"the grid ended with {process.returncode} before a step was taken")


def show_start(grid: str, overrides: list[str]) -> None:
    arguments = [word for text in overrides for word in ("-S", text)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "project"
        project(folder, arguments)
        taken = seconds_to_first_step(folder, grid, arguments)
    print(f"{grid}: {taken:.1f} s to the first training step (goal: at most {GOAL_OF_START:g})")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="table1e", help="grid to run (default: table1e)")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds (default: 2)")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="as in every command")
    parser.add_argument("--run", action="store_true", help="measure a single training instead of a grid")
    parser.add_argument("--start", action="store_true", help="measure a grid only until its first training step")
    args = parser.parse_args(argv)
    if args.start:
        show_start(args.grid, args.set)
        return 0
    if args.run:
        show_single_runs(args.set)
        return 0

    from pipeline.grid.rows import known_tables, load_table
    from pipeline.planning.estimate import elapsed
    from pipeline.planning.grids import expand_grid
    from pipeline.planning.jobs import jobs
    from pipeline.planning.plan import plan_rows
    from pipeline.scheduling.machine import side_by_side
    from pipeline.settings.loading import load_params

    overrides = [word for text in args.set for word in ("-S", text)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "project"
        project(folder, overrides)
        params = load_params(folder / "params.yaml", [*args.set, f"seeds={args.seeds}"])
        tables = [load_table(params, name) for name in expand_grid(known_tables(params), args.grid)]
        todo = jobs(params, plan_rows(params, [row for table in tables for row in table.rows]))
        began = time.monotonic()
        run(folder, ["pipeline.ablate", "--grid", args.grid, "--seeds", str(args.seeds), *overrides])
        taken = time.monotonic() - began
        seconds = seconds_of(folder, {job.key for job in todo})
    slots = side_by_side(params.resources)
    alone = elapsed(todo, seconds, slots)
    trained = sum(seconds[job.key] for job in todo if job.kind != "evaluate")
    evaluated = sum(seconds.values()) - trained
    print(f"{len(todo)} jobs, {slots} side by side: {trained:.0f} s of training, {evaluated:.0f} s of evaluation")
    print(f"the grid took {taken:.1f} s, its jobs alone {alone:.1f} s: overhead {taken - alone:.1f} s, "
          f"{100 * (taken - alone) / alone:.1f}% of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
