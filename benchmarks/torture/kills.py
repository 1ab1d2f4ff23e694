"""Ends one training at random steps, again and again, and looks whether it comes to the same bits.

    python -m benchmarks.torture.kills
    python -m benchmarks.torture.kills --times 3 --only asked --seed 7

In a temporary project, ``python -m pipeline.train`` is started again each time that it was ended, until it was ended so often,
and then left alone: killed (SIGKILL) while batches are prepared beside the step, killed without that, and asked to stop
(SIGTERM and SIGINT in turns), which has to leave a checkpoint of the very step and the exit code of the signal. Then

- the history has each step once, in order;
- the weights, also of the pretraining, are bit by bit those of a training that nobody disturbed.

Prints a line for each kind; the exit code is 1 where something differs. ``tests/engine/test_train_cli.py`` does each once.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.overhead import ROOT, project
from benchmarks.torture.faults import SMALL

STEPS = 120
CHANGES = ["pretrain.train.epochs=4", "pretrain.train.lr_drop_epoch=3", "resources.checkpoint_seconds=0.2"]
OVERRIDES = [word for override in [*SMALL, *CHANGES] for word in ("-S", override)]
FURTHEST = 12  # steps that an attempt is let go on at most
# By name: the signals in turns, and what the trainings are started with.
KINDS: dict[str, tuple[tuple[signal.Signals, ...], list[str]]] = {
    "prefetch": ((signal.SIGKILL,), ["resources.prefetch=true"]),
    "plain": ((signal.SIGKILL,), ["resources.prefetch=false"]),
    "asked": ((signal.SIGTERM, signal.SIGINT), ["resources.checkpoint_seconds=1000"]),
}


class Training:
    """The headline run of a project, in a store of its own."""

    def __init__(self, made: Path, name: str, changes: list[str]):
        self.runs = made / name
        changes = [*changes, f"runs_dir={self.runs}", f"results_dir={made / 'results'}"]
        self._command = [sys.executable, "-m", "pipeline.train", "--params", str(made / "params.yaml"), *OVERRIDES,
                         *(word for change in changes for word in ("-S", change))]

    def start(self) -> subprocess.Popen:
        # As from a terminal: what runs in the background ignores SIGINT.
        return subprocess.Popen(self._command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))

    def finish(self) -> None:
        process = self.start()
        _, errors = process.communicate()
        if process.returncode != 0:
            raise SystemExit(errors)

    def history(self) -> list[int]:
        """Steps of the longer run, which is not the pretraining, as far as their lines are whole."""
        lines = [file.read_text().split("\n")[:-1] for file in self.runs.glob("*/history.jsonl")]
        return [json.loads(line)["step"] for line in max(lines, key=len, default=[])] if len(lines) > 1 else []

    def saved(self) -> int:
        """The last step that there is a checkpoint of."""
        return max((int(file.stem.removeprefix("step_")) for file in self.runs.glob("*/checkpoint/step_*.pt")), default=0)

    def weights(self) -> dict[str, bytes]:
        return {file.parent.name: file.read_bytes() for file in self.runs.glob("*/weights.safetensors")}


def disturbed(start: Callable[[], Training], kind: str, times: int, rng: random.Random,
              expected: dict[str, bytes]) -> list[str]:
    """What went wrong while trainings were ended so often, and at their ends."""
    (signals, _), wrong, ended = KINDS[kind], [], 0
    while ended < times:
        training = start()
        while ended < times:
            goal = min(training.saved() + rng.randint(1, FURTHEST), STEPS - 1)
            process = training.start()
            while process.poll() is None and len(training.history()) < goal:
                time.sleep(0.005)
            if process.poll() is not None:
                break
            number = signals[ended % len(signals)]
            process.send_signal(number)
            _, errors = process.communicate()
            if process.returncode == 0:
                break  # it was done before the signal came
            ended += 1
            code = -number if number == signal.SIGKILL else 128 + number
            if process.returncode != code or "Traceback" in errors:
                wrong.append(f"{number.name} ended it with {process.returncode}: {errors}")
            if number != signal.SIGKILL and training.saved() != len(training.history()):
                wrong.append(f"{number.name} at step {len(training.history())} left a checkpoint of step {training.saved()}")
        training.finish()
        if training.history() != list(range(1, STEPS + 1)):
            wrong.append(f"the history of {training.runs} does not have each step once")
        if training.weights() != expected:
            wrong.append(f"the weights of {training.runs} are others")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture.kills", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="that each kind is ended (default: 20)")
    parser.add_argument("--only", choices=KINDS, help="one kind of end")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    args = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        project(made, OVERRIDES)
        calm = Training(made, "calm", [])
        calm.finish()
        expected = calm.weights()
        for kind in [args.only] if args.only else KINDS:
            def start(kind: str = kind) -> Training:
                shutil.rmtree(made / kind, ignore_errors=True)
                return Training(made, kind, KINDS[kind][1])

            wrong = disturbed(start, kind, args.times, random.Random(f"{args.seed} {kind}"), expected)
            verdict = "each step once, the same bits" if not wrong else "\n  ".join(["WRONG:", *wrong])
            print(f"{kind}: ended {args.times} times: {verdict}", flush=True)
            failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
