"""Whether a tracking server that hangs, is killed and started again slows a grid down or loses anything.

    python -m benchmarks.tracking
    python -m benchmarks.tracking --rounds 5

The small grid of benchmarks.torture.faults runs in turns with an MLflow server that is left alone and with one that is made
to hang (SIGSTOP: it takes connections and never answers), killed and started again, over and over. Starting a server takes
seconds of a processor, which slows trainings on the same machine. So there are always two servers, one of which is disturbed
at the same moments: either the grid's own or the other. One training runs at a time. Prints the seconds that trainings took in
each case, the goal for their difference, and how often every metric of every step is there once the server is back and
``python -m pipeline.track --sync`` has run; the exit code is 1 unless each is there exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.overhead import project, run
from benchmarks.torture.faults import OVERRIDES, done_files, grid

SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
LONGEST_SECONDS = 8.0  # for which a server works, hangs, or is down
ONE_AT_A_TIME = ("-S", "resources.slots=1")
GOAL = 2.0  # percent


class Server:
    """MLflow's server on one port, with a database in a folder; each start makes a process group of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "-w", "1",
                   "--backend-store-uri", "sqlite:///tracking.db"]
        with (self.folder / "log.txt").open("a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, env=os.environ | SETTINGS, stdout=log, stderr=log,
                                            start_new_session=True)

    def wait(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/health", timeout=5)
                return
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "log.txt").read_text())
            time.sleep(0.2)

    def signal(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def disturb(server: Server, over: threading.Event, rng: random.Random, happened: Counter) -> None:
    """Until ``over``, lets the server work for a while, then hang or stay down for a while. Leaves it running."""
    while not over.wait(rng.uniform(1, LONGEST_SECONDS)):
        kind = rng.choice(("hung", "killed"))
        happened[kind] += 1
        if kind == "hung":
            server.signal(signal.SIGSTOP)
            over.wait(rng.uniform(1, LONGEST_SECONDS))
            server.signal(signal.SIGCONT)
        else:
            server.kill()
            over.wait(rng.uniform(1, LONGEST_SECONDS))
            server.start()


@contextlib.contextmanager
def disturbances(server: Server, rng: random.Random, happened: Counter) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=disturb, args=(server, over, rng, happened))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def train_seconds(folder: Path) -> dict[str, float]:
    return {key: json.loads(content)["seconds"] for key, content in done_files(folder).items()}


def least(rounds: list[dict[str, float]]) -> float:
    """Sum over the trainings of the least seconds that each took, which leaves out the effect of other programs."""
    return sum(min(one[key] for one in rounds) for key in rounds[0])


def times_logged(folder: Path, address: str) -> Counter:
    """How many (step, metric) pairs of the trainings' histories are on the server, by how often each is there."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("effvis").experiment_id
    often: Counter = Counter()
    for file in folder.glob("runs/*/history.jsonl"):
        found = client.search_runs([experiment], f"tags.run_key = '{file.parent.name}'")
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        for name in ("loss", "lr"):
            there = Counter(metric.step for one in found for metric in client.get_metric_history(one.info.run_id, name))
            often.update(there[step] for step in steps)
    return often


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracking", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: 0)")
    args = parser.parse_args(argv)
    happened, often = Counter(), Counter()
    seconds: dict[str, list[dict[str, float]]] = {"left alone": [], "disturbed": []}
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        project(made, OVERRIDES)
        for number in range(args.rounds):
            for kind in seconds:
                folder = made.with_name(f"{kind.replace(' ', '-')}-{number}")
                shutil.copytree(made, folder)
                with running(folder / "server") as server, running(folder / "other") as other:
                    os.environ["MLFLOW_TRACKING_URI"] = server.address
                    victim = server if kind == "disturbed" else other
                    with disturbances(victim, random.Random(f"{args.seed} {number}"), happened):
                        if code := grid(folder, *ONE_AT_A_TIME).wait():
                            print((folder / "said.txt").read_text(), file=sys.stderr)
                            return code
                    server.wait()
                    run(folder, ["pipeline.track", "--sync", *OVERRIDES])
                    if kind == "disturbed":
                        often += times_logged(folder, server.address)
                seconds[kind].append(train_seconds(folder))
    print(f"a server hung {happened['hung']} times and was killed {happened['killed']} times, the grid's own or the other")
    print(", ".join(f"{count} metrics of a step are there {times} times" for times, count in sorted(often.items())))
    alone, disturbed = (least(seconds[kind]) for kind in ("left alone", "disturbed"))
    print(f"trainings took {alone:.1f} s with a server that was left alone, {disturbed:.1f} s with the disturbed one "
          f"({100 * (disturbed / alone - 1):+.1f}%; of each training the least of {args.rounds}; goal: at most {GOAL:+g}%)")
    return int(set(often) != {1})


if __name__ == "__main__":
    sys.exit(main())
