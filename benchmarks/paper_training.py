"""Training steps of the paper's network (ResNet-50, 360x640, T=36): clips per second, memory per clip, hours of training.

    python -m benchmarks.paper_training --device cuda --batch-size 1 --batch-size 2 --batch-size 4
    python -m benchmarks.paper_training --size 96 160 --frames 4 --precision fp32        # what a processor can do

A step takes one clip from each of as many videos as the batch size says, as at T=36 on YouTube-VIS 2019, where the paper needs
no correspondence learning. Videos are drawn, as JPEGs of the input's size, and every step reads them anew; a thread prepares
the next batch, as in the paper's profile, and "data" is the time that the step still waits for it. The hours are those of 33
passes over the 2,238 training videos at the measured pace, on one device, as here. Weights are random; times do not depend on
them. This needs only effvis.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.turns import peak_bytes
from effvis.config import LossWeights, ModelConfig
from effvis.data.clips import ClipPairs
from effvis.data.index import clip_index
from effvis.data.prefetch import Prefetched
from effvis.data.synthetic.shapes import ShapesConfig, write
from effvis.data.youtube_vis import read_split
from effvis.model.efficientvis import EfficientVIS
from effvis.training.correspondence import pair_losses

VIDEOS, EPOCHS = 2238, 33  # the videos of YouTube-VIS 2019's training set; the paper's epochs
CATEGORIES = 40
PARTS = ("data", "forward", "backward", "optimizer")
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


class Step:
    """Takes training steps and measures the seconds of their parts."""

    def __init__(self, model: EfficientVIS, batches: Callable, device: torch.device, precision: str):
        self._model, self._batches, self._device, self._dtype = model, batches, device, DTYPES[precision]
        self._losses = partial(pair_losses, model, weights=LossWeights(), correspondence=False)
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=2.5e-5, weight_decay=1e-4, fused=True)
        self._taken = 0

    def take(self) -> list[float]:
        """Seconds of each of ``PARTS``."""
        times = [self._now()]
        batch = self._batches(self._taken)
        self._taken += 1
        times.append(self._now())
        total = self._loss(batch)
        times.append(self._now())
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        times.append(self._now())
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        times.append(self._now())
        return [after - before for before, after in zip(times, times[1:], strict=False)]

    def _loss(self, batch: object) -> Tensor:
        half = contextlib.nullcontext() if self._dtype is None else torch.autocast(self._device.type, self._dtype)
        with half:
            return torch.stack(list(self._losses(batch).values())).sum()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def measure(split: Path, batch_size: int, args: argparse.Namespace) -> dict[str, object]:
    device = torch.device(args.device)
    index = read_split(split)
    pairs = ClipPairs(index, clip_index(index, args.frames), input_size=tuple(args.size), batch_size=batch_size, seed=0,
                      flip=False, clips_per_video=1)
    torch.manual_seed(0)
    model = EfficientVIS(ModelConfig(num_classes=CATEGORIES, clip_length=args.frames, backbone="resnet50")).to(device).train()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with Prefetched(pairs) as batches:
        step = Step(model, batches.batch, device, args.precision)
        seconds = [step.take() for _ in range(args.warm_up + args.steps)][args.warm_up:]
    medians = [statistics.median(part) for part in zip(*seconds, strict=True)]
    whole = statistics.median(map(sum, seconds))
    return {
        "batch_size": batch_size, "seconds": whole, "clips_per_second": batch_size / whole,
        "shares": {name: value / sum(medians) for name, value in zip(PARTS, medians, strict=True)},
        "peak_gib": peak_bytes(args.device) / 2**30, "hours": VIDEOS * EPOCHS * whole / batch_size / 3600,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper_training", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, action="append", help="clips per step; may be given again (default: 1)")
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="precision of torch.autocast (default: bf16)")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=36, help="T, frames of a clip (default: 36)")
    parser.add_argument("--steps", type=int, default=10, help="steps to measure (default: 10)")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before the measured ones (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file as well")
    args = parser.parse_args(argv)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; leave it out, and make --size and --frames small")
    where = torch.cuda.get_device_name() if args.device.startswith("cuda") else f"{torch.get_num_threads()} processor threads"
    print(f"ResNet-50, T={args.frames}, {args.size[0]}x{args.size[1]}, {args.precision}, on {where}")
    batch_sizes = args.batch_size or [1]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes"
        write(ShapesConfig(train_videos=2 * max(batch_sizes), val_videos=1, frames=args.frames, height=args.size[0],
                           width=args.size[1]), data)
        for batch_size in batch_sizes:
            one = measure(data / "train", batch_size, args)
            results.append(one)
            shares = ", ".join(f"{name} {100 * share:.1f}%" for name, share in one["shares"].items())
            print(f"{batch_size} clips a step: {one['seconds']:.3f} s, {one['clips_per_second']:.2f} clips/s ({shares}); peak "
                  f"{one['peak_gib']:.2f} GiB; {VIDEOS} videos x {EPOCHS} epochs: {one['hours']:.1f} h", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"where": where, "precision": args.precision, "frames": args.frames,
                                         "size": list(args.size), "steps": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
