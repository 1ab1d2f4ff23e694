"""From frames to base features. A backbone returns a pyramid (finest first) and states its strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from effvis.config import Backbone
from effvis.model.efficientnet import EfficientNetLite0
from effvis.model.fpn import WithFPN
from effvis.model.resnet import ResNet

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
        y = self.norm2(self.conv2(y))
        y += self.shortcut(x)
        return F.relu_(y)


class TinyBody(nn.Module):
    """A small residual network; it stands in for a ResNet where a model must learn in minutes on a laptop.

    Args:
        blocks: number of residual blocks in each stage.

    Attributes:
        strides, channels: those of its four levels. Its frames are a few times smaller than the paper's; so are the strides.
    """

    strides: Sequence[int] = (2, 4, 8, 16)
    channels: Sequence[int] = (16, 32, 48, 64)

    def __init__(self, blocks: int = 1):
        super().__init__()
        self.stem = nn.Conv2d(3, self.channels[0], 3, 2, 1, bias=False)
        self.stem_norm = nn.GroupNorm(8, self.channels[0])
        self.stages = nn.ModuleList(
            _stage(inner, outer, blocks) for inner, outer in zip(self.channels, self.channels[1:], strict=False))

    def levels(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised frames (F, 3, H, W) to (F, C_l, ⌈H/s⌉, ⌈W/s⌉) for s in ``TinyBody.strides``."""
        levels = [F.relu_(self.stem_norm(self.stem(frames_FCHW)))]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        return levels

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        return self.levels(frames_FCHW)


class TinyBackbone(TinyBody):
    """The tiny body with its strides 4, 8 and 16 fused into one base feature of stride 4.

    Objects in the laptop profile's frames are 10 to 60 pixels wide, so one level serves them all.
    """

    strides: Sequence[int] = (4,)

    def __init__(self, hidden_dim: int, blocks: int = 1):
        super().__init__(blocks)
        self.lateral = nn.ModuleList(nn.Conv2d(width, hidden_dim, 1) for width in self.channels[1:])
        self.output = nn.Conv2d(hidden_dim, hidden_dim, 3, 1, 1)

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised frames (F, 3, H, W) to one level (F, C, H/4, W/4)."""
        fused = None
        for lateral, level in zip(reversed(self.lateral), reversed(self.levels(frames_FCHW)[1:]), strict=True):
            here = lateral(level)
            if fused is not None:
                here += F.interpolate(fused, size=here.shape[-2:], mode="nearest")
            fused = here
        return [self.output(fused)]


class _Builders(NamedTuple):
    """How a backbone is built: the body by itself, and with a pyramid whose levels have the given number of channels."""

    body: Callable[[], nn.Module]
    pyramid: Callable[[int], nn.Module]


def _tiny(blocks: int) -> _Builders:
    return _Builders(partial(TinyBody, blocks), partial(TinyBackbone, blocks=blocks))


def _with_fpn(body: Callable[[], nn.Module]) -> _Builders:
    return _Builders(body, lambda hidden_dim: WithFPN(body(), hidden_dim))


# One for each name of ``effvis.config.Backbone``. The deeper tiny one is to the other what ResNet-101 is to ResNet-50.
BUILDERS: dict[Backbone, _Builders] = {
    "tiny": _tiny(blocks=1),
    "tiny-deep": _tiny(blocks=2),
    **{name: _with_fpn(partial(ResNet, name)) for name in ("resnet18", "resnet50", "resnet101")},
    "efficientnet-lite0": _with_fpn(EfficientNetLite0),
}


def build_backbone(name: Backbone, hidden_dim: int) -> nn.Module:
    """The backbone with this name; its levels have ``hidden_dim`` channels."""
    return BUILDERS[name].pyramid(hidden_dim)


def build_body(name: Backbone) -> nn.Module:
    """The backbone without its pyramid: frames to four levels of ``channels`` at ``strides``, finest first."""
    return BUILDERS[name].body()


def _stage(inner: int, outer: int, blocks: int) -> nn.Module:
    first = ResidualBlock(inner, outer, 2)
    return first if blocks == 1 else nn.Sequential(first, *(ResidualBlock(outer, outer, 1) for _ in range(blocks - 1)))
