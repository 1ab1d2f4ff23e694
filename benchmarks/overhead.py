"""What scheduling, tracking and start-up add to the training time of a grid.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --grid table1d,table1e --seeds 3

Runs ``python -m pipeline.ablate`` in a temporary project, with real trainings of the laptop profile, and holds its time
against what its trainings and evaluations report of themselves, as if they had run side by side without anything around
them: each training from its first step to its last, each evaluation from its first frame to its last. Everything else
counts as overhead: Python and Ray starting, imports, building networks, waiting for a slot, checkpoints' last write,
scoring, MLflow, tables.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def project(folder: Path, arguments: list[str]) -> None:
    """A project of its own with its data in place, but without results."""
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copy(ROOT / "params.yaml", folder)
    for stage in ("download", "index"):
        run(folder, [f"pipeline.{stage}", *arguments])


def run(folder: Path, words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", *words, "--params", str(folder / "params.yaml")], cwd=ROOT, check=True)


def seconds_of(folder: Path, keys: set[str]) -> dict[str, float]:
    """What each run says that it took, by key."""
    files = [*folder.glob("runs/*/done.json"), *folder.glob("runs/*/eval/*/metrics.json")]
    return {file.parent.name: json.loads(file.read_text())["seconds"] for file in files if file.parent.name in keys}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default="table1e", help="default: table1e")
    parser.add_argument("--seeds", type=int, default=2, help="default: 2")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="as in every command")
    args = parser.parse_args(argv)

    from pipeline.ablate import expand_grid
    from pipeline.config import known_tables, load_params, load_table
    from pipeline.estimate import elapsed
    from pipeline.machine import side_by_side
    from pipeline.plan import jobs, plan_rows

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
