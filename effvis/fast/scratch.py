"""Memory that is used again, call after call: memory that is new to a process is cleared by the system page by page.

Each thread has its own, so that a network can be run by several. What is computed into it is for the moment: the next call
that asks for the same name overwrites it.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

_of_thread = threading.local()


def scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """A tensor on the processor, with anything in it, of another's dtype; it grows to the largest that was asked for."""
    numel = torch.Size(shape).numel()
    held = getattr(_of_thread, name, None)
    if held is None or held.numel() < numel or held.dtype != like.dtype:
        with torch.inference_mode(False):  # what inference mode makes cannot be written to outside of it
            held = torch.empty(numel, dtype=like.dtype)
        setattr(_of_thread, name, held)
    return held[:numel].view(shape)


class MomentaryLinear(nn.Module):
    """A linear layer, without gradients, whose output lasts until its thread calls the next of its kind."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    @torch.no_grad()
    def forward(self, x_XI: Tensor) -> Tensor:
        return torch.addmm(self.bias, x_XI, self.weight.t(), out=scratch("linear", x_XI, len(x_XI), len(self.bias)))
