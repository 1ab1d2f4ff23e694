"""Time and memory of training steps, and the shares of data, forward, backward and optimizer.

    python -m benchmarks.training
    python -m benchmarks.training --case T=3 --case VisTR --against ../another-checkout
    python -m benchmarks.training --case T=12 --against-still

The cases are the laptop profile's steps, with correspondence learning, from the shipped weights (T=1 is its pretraining), and
a small VisTR. Each case runs in a process of its own, on one thread. With --against, the other checkout's code takes the same
steps from the same weights in another process; the two take turns, and how far apart their losses are is printed too. With
--against-still, it is the same code's network with the still-image dynamic convolution (table 1b).
Times are processor time, which other programs on the machine hardly affect; the median step counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "effvis" / "pretrained" / "laptop_cl.safetensors"
VIDEOS = 60  # training videos, from the data set that these weights were trained on
EPOCHS_BEFORE = 20  # for --later-pass, of random clips; at T=1, 97% of the frames have been seen by then
PARTS = ("data", "forward", "backward", "optimizer")
# Clip length and pairs per step, as experiments/profiles/laptop.yaml has them.
CASES = {"T=1": (1, 10), "T=3": (3, 4), "T=6": (6, 4), "T=12": (12, 4), "VisTR": (6, 2)}
LAPTOP = dict(num_classes=5, queries=6, iterations=3, hidden_dim=48, attention_heads=4, ffn_dim=192, dynamic_dim=16,
              roi_size=8, mask_roi_size=8, mask_convs=2, similarity_temperature=1.0)
VISTR = dict(num_classes=5, queries=6, hidden_dim=96, encoder_layers=2, decoder_layers=2, attention_heads=4, ffn_dim=192,
             dropout=0.0)


STILL = " still"  # ends the name of a case of EfficientVIS whose dynamic convolution is the still-image one


def efficientvis(clip_length: int, **changes: Any) -> tuple[Any, Callable]:
    """The laptop network with the shipped weights, and the function from a batch to its losses."""
    from safetensors.torch import load_file

    from effvis.config import LossWeights, ModelConfig
    from effvis.model.efficientvis import EfficientVIS
    from effvis.training.correspondence import pair_losses

    model = EfficientVIS(ModelConfig(**LAPTOP, clip_length=clip_length, **changes))
    model.load_initial(load_file(WEIGHTS))
    return model, lambda batch: pair_losses(model, batch, LossWeights(), True)


def vistr(clip_length: int) -> tuple[Any, Callable]:
    """A small VisTR on ResNet-18, with random weights, and the function from a batch to its losses."""
    from effvis.model.resnet import ResNet
    from effvis.vistr.config import VisTRConfig, VisTRLossWeights
    from effvis.vistr.losses import pair_losses
    from effvis.vistr.model import VisTR

    body = ResNet("resnet18")
    model = VisTR(VisTRConfig(**VISTR, clip_length=clip_length), body, body.channels)
    return model, lambda batch: pair_losses(model, batch, VisTRLossWeights())


def work(case: str, split: Path, epochs_before: int) -> None:
    """Takes a step for each line of standard input, and answers with its seconds and its loss.

    Args:
        epochs_before: number of epochs whose batches are read and discarded, to fill the caches of frames and masks.
    """
    import torch

    from effvis.data.clips import ClipPairs
    from effvis.data.index import clip_index
    from effvis.data.youtube_vis import read_split

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_flush_denormal(True)
    clip_length, batch_size = CASES[case.removesuffix(STILL)]
    index = read_split(split)
    size = index.videos[0].height, index.videos[0].width
    pairs = ClipPairs(index, clip_index(index, clip_length), input_size=size, batch_size=batch_size, seed=0, flip=True)
    for step in range(epochs_before * len(pairs)):
        pairs.batch(step)
    torch.manual_seed(0)
    if case == "VisTR":
        model, losses = vistr(clip_length)
    else:
        model, losses = efficientvis(clip_length, **({"dynamic_conv": "still"} if case.endswith(STILL) else {}))
    optimizer = _optimizer(model.train())
    for step, _ in enumerate(sys.stdin):
        times = [time.process_time()]
        batch = pairs.batch(step)
        times.append(time.process_time())
        total = torch.stack(list(losses(batch).values())).sum()
        times.append(time.process_time())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        times.append(time.process_time())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        times.append(time.process_time())
        seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "loss": total.item(), "peak": peak}), flush=True)


def _optimizer(model: Any) -> Any:
    """The optimizer of the checkout's trainer."""
    import torch

    from effvis.training import loop

    if not hasattr(loop, "optimizer_of"):  # the first versions had this one, inside their trainer
        return torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4)
    from effvis.config import OptimisationConfig

    optimizer = loop.optimizer_of(model, OptimisationConfig(weight_decay=1e-4))
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    return optimizer


