"""Memory of one training step, counted without running it: weights, gradients, optimizer, what the backward pass needs, peaks.

    python -m benchmarks.activations --profile paper
    python -m benchmarks.activations --profile paper -S train.activation_checkpointing=false      # what that saves

A step of one GPU's share of a batch goes forward, backward and through the optimizer on tensors that have a size but no
values (FakeTensorMode), so that this takes seconds and no memory on any machine. Every storage counts from when it is made
until it is freed, also those of a block that is computed again in the backward pass. Precisions are those of autocast on a GPU.
A clip has as many instances as the network has queries, all present in every frame. Not counted: the GPU's context, the
workspaces of cuDNN and NCCL, and what the allocator's blocks leave unused.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from effvis.config import OptimisationConfig
from effvis.data.sizes import scaled, widest
from effvis.data.targets import ClipPairBatch, ClipTargets
from effvis.methods import build_model
from effvis.model.recompute import prepare
from effvis.training.loop import optimizer_of
from pipeline import methods
from pipeline.settings.loading import load_params
from pipeline.settings.params import Params

CATEGORIES = 40  # YouTube-VIS
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Of what autocast computes in fp32 on a GPU, and not on a processor, what the networks call.
FP32 = ((F, "layer_norm"), (F, "softmax"), (F, "cosine_similarity"), (torch, "log"), (torch, "exp"),
        *((Tensor, name) for name in ("softmax", "exp", "log", "sum", "prod", "pow", "__pow__")))


@dataclass(frozen=True)
class Case:
    """A training to be measured.

    Attributes:
        backbone: as the tables name it, before scaling.
        frames: T, before scaling.
        clips: of each video in a step, 1 or 2 (with correspondence learning).
        scale: of the input size.
        aim: GiB that it may take.
    """

    title: str
    backbone: str
    frames: int = 36
    clips: int = 1
    scale: float = 1.0
    aim: float | None = None


def cases(params: Params) -> list[Case]:
    """The headline's training, and one that asks for as much as any row of any table: ResNet-101, multi-scale's largest size,
    and the pair of clips that longer videos need (2021)."""
    largest = max(params.train.scales)
    return [Case("R50, T=36, a clip", "R50", aim=9.0),
            Case("R101, T=36, a pair of clips, multi-scale's largest", "R101", clips=2, scale=largest, aim=18.0)]


class Living(TorchDispatchMode):
    """Counts the bytes of all storages without values that are alive.

    Attributes:
        now, peak: bytes that are alive, and the most that were since ``peak`` was set last.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        if given and not any(isinstance(one, FakeTensor) for one in given):  # targets, which the matching reads
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        result = function(*args, **kwargs)
        tree_map_only(Tensor, self._count, result)
        return result

    def hold(self, size: int) -> None:
        """Counts bytes that are alive to the end."""
        self.now += size
        self.peak = max(self.peak, self.now)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        number, size = storage._cdata, storage.nbytes()
        if number not in self._known:
            self._known[number] = weakref.finalize(storage, self._forget, number, size)
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor

    def _forget(self, number: int, size: int) -> None:
        del self._known[number]
        self.now -= size


@contextlib.contextmanager
def _as_on_gpu() -> Iterator[None]:
    """Autocast's choice of fp32 on a GPU, and tensors without values where the losses need some.

    As arrays, costs are arbitrary and masks all true; a mask that chooses rows chooses all of them.
    """
    array, item = Tensor.numpy, Tensor.__getitem__

    def numpy(tensor: Tensor, **options: Any) -> np.ndarray:
        if not isinstance(tensor, FakeTensor):
            return array(tensor, **options)
        if tensor.dtype == torch.bool:
            return np.ones(tuple(tensor.shape), bool)
        return np.arange(tensor.numel(), dtype=str(tensor.dtype).removeprefix("torch.")).reshape(tuple(tensor.shape))

    def getitem(tensor: Tensor, index: Any) -> Tensor:
        return item(tensor, tree_map_only(Tensor, _rows, index))

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(Tensor, "numpy", numpy))
        patches.enter_context(mock.patch.object(Tensor, "__getitem__", getitem))
        patches.enter_context(mock.patch.object(torch.nn.utils, "skip_init", _made))
        patches.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _fused(F.scaled_dot_product_attention)))
        for owner, name in FP32:
            patches.enter_context(mock.patch.object(owner, name, _in_fp32(getattr(owner, name))))
        yield


