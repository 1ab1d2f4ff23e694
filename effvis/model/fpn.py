"""Feature pyramid over a backbone's body (Lin et al., CVPR 2017): the paper's base features."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FPN(nn.Module):
    """1x1 laterals, a top-down path that repeats pixels, and a 3x3 convolution on each level."""

    def __init__(self, channels: Sequence[int], hidden_dim: int):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, hidden_dim, 1) for width in channels)
        self.output = nn.ModuleList(nn.Conv2d(hidden_dim, hidden_dim, 3, 1, 1) for _ in channels)
        for conv in (*self.lateral, *self.output):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """From levels (F, C_l, H_l, W_l) to as many levels (F, C, H_l, W_l), both finest first."""
        outputs: list[Tensor] = []
        coarser = None
        for lateral, output, level in zip(
                reversed(self.lateral), reversed(self.output), reversed(levels), strict=True):
            here = lateral(level)
            if coarser is not None:
                # Resized to the finer level's own size: where that is odd, it is not twice the coarser one's.
                here += F.interpolate(coarser, size=here.shape[-2:], mode="nearest")
            outputs.append(output(here))
            coarser = here
        return outputs[::-1]


class WithFPN(nn.Module):
    """A body of strides 4 to 32 with FPN: levels P2 to P5."""

    strides: Sequence[int] = (4, 8, 16, 32)

    def __init__(self, body: nn.Module, hidden_dim: int):
        super().__init__()
        self.body = body
        self.fpn = FPN(self.body.channels, hidden_dim)

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised frames (F, 3, H, W) of any size to (F, C, ⌈H/s⌉, ⌈W/s⌉) for s in ``strides``."""
        return self.fpn(self.body(frames_FCHW))