class Worker:
    """A process that takes steps with the code of a checkout."""

    def __init__(self, root: Path, case: str, split: Path, epochs_before: int):
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen([sys.executable, __file__, "--work", case, str(split), str(epochs_before)],
                                         text=True, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.steps: list[dict[str, Any]] = []

    def step(self) -> None:
        print("step", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the training of {self._process.args} ended with exit code {self._process.wait()}")
        self.steps.append(json.loads(answer))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def seconds(self) -> float:
        return statistics.median(sum(step["seconds"]) for step in self._measured())

    def faster_than(self, other: Worker) -> float:
        """The median ratio step by step, since the two took each step at about the same moment."""
        return statistics.median(sum(b["seconds"]) / sum(a["seconds"])
                                 for a, b in zip(self._measured(), other._measured(), strict=True))

    def shares(self) -> list[float]:
        """The shares of the parts of a step, in percent."""
        parts = [statistics.median(part) for part in zip(*(step["seconds"] for step in self._measured()), strict=True)]
        return [100 * part / sum(parts) for part in parts]

    def _measured(self) -> list[dict[str, Any]]:
        return self.steps[2:]  # the first ones warm up


def measure(cases: list[tuple[Path, str]], split: Path, rounds: int, epochs_before: int) -> list[Worker]:
    """The steps of each case with its checkout's code; all take turns."""
    workers = [Worker(root, case, split, epochs_before) for root, case in cases]
    for _ in range(rounds + 2):
        for worker in workers:
            worker.step()
    for worker in workers:
        worker.close()
    return workers


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="may be given again (default: all)")
    parser.add_argument("--rounds", type=int, default=20, help="steps measured (default: 20)")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", type=Path, metavar="PATH", help="the root of another checkout")
    other.add_argument("--against-still", action="store_true", help="compare with still-image dynamic convolution")
    parser.add_argument("--later-pass", action="store_true",
                        help="measure steps of a training that has seen most frames before and does not decode them again")
    parser.add_argument("--work", nargs=3, metavar=("CASE", "SPLIT", "EPOCHS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.work:
        work(args.work[0], Path(args.work[1]), int(args.work[2]))
        return 0
    if args.against is not None and not (args.against / "effvis").is_dir():
        parser.error(f"{args.against} is no checkout: it has no folder effvis")

    import yaml
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from effvis.data.synthetic.shapes import ShapesConfig, write

    table = Table("case", "pairs/s", "ms a step", *(f"{part} %" for part in PARTS), "peak MiB", box=box.SIMPLE_HEAD,
                  title="training steps of the laptop profile, one thread")
    if args.against is not None or args.against_still:
        for name in ("its ms", "its peak", "ratio", "loss differs by"):
            table.add_column(name)
    for column in table.columns[1:]:
        column.justify = "right"
    if args.against_still and "VisTR" in (args.case or ()):
        parser.error("VisTR has no dynamic convolution: choose other cases")
    against = [(args.against.resolve(), "")] if args.against is not None else [(ROOT, STILL)] if args.against_still else []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        drawn = yaml.safe_load(WEIGHTS.with_suffix(".yaml").read_text())["dataset"]["shapes"]
        write(ShapesConfig(**drawn | {"train_videos": VIDEOS, "val_videos": 1, "test_videos": 0}), data)
        for case in args.case or [case for case in CASES if not (args.against_still and case == "VisTR")]:
            cases = [(ROOT, case), *((root, case + variant) for root, variant in against)]
            ours, *others = measure(cases, data / "train", args.rounds, EPOCHS_BEFORE * args.later_pass)
            row = [case, f"{CASES[case][1] / ours.seconds():.1f}", f"{1000 * ours.seconds():.0f}",
                   *(f"{share:.1f}" for share in ours.shares()), f"{ours.steps[-1]['peak']:.0f}"]
            for other in others:
                apart = max(abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours.steps, other.steps, strict=True))
                row += [f"{1000 * other.seconds():.0f}", f"{other.steps[-1]['peak']:.0f}",
                        f"{ours.faster_than(other):.2f}", f"{apart:.1e}"]
            table.add_row(*row)
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
