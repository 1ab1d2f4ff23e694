"""Pulls the plug on grids, again and again, and checks whether anything was lost, done twice or came out differently.

    python -m benchmarks.torture.faults
    python -m benchmarks.torture.faults --kills 3 --only both --seed 7

In temporary projects with trainings of seconds, ``python -m pipeline.ablate`` is killed (SIGKILL) at random moments and
started again until it has succeeded: its workers, the driver, and either of them where two grids share a store. Then

- every training's history has each step once, in order, and its ``done.json`` was written once;
- its final weights are, bit by bit, those of an undisturbed grid;
- so are all tables.

Prints a line for each kind of disturbance; the exit code is 1 if something differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.overhead import ROOT, project
from pipeline.scheduling.pool import execute

GRID = "table1d,table1e"
# A network too small to learn anything, in trainings of seconds; a checkpoint every second.
SMALL = """
    seeds=1 methods=efficientvis input_size=[32,48] resources.slots=2 resources.checkpoint_seconds=1
    shapes.train_videos=6 shapes.val_videos=3 shapes.test_videos=0 shapes.frames=8 shapes.height=32 shapes.width=48
    shapes.min_radius=5 shapes.max_radius=8
    model.hidden_dim=16 model.attention_heads=2 model.ffn_dim=32 model.dynamic_dim=4 model.queries=4 model.iterations=2
    model.roi_size=4 model.mask_roi_size=4 model.mask_convs=1
    pretrain.source=scratch pretrain.dataset=own
    pretrain.train.epochs=40 pretrain.train.lr_drop_epoch=30 pretrain.train.batch_size=3
    train.epochs=40 train.lr_drop_epoch=30 train.batch_size=2
""".split()
OVERRIDES = [word for override in SMALL for word in ("-S", override)]
# What is killed, and how many grids work on the same store.
KINDS: dict[str, tuple[tuple[str, ...], int]] = {
    "workers": (("worker",), 1), "drivers": (("driver",), 1), "both": (("worker", "driver"), 2)}
LONGEST_QUIET_SECONDS = 10.0  # a third of the time that the grid takes undisturbed


@dataclass
class Tally:
    """What happened in the rounds of one kind; ``wrong`` says what should not have."""

    kills: int = 0
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)


def grid(folder: Path, *further: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline.ablate", "--grid", GRID, "--params", str(folder / "params.yaml"), *OVERRIDES,
               *further]
    with (folder / "said.txt").open("a") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def done_files(folder: Path) -> dict[str, bytes]:
    """``done.json`` by key; it has the checksum of the weights and the times of the training."""
    return {file.parent.name: file.read_bytes() for file in folder.glob("runs/*/done.json")}


def weights(folder: Path) -> dict[str, str]:
    """Checksums of the weights by key."""
    return {key: json.loads(content)["sha256"] for key, content in done_files(folder).items()}


def tables(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for kind in ("csv", "md", "tex") for file in folder.glob(f"results/table*.{kind}")}


def victims(driver: subprocess.Popen, kinds: tuple[str, ...]) -> Iterator[psutil.Process]:
    """Those of the driver and the processes that run its jobs that are of these kinds."""
    try:
        process = psutil.Process(driver.pid)
        if "driver" in kinds:
            yield process
        for child in process.children(recursive=True) if "worker" in kinds else []:
            if child.cmdline()[:1] and child.cmdline()[0].startswith(f"ray::{execute.__name__}"):
                yield child
    except psutil.NoSuchProcess:
        return


def disturbed_round(folder: Path, kinds: tuple[str, ...], grids: int, rng: random.Random, most: int, tally: Tally) -> None:
    """Brings a fresh project to its end, killing up to ``most`` processes on the way."""
    running: list[subprocess.Popen | None] = [None] * grids
    succeeded, finished, kills = [False] * grids, {}, 0
    while not all(succeeded):
        for i, driver in enumerate(running):
            if driver is not None and driver.poll() is not None:
                succeeded[i] = driver.returncode == 0
            if not succeeded[i] and (driver is None or driver.poll() is not None):
                running[i] = grid(folder)
        deadline = time.monotonic() + (rng.uniform(0, LONGEST_QUIET_SECONDS) if kills < most else 1.0)
        alive: list[psutil.Process] = []
        while any(driver.poll() is None for driver in running) and (time.monotonic() < deadline or kills < most and not alive):
            time.sleep(0.1)
            alive = [victim for driver in running if driver.poll() is None for victim in victims(driver, kinds)]
        for key, content in done_files(folder).items():
            if finished.setdefault(key, content) != content:
                tally.wrong.append(f"{key} was trained again after it was done")
                finished[key] = content
        if alive and kills < most:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                rng.choice(alive).send_signal(signal.SIGKILL)
                kills += 1
    if not kills:
        raise RuntimeError(f"a whole grid ran, and there was never a {' or '.join(kinds)} to kill")
    tally.kills, tally.rounds = tally.kills + kills, tally.rounds + 1


def differences(folder: Path, expected: Mapping[str, str], expected_tables: Mapping[str, bytes]) -> Iterator[str]:
    found = weights(folder)
    for key in expected.keys() | found.keys():
        if found.get(key) != expected.get(key):
            yield f"{key}: the weights are {found.get(key)}, undisturbed {expected.get(key)}"
        steps = [json.loads(line)["step"] for line in (folder / "runs" / key / "history.jsonl").read_text().splitlines()]
        if steps != list(range(1, len(steps) + 1)):
            yield f"{key}: the history does not have each step once"
    for name in expected_tables.keys() | tables(folder).keys():
        if tables(folder).get(name) != expected_tables.get(name):
            yield f"{name} differs from that of the undisturbed grid"


def measure(made: Path, kind: str, kills: int, rng: random.Random, expected: tuple[dict[str, str], dict[str, bytes]]) -> Tally:
    """Takes as many rounds as are needed for this many kills."""
    tally = Tally()
    while tally.kills < kills:
        folder = made.with_name(f"{kind}-{tally.rounds}")
        shutil.copytree(made, folder)
        disturbed_round(folder, *KINDS[kind], rng, kills - tally.kills, tally)
        tally.wrong += differences(folder, *expected)
        if not tally.wrong:
            shutil.rmtree(folder)
    return tally


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture.faults", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind (default: 20)")
    parser.add_argument("--only", choices=KINDS, help="measure only this kind of disturbance")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    args = parser.parse_args(argv)
    wrong = False
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        project(made, OVERRIDES)
        calm = made.with_name("calm")
        shutil.copytree(made, calm)
        if grid(calm).wait() != 0:
            print((calm / "said.txt").read_text(), file=sys.stderr)
            return 1
        expected = weights(calm), tables(calm)
        for kind in [args.only] if args.only else KINDS:
            tally = measure(made, kind, args.kills, random.Random(f"{args.seed} {kind}"), expected)
            verdict = "nothing lost, repeated or changed" if not tally.wrong else "\n  ".join(["WRONG:", *tally.wrong])
            print(f"{kind}: {tally.kills} killed in {tally.rounds} grid{'s' * (tally.rounds > 1)} of {len(expected[0])} "
                  f"trainings and {len(expected[1])} table files: {verdict}", flush=True)
            wrong |= bool(tally.wrong)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
