"""Frames to base features. A backbone returns a pyramid (finest first) and names its strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.fpn import ResNetFPN

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a projected shortcut; GroupNorm, since clips are small batches."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outer)
        self.shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.norm1(self.conv1(x)))
        return F.relu_(self.norm2(self.conv2(y)) + self.shortcut(x))


class TinyBackbone(nn.Module):
    """A small residual network whose strides 4, 8 and 16 are fused into one base feature of stride 4.

    It stands in for ResNet-50 with FPN where a model must learn in minutes on a laptop. Objects there are 10 to 60
    pixels wide, so that one level serves them all.
    """

    strides: Sequence[int] = (4,)
    widths = (16, 32, 48, 64)

    def __init__(self, hidden_dim: int):
        super().__init__()
        stem, *stages = self.widths
        self.stem = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.stem_norm = nn.GroupNorm(8, stem)
        self.stages = nn.ModuleList(
            ResidualBlock(inner, outer, 2) for inner, outer in zip(self.widths, stages, strict=False))
        self.lateral = nn.ModuleList(nn.Conv2d(width, hidden_dim, 1) for width in stages)
        self.output = nn.Conv2d(hidden_dim, hidden_dim, 3, 1, 1)

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """(F, 3, H, W) normalised frames to one level (F, C, H/4, W/4)."""
        x = F.relu_(self.stem_norm(self.stem(frames_FCHW)))
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        fused = None
        for lateral, level in zip(reversed(self.lateral), reversed(levels), strict=True):
            here = lateral(level)
            fused = here if fused is None else here + F.interpolate(fused, size=here.shape[-2:], mode="nearest")
        return [self.output(fused)]


def build_backbone(name: str, hidden_dim: int) -> nn.Module:
    """The backbone of a name in ``ModelConfig.backbone``; its levels have ``hidden_dim`` channels."""
    return TinyBackbone(hidden_dim) if name == "tiny" else ResNetFPN(name, hidden_dim)
