"""Base features with some work postponed until it is known whether a proposal looks there.

The postponed work is each level's last convolution (pooling_first.py), and on the finest level, which has three quarters of
all cells, the 1x1 lateral and the sum with the coarser level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.backbone import TinyBackbone
from effvis.model.efficientvis import BaseFeatures
from effvis.model.fpn import FPN


@dataclass(frozen=True)
class UnmergedFrames:
    """The frames whose finest level is still the output of the backbone's body.

    Attributes:
        left_F: which frames these are; like the finest level, it changes in place.
        coarser: the next level (F, C, H, W), before its last convolution.
        lateral: the convolution that brings the finest level into the pyramid.
    """

    left_F: Tensor
    coarser: Tensor
    lateral: nn.Conv2d

    def select(self, frames: slice) -> UnmergedFrames:
        """The same for some of the frames, as views: what is merged there is merged here."""
        return UnmergedFrames(self.left_F[frames], self.coarser[frames], self.lateral)

    @torch.inference_mode()
    def merge(self, finest_FCHW: Tensor, wanted_F: Tensor) -> None:
        for frame in (self.left_F & wanted_F).nonzero()[:, 0].tolist():
            here = self.lateral(finest_FCHW[frame: frame + 1])
            here += F.interpolate(self.coarser[frame: frame + 1], size=here.shape[-2:], mode="nearest")
            finest_FCHW[frame: frame + 1] = here
        self.left_F.logical_and_(~wanted_F)


@dataclass(frozen=True)
class UnfinishedFeatures(BaseFeatures):
    """Base features whose levels may lack their last convolution, and the finest level even more in some frames.

    Attributes:
        waiting: each level's missing convolution, or None. It and ``pyramid`` change when a level is convolved.
        whole: the module that convolves each level as a whole.
        unmerged: frames whose finest level is postponed; None where the whole pyramid is there.
    """

    waiting: list[nn.Conv2d | None]
    whole: Sequence[nn.Module]
    unmerged: UnmergedFrames | None

    def select(self, clips: slice) -> UnfinishedFeatures:
        chosen = super().select(clips)
        first = range(self.clips)[clips].start * self.frames
        unmerged = self.unmerged and self.unmerged.select(slice(first, first + chosen.clips * chosen.frames))
        return UnfinishedFeatures(**vars(chosen), waiting=list(self.waiting), whole=self.whole, unmerged=unmerged)

    def merge(self, frames_F: Tensor) -> None:
        """Computes the finest level of some frames, where that was postponed."""
        if self.unmerged is not None:
            self.unmerged.merge(self.pyramid[0], frames_F)

    def finish(self, level: int) -> None:
        """Convolves a level as a whole."""
        if level == 0 and self.unmerged is not None:
            self.merge(torch.ones_like(self.unmerged.left_F))
        self.pyramid[level] = self.whole[level](self.pyramid[level])
        self.waiting[level] = None


class CoarserLevels(nn.Module):
    """A pyramid whose finest level is the body's output: its lateral is postponed."""

    def __init__(self, fpn: FPN):
        super().__init__()
        self.fpn = fpn
        fpn.lateral, fpn.output = fpn.lateral[1:], fpn.output[1:]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [levels[0], *self.fpn(levels[1:])]


def leave_finest_lateral(backbone: nn.Module) -> nn.Conv2d | None:
    """Makes a backbone return its finest level as its body does, where that has as many channels and so can be overwritten.

    Returns:
        The postponed convolution; None where nothing is postponed.
    """
    if isinstance(backbone, TinyBackbone):
        return None
    lateral = backbone.fpn.lateral[0]
    if lateral.in_channels != lateral.out_channels:
        return None
    backbone.fpn = CoarserLevels(backbone.fpn)
    return lateral


def detach_last_convolutions(backbone: nn.Module) -> nn.ModuleList:
    """Takes the last convolution of each level out of a backbone, which then returns what goes into them."""
    if isinstance(backbone, TinyBackbone):
        convolutions, backbone.output = nn.ModuleList([backbone.output]), nn.Identity()
    else:
        convolutions = backbone.fpn.output
        backbone.fpn.output = nn.ModuleList(nn.Identity() for _ in convolutions)
    return convolutions
