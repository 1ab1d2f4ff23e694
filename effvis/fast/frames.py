"""Frames in parts, so that the maps inside a backbone take bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FramesInParts(nn.Module):
    """A body that takes a few frames at a time, in channels_last."""

    def __init__(self, body: nn.Module, pixels_at_once: int):
        super().__init__()
        self.body, self.pixels_at_once = body, pixels_at_once

    def forward(self, frames_FCHW: Tensor) -> Sequence[Tensor]:
        height, width = frames_FCHW.shape[-2:]
        parts = [self.body(part.contiguous(memory_format=torch.channels_last))
                 for part in frames_FCHW.split(max(1, self.pixels_at_once // (height * width)))]
        return [torch.cat(levels) for levels in zip(*parts, strict=True)]