def _made(kind: type[nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """``skip_init`` without its way from one device to another, which modules without values cannot go."""
    return kind(*args, **kwargs)


def _fused(attention: Callable) -> Callable:
    """Attention that keeps no weights, as a GPU's does; a processor's does so only without dropout."""
    def computed(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0,
                 *args: Any, **kwargs: Any) -> Tensor:
        return attention(query, key, value, mask, 0.0, *args, **kwargs)

    return computed


def _in_fp32(function: Callable) -> Callable:
    def computed(*args: Any, **kwargs: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map_only(Tensor, _single, (args, kwargs))
        return function(*args, **kwargs)

    return computed


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in DTYPES.values() else tensor


def _rows(index: Tensor) -> Tensor:
    if index.dtype != torch.bool or index.dim() != 1:
        return index
    return torch.arange(len(index)) if isinstance(index, FakeTensor) else index.nonzero().squeeze(1)


def measure(params: Params, case: Case, method: str = methods.DEFAULT) -> dict[str, float]:
    """Bytes by what they are for; ``peak`` is the most that is alive at once, and ``forward``, ``backward`` and ``step`` the
    most in each part."""
    of_method = methods.get(method)
    settings = params.of_method(method)
    backbone = params.scale.backbone[case.backbone]
    config = settings.model.model_copy(update={"backbone": backbone}).resolve(CATEGORIES, params.clip_length(case.frames))
    train: OptimisationConfig = of_method.train_config(settings, case.clips > 1)
    # Of videos that are no longer than a clip, and no pictures; a method may look at two clips of any video.
    clips = max(case.clips, of_method.clips_per_video(train, config.clip_length, max(2, config.clip_length)))
    size = widest(scaled(params.input_size_of(method), case.scale))
    living = Living()
    found: dict[str, float] = {}

    def part(name: str, before: int) -> int:
        found[name] = living.now - before
        return living.now

    targets = _targets(config.queries, config.clip_length, size)
    with _as_on_gpu(), FakeTensorMode(allow_non_fake_inputs=True), living:
        model = build_model(config).train()
        prepare(model, frozen_stages=train.frozen_stages, recompute=train.activation_checkpointing)
        optimizer = optimizer_of(model, train)
        before = part("weights", 0)
        pixels = (1, config.clip_length, *size, 3)
        frames = tuple(torch.zeros(pixels, dtype=torch.uint8).movedim(-1, 2) for _ in range(clips))
        batch = ClipPairBatch(frames, tuple([targets] for _ in frames), [0])
        living.hold(sum(one.nbytes for one in vars(targets).values() if isinstance(one, Tensor)) * clips)
        before = part("inputs", before)
        losses_of = of_method.losses(model, train)

        def most(name: str, action: Callable[[], Any]) -> Any:
            living.peak = living.now
            result = action()
            found[name] = living.peak
            return result

        total = most("forward", lambda: _total(losses_of, batch, train.precision))
        part("kept for the backward pass", before)
        most("backward", total.backward)
        del total
        found["gradients"] = living.now - before
        before = living.now

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
            optimizer.step()

        most("step", step)
        found["optimizer"] = living.now - before
    # The optimizer's state is there from the second step on.
    found["peak"] = max(found["forward"] + found["optimizer"], found["backward"] + found["optimizer"], found["step"])
    return found


def _targets(instances: int, frames: int, size: tuple[int, int]) -> ClipTargets:
    """The targets of a clip: as many instances as tracklets, in every frame."""
    return ClipTargets(torch.arange(instances), torch.zeros(instances, dtype=torch.long), torch.ones(instances, frames).bool(),
                       torch.zeros(instances, frames, 4), torch.zeros(instances, frames, *size, dtype=torch.bool))


def _total(losses_of: Callable, batch: ClipPairBatch, precision: str) -> Tensor:
    dtype = DTYPES.get(precision)
    with contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype):
        return torch.stack(list(losses_of(batch).values())).sum()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.activations", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="paper", help="(default: paper)")
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="(default: params.yaml)")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="override one parameter")
    parser.add_argument("--method", choices=methods.names(), default=methods.DEFAULT)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the bytes to a file as well")
    args = parser.parse_args(argv)
    params = load_params(args.params, [f"profile={args.profile}", *args.set])
    results = {}
    for case in cases(params):
        found = results[case.title] = measure(params, case, args.method)
        print(f"{case.title}:")
        for name, amount in found.items():
            print(f"  {name:28}{amount / 2**30:7.2f} GiB")
        if case.aim is not None and args.method == methods.DEFAULT:
            verdict = "reached" if found["peak"] <= case.aim * 2**30 else "missed"
            print(f"  {'aim':28}{case.aim:7.2f} GiB, {verdict}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
