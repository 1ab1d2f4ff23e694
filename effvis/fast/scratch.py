"""Memory that is reused, call after call, because the system clears memory that is new to a process page by page.

Each thread has its own, so that several can run one network. Results in it are short-lived: the next call for the same name
overwrites them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

_of_thread = threading.local()


def scratch(name: str, like: Tensor, *shape: int) -> Tensor:
    """An uninitialised tensor on the processor, of another's dtype; its memory grows to the largest size requested."""
    numel = torch.Size(shape).numel()
    held = getattr(_of_thread, name, None)
    if held is None or held.numel() < numel or held.dtype != like.dtype:
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written to outside of it
            held = torch.empty(numel, dtype=like.dtype)
        setattr(_of_thread, name, held)
    return held[:numel].view(shape)


class MomentaryLinear(nn.Module):
    """A linear layer, without gradients, whose output lasts until its thread calls the next layer of this kind."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    @torch.no_grad()
    def forward(self, x_XI: Tensor) -> Tensor:
        return torch.addmm(self.bias, x_XI, self.weight.t(), out=scratch("linear", x_XI, len(x_XI), len(self.bias)))
