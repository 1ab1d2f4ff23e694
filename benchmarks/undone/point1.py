"""Point 1, Eq. 3 undone: neighbouring regions are averaged by their own similarity, and the average is filtered once.

The paper compares and sums the *outputs* of the convolution.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.undone.replacing import replaced
from effvis.model.dynamic_conv import DynamicConv, TemporalDynamicConv

WHAT = "Eq. 3 averages regions by their similarity, and filters the average once"


def patch() -> AbstractContextManager[None]:
    return replaced(TemporalDynamicConv, "forward", _average_then_filter)


def _average_then_filter(self: TemporalDynamicConv, query_BNTC: Tensor, regions: Tensor) -> Tensor:
    """Called as ``TemporalDynamicConv.forward``, with regions (B, N, T, P, C) or (B, N, T, 3, P, C)."""
    three = regions if regions.dim() == 6 else _with_neighbours(regions)
    return DynamicConv.forward(self, query_BNTC, average(three, self.temperature))


def _with_neighbours(regions_BNTPC: Tensor) -> Tensor:
    """The regions of frames t-1, t and t+1, each under its own proposal: (B, N, T, 3, P, C).

    Beyond the clip there is the frame itself again, without a weight.
    """
    before = torch.cat((regions_BNTPC[:, :, :1], regions_BNTPC[:, :, :-1]), dim=2)
    after = torch.cat((regions_BNTPC[:, :, 1:], regions_BNTPC[:, :, -1:]), dim=2)
    return torch.stack((before, regions_BNTPC, after), dim=3)


def average(regions_BNT3PC: Tensor, temperature: float) -> Tensor:
    """At each location the regions' average (B, N, T, P, C): weights are the softmax of the cosines with frame t's region."""
    frames = regions_BNT3PC.shape[2]
    unit = F.normalize(regions_BNT3PC, dim=-1)
    cosine = (unit[:, :, :, 1:2] * unit).sum(dim=-1)  # (B, N, T, 3, P)
    outside = torch.zeros(frames, 3, 1, dtype=torch.bool, device=regions_BNT3PC.device)
    outside[0, 0] = outside[-1, 2] = True
    weight = (cosine / temperature).masked_fill(outside, float("-inf")).softmax(dim=3)
    return (weight.unsqueeze(-1) * regions_BNT3PC).sum(dim=3)
