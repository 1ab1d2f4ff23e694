"""How long MLflow's pages take to appear, and how much memory: ``python -m benchmarks.ui``.

Compares ``python -m pipeline.ui``, which first brings the runs, with MLflow's plain server, both on the project's store.
Alternates the two, so that a busy machine slows both, and prints for each round the seconds until a page answers and, ten
seconds later, the processor time and memory (proportional set size; Linux only) of all processes together. Processor time
can be compared between machines that are more or less busy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SETTLE_SECONDS = 10.0


def measure(command: list[str], port: int) -> tuple[float, int, float, int]:
    """Starts a server and ends it; returns seconds until it answered, seconds of processor time, GiB, number of processes."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not answers(port):
            if process.poll() is not None:
                sys.exit(f"{' '.join(command)} ended with code {process.returncode}")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        time.sleep(SETTLE_SECONDS)
        family = tree(process.pid)
        return seconds, sum(family.values()), sum(map(memory, family)), len(family)
    finally:
        for pid in tree(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        process.wait()
        while answers(port):
            time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except OSError:
        return False


def tree(root: int) -> dict[int, int]:
    """The seconds of processor time of a process and all its descendants, by process number."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,cputimes="], capture_output=True, text=True, check=True).stdout
    processes = {pid: (parent, seconds) for pid, parent, seconds in (map(int, line.split()) for line in listed.splitlines())}
    found = [root]
    for pid in found:
        found += [child for child, (parent, _) in processes.items() if parent == pid]
    return {pid: processes[pid][1] for pid in found if pid in processes}


def memory(pid: int) -> float:
    """Proportional set size in GiB: memory that processes share is divided among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    from pipeline.mlflow_view.sync import sync, tracking_uri
    from pipeline.settings.loading import load_params
    from pipeline.system.cli import add_params_arguments

    parser = argparse.ArgumentParser(prog="python -m benchmarks.ui", description=__doc__.splitlines()[0])
    add_params_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    options = parser.parse_args()
    params = load_params(options.params, options.set)
    sync(params)  # so that the first round has no more to bring than the others
    port = str(free_port())
    given = ["--params", options.params, *(word for text in options.set for word in ("-S", text))]
    commands = {
        "pipeline.ui": [sys.executable, "-m", "pipeline.ui", "--port", port, *given],
        "mlflow server": [sys.executable, "-m", "mlflow", "server", "--port", port,
                          "--backend-store-uri", tracking_uri(params)],
    }
    for _ in range(options.rounds):
        for name, command in commands.items():
            seconds, busy, gibibytes, processes = measure(command, int(port))
            print(f"{name:14} {seconds:5.1f} s, {busy:3} s busy, {gibibytes:.2f} GiB in {processes:2} processes", flush=True)


if __name__ == "__main__":
    main()
