"""EfficientNet-Lite0 with frozen BatchNorm: EfficientNet-B0 (Tan and Le, ICML 2019) without squeeze-and-excitation, with ReLU6.

Its ImageNet weights are published as a Python package of 18 MB, so that a network for photographs needs no download beside the
installation (docs/weights.md). ``body_weights`` gives them this module's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.recompute import Recomputing
from effvis.model.resnet import FRESH_BRANCH_SCALE, FrozenBatchNorm2d

# The epsilon with which the published BatchNorm was trained.
EPS = 1e-3
STEM_WIDTH = 32
# Each group of blocks: how many, kernel, stride of the first, expansion, output channels.
GROUPS = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
# The number of blocks after which the strides 4, 8, 16 and 32 end.
STAGE_ENDS = (3, 5, 11, 16)
# Patterns of the published names, with the names here; what is not listed is ImageNet's classifier.
NAMES = (
    (r"_conv_stem\.(.+)", r"stem.\1"),
    (r"_bn0\.(.+)", r"stem_norm.\1"),
    *((rf"_blocks\.(\d+)\.{theirs}\.(.+)", rf"blocks.\1.{ours}.\2") for theirs, ours in (
        ("_expand_conv", "expand"), ("_bn0", "expand_norm"), ("_depthwise_conv", "depthwise"), ("_bn1", "depthwise_norm"),
        ("_project_conv", "project"), ("_bn2", "project_norm"))),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias whose output has ⌈side / stride⌉ values; where padding is uneven, there is more at the end."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1):
        # With stride 1 the padding is even, and so the convolution's own.
        super().__init__(inner, outer, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            missing = [max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
                       for side in x.shape[:-3:-1]]
            x = F.pad(x, [pad for total in missing for pad in (total // 2, total - total // 2)])
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """Expansion, a convolution of each channel by itself, and projection; with a shortcut where the shape stays the same."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inner * expansion
        if expansion > 1:
            self.expand = SameConv2d(inner, wide, 1)
            self.expand_norm = FrozenBatchNorm2d(wide, EPS)
        self.depthwise = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self.depthwise_norm = FrozenBatchNorm2d(wide, EPS)
        self.project = SameConv2d(wide, outer, 1)
        self.project_norm = FrozenBatchNorm2d(outer, EPS)
        self.expands, self.has_shortcut = expansion > 1, stride == 1 and inner == outer
        if self.has_shortcut:
            self.project_norm.weight.fill_(FRESH_BRANCH_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand_norm(self.expand(x)), inplace=True) if self.expands else x
        y = F.relu6(self.depthwise_norm(self.depthwise(y)), inplace=True)
        y = self.project_norm(self.project(y))
        return y + x if self.has_shortcut else y


class EfficientNetLite0(Recomputing):
    """The body of an EfficientNet-Lite0, without its classifier.

    Attributes:
        strides, channels: those of its four levels.
    """

    strides: Sequence[int] = (4, 8, 16, 32)
    channels: Sequence[int] = (24, 40, 112, 320)

    def __init__(self):
        super().__init__()
        self.stem = SameConv2d(3, STEM_WIDTH, 3, 2)
        self.stem_norm = FrozenBatchNorm2d(STEM_WIDTH, EPS)
        self.blocks = nn.ModuleList()
        inner = STEM_WIDTH
        for count, kernel, stride, expansion, outer in GROUPS:
            for number in range(count):
                self.blocks.append(InvertedBottleneck(inner, outer, kernel, stride if number == 0 else 1, expansion))
                inner = outer
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                # A projection is followed by no ReLU.
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if name.endswith("project") else "relu")

    def forward(self, frames_FCHW: Tensor) -> list[Tensor]:
        """From normalised frames (F, 3, H, W) of any size to (F, C_l, ⌈H/s⌉, ⌈W/s⌉) for s = 4, 8, 16, 32."""
        x = F.relu6(self.stem_norm(self.stem(frames_FCHW)), inplace=True)
        levels = []
        for number, block in enumerate(self.blocks, 1):
            x = self.held(block, x)
            if number in STAGE_ENDS:
                levels.append(x)
        return levels

    def freeze(self, stages: int) -> None:
        """Lets the stem and the blocks of the first ``stages`` levels learn nothing; with 0, everything learns."""
        self.stem.requires_grad_(not stages)
        for number, block in enumerate(self.blocks):
            block.requires_grad_(not stages or number >= STAGE_ENDS[stages - 1])


def body_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the body from a published state dict, under the names of ``EfficientNetLite0``."""
    found = {}
    for name, value in published.items():
        for pattern, place in NAMES:
            match = re.fullmatch(pattern, name)
            if match and not name.endswith("num_batches_tracked"):
                found[match.expand(place)] = value
    return found
