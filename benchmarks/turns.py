"""What benchmarks of speed share: processes that take turns, a stopwatch for networks, frames to read."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 40  # YouTube-VIS
# Operations that PyTorch's counter does not know; it passes the shapes of tensors in their place.
UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu:
             lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value)}


class Stopwatch:
    """Seconds spent in a network's methods until the device's work is done; in a first pass it counts operations instead.

    Args:
        names: the methods, as far as the network has them. What one of them spends in another counts once.
    """

    def __init__(self, model: nn.Module, device: str, names: Sequence[str] = ("features", "forward", "mask_logits")):
        self.seconds, self.operations, self.counts = 0.0, 0, True
        self._device, self._inside = device, False
        self._methods = {name: getattr(model, name) for name in names if hasattr(model, name)}
        for name in self._methods:
            setattr(model, name, self._timed(name))

    def compile(self, mode: str) -> None:
        """Compiles the methods; their operations cannot be counted from then on."""
        self._methods = {name: torch.compile(method, mode=mode) for name, method in self._methods.items()}

    def now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def _timed(self, name: str) -> Callable:
        def timed(*args, **kwargs):
            method = self._methods[name]
            if self._inside:
                return method(*args, **kwargs)
            self._inside, began = True, self.now()
            try:
                if not self.counts:
                    return method(*args, **kwargs)
                with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
                    found = method(*args, **kwargs)
                self.operations += counter.get_total_flops()
                return found
            finally:
                self.seconds += self.now() - began
                self._inside = False

        return timed


def own_methods(model: nn.Module) -> list[str]:
    """The public methods that a network adds to PyTorch's, and ``forward``: all of it that others call."""
    names = {name for name in dir(type(model)) if not name.startswith("_") and callable(getattr(type(model), name))}
    return sorted(names - set(dir(nn.Module)) | {"forward"})


class Worker:
    """A process that takes a clip for each line of its standard input, and answers with what it measured as JSON.

    The first clip warms up; ``clips`` has it too.
    """

    def __init__(self, name: str, command: Sequence[str]):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
        self._process = subprocess.Popen([sys.executable, "-m", *command], text=True, cwd=ROOT, env=environment,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.name, self.clips = name, []

    def take(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            print("clip", file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended with exit code {self._process.wait()}")
        self.clips.append(json.loads(answer))

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def seconds(self, stages: Sequence[str]) -> list[float]:
        """What some stages took together, clip by clip after the first."""
        return [sum(one["seconds"].get(stage, 0.0) for stage in stages) for one in self.clips[1:]]


def peak_bytes(device: str) -> int:
    """Peak memory of the process so far, in the device's memory."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_name(device: str) -> str:
    """The name of the GPU or of the processor."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def draw_frames(folder: Path, frames: int, height: int, width: int) -> None:
    """JPEGs of blotches that are 8 pixels wide."""
    rng = np.random.default_rng(0)
    for frame in range(frames):
        blotches = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
        Image.fromarray(blotches).resize((width, height), Image.Resampling.BILINEAR).save(folder / f"{frame:05d}.jpg")
