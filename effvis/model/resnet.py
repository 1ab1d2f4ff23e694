"""ResNet-18, -50 and -101 (He et al., CVPR 2016) with frozen BatchNorm, named as torchvision names them.

The paper's backbones are pretrained on ImageNet and then on COCO. Since every module, parameter and buffer here has
torchvision's name and shape, its published weights load as they are: ``ResNet("resnet50").load_state_dict(weights)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.recompute import Recomputing

# Scale of a fresh residual branch's last normalisation. At 1 each block would double the variance: 2**33 in ResNet-101,
# which no running statistics correct while they are frozen. Pretrained weights overwrite it.
FRESH_BRANCH_SCALE = 0.2


class FrozenBatchNorm2d(nn.Module):
    """BatchNorm that never learns: its statistics and its affine part are buffers, kept in float32.

    A clip pair is too small and too uniform a batch for statistics; the pretrained ones stay as they are. A fresh one is the
    identity up to ``eps``.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_FCHW: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        # One pass, which keeps no activation for the backward pass: scale and shift need no gradient.
        return torch.addcmul(
            shift.to(x_FCHW.dtype).view(1, -1, 1, 1), x_FCHW, scale.to(x_FCHW.dtype).view(1, -1, 1, 1))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Only a learning BatchNorm counts its batches.
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18)."""

    expansion = 1

    def __init__(self, inner: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.downsample = _shortcut(inner, width, stride)
        self.bn2.weight.fill_(FRESH_BRANCH_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu_(y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride, as in the weights that torchvision publishes."""

    expansion = 4

    def __init__(self, inner: int, width: int, stride: int):
        super().__init__()
        outer = width * self.expansion
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(outer)
        self.downsample = _shortcut(inner, outer, stride)
        self.bn3.weight.fill_(FRESH_BRANCH_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.bn1(self.conv1(x)))
        y = F.relu_(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu_(y)


# Kind of block and blocks per stage.
ARCHITECTURES: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
# Blocks that are recomputed together, so that only the input of the first is kept. One alone keeps 4.4 GiB more of a ResNet-101
# (benchmarks/activations.py); the more there are, the more a recomputation takes.
BLOCKS_AT_ONCE = 3
STAGE_WIDTHS = (64, 128, 256, 512)
STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(Recomputing):
    """The body of a ResNet, without its classifier.

    Attributes:
        strides, channels: those of the four stages' outputs.
    """

    strides: Sequence[int] = (4, 8, 16, 32)

    def __init__(self, name: str):
        super().__init__()
        block, depths = ARCHITECTURES[name]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        self.channels = tuple(width * block.expansion for width in STAGE_WIDTHS)
        inner = 64
        for index, stage in enumerate(STAGES):
            blocks = []
            for number in range(depths[index]):
                blocks.append(block(inner, STAGE_WIDTHS[index], 2 if index > 0 and number == 0 else 1))
                inner = self.channels[index]
            self.add_module(stage, nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised frames (F, 3, H, W) of any size to (F, C_l, ⌈H/s⌉, ⌈W/s⌉) for s = 4, 8, 16, 32."""
        x = F.max_pool2d(F.relu_(self.bn1(self.conv1(frames_FCHW))), 3, 2, 1)
        levels = []
        for stage in STAGES:
            blocks = self.get_submodule(stage)
            for first in range(0, len(blocks), BLOCKS_AT_ONCE):
                x = self.held(blocks[first: first + BLOCKS_AT_ONCE], x)
            levels.append(x)
        return levels

    def freeze(self, stages: int) -> None:
        """Lets the stem and the first ``stages`` stages learn nothing; with 0, everything learns."""
        frozen = {"conv1", *STAGES[:stages]} if stages else set()
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.split(".")[0] not in frozen)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # The classifier of ImageNet has no place here.
        for name in ("fc.weight", "fc.bias"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _shortcut(inner: int, outer: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inner == outer:
        return None
    return nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), FrozenBatchNorm2d(outer))
