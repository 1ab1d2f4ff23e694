"""A batch in parts: one for each worker of torch.distributed, or several for each, one after the other.

The parts' losses are divided by what the targets of the whole batch hold, so that they sum to its losses, and their gradients
to its gradient, however many parts there are.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import astuple
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effvis.data.clips import ClipPairs
from effvis.data.targets import ClipPairBatch, Counts
from effvis.errors import UserError

# Called as ``losses_of(batch, counts=counts)``: the weighted losses, by name, of a batch or of a part of the one that holds
# what ``counts`` says.
LossesOf = Callable[..., dict[str, Tensor]]
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def workers() -> tuple[int, int]:
    """This process's rank and the number of workers; (0, 1) where torch.distributed is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def of_first_worker(number: int) -> int:
    """The first worker's ``number``, on every worker."""
    rank, number_of_workers = workers()
    if number_of_workers == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    told = torch.tensor(number if rank == 0 else 0, device=device)
    dist.all_reduce(told)
    return int(told)


class BatchGradients:
    """Losses and gradients of whole batches, of which this worker computes its parts.

    Args:
        model: the network, on its device.
        accumulate: number of parts of each worker.
        precision: as in ``OptimisationConfig``.

    Raises:
        UserError: a batch has fewer pairs than parts.
    """

    def __init__(self, model: nn.Module, losses_of: LossesOf, pairs: ClipPairs, *, precision: str, accumulate: int):
        self._rank, self._workers = workers()
        self._accumulate, self._parts = accumulate, accumulate * self._workers
        if pairs.batch_size < self._parts:
            raise UserError("train", "batch_size", f"{pairs.batch_size} pairs cannot be divided into {self._parts} parts "
                            f"({self._workers} workers, {accumulate} of each)", "Take fewer workers or parts, or more pairs")
        self._pairs, self._precision = pairs, precision
        self._device = next(model.parameters()).device
        self._gradients: nn.Module = _Losses(model, losses_of)
        if self._workers > 1:
            self._gradients = _distributed(self._gradients)

    def backward(self, step: int, scaled: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Adds the gradient of a step's batch to the parameters', on every worker, and returns the batch's losses.

        Args:
            scaled: turns the sum of the losses into what is differentiated.
        """
        own = [self._rank * self._accumulate + number for number in range(self._accumulate)]
        batches = {part: self._pairs.batch(step, part, self._parts) for part in own}
        counts = self._counts(batches.values())
        sums: Tensor | float = 0.0
        names: list[str] = []
        for part, batch in batches.items():
            with self._gradients.no_sync() if self._workers > 1 and part != own[-1] else contextlib.nullcontext():
                losses = self._of(step, part, batch, counts)
                names, values = list(losses), torch.stack(list(losses.values()))
                # DistributedDataParallel averages over the workers.
                scaled(values.sum() * self._workers).backward()
            sums = sums + values.detach()
        if self._workers > 1:
            dist.all_reduce(sums)
        return dict(zip(names, sums, strict=True))

    def _of(self, step: int, part: int, batch: ClipPairBatch, counts: Counts) -> dict[str, Tensor]:
        # What dropout leaves out follows from seed, step and part alone.
        torch.manual_seed(self._pairs.seed * 2**32 + part * 2**24 + step)
        dtype = _DTYPES.get(self._precision)
        with contextlib.nullcontext() if dtype is None else torch.autocast(self._device.type, dtype):
            return self._gradients(batch, counts)

    def _counts(self, parts: Iterable[ClipPairBatch]) -> Counts:
        """What the whole batch holds: all parts of all workers."""
        own = Counts.total(part.counts() for part in parts)
        if self._workers == 1:
            return own
        total = torch.tensor(astuple(own), device=self._device)
        dist.all_reduce(total)
        return Counts(*total.tolist())


def _distributed(losses: nn.Module) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # The name that PyTorch 2.13 prefers does not exist in 2.11.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        # Batch normalisation is frozen: buffers never differ.
        return DistributedDataParallel(losses, broadcast_buffers=False, gradient_as_bucket_view=True)


class _Losses(nn.Module):
    """The losses as a forward pass, around which DistributedDataParallel gathers gradients."""

    def __init__(self, model: nn.Module, losses_of: LossesOf):
        super().__init__()
        self.model, self._losses_of = model, losses_of

    def forward(self, batch: ClipPairBatch, counts: Counts) -> dict[str, Any]:
        return self._losses_of(batch, counts=counts)
