"""The heads of Mask R-CNN: anchors become proposals, and regions become classes, boxes and masks.

Dimensions in names: F frames, A anchors of all levels, C channels, K classes, S side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProposalHead(nn.Module):
    """The region proposal network (Ren et al., NeurIPS 2015): whether each anchor shows an object, and where.

    Args:
        channels: C, of the levels.
        anchors: how many each pixel of a level has.
    """

    def __init__(self, channels: int, anchors: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, anchors * 4, 1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """From levels (F, C, H, W) to logits (F, A_l) and deltas (F, A_l, 4) of each, in the order of ``anchors_of_level``."""
        found = []
        for level in levels:
            inner = F.relu(self.conv(level))
            objectness, deltas = (layer(inner).permute(0, 2, 3, 1).flatten(1) for layer in (self.objectness, self.deltas))
            found.append((objectness, deltas.unflatten(1, (-1, 4))))
        return found


class BoxHead(nn.Module):
    """Two fully connected layers from a region to its class and, for each class, to a better box.

    Args:
        features: how many values a region has.
        width: of both layers.
    """

    def __init__(self, features: int, width: int, classes: int):
        super().__init__()
        self.first, self.second = nn.Linear(features, width), nn.Linear(width, width)
        self.class_logits, self.deltas = nn.Linear(width, classes + 1), nn.Linear(width, classes * 4)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.class_logits.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.first, self.second, self.class_logits, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """From regions (..., C, P, P) to logits (..., K + 1), of background last, and deltas (..., K, 4)."""
        inner = F.relu(self.second(F.relu(self.first(regions.flatten(-3)))))
        return self.class_logits(inner), self.deltas(inner).unflatten(-1, (-1, 4))


class MaskHead(nn.Module):
    """Convolutions from a region to one mask per class, at twice the region's size."""

    def __init__(self, channels: int, convs: int, classes: int):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(convs))
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.mask_logits = nn.Conv2d(channels, classes, 1)
        for conv in (*self.convs, self.upsample, self.mask_logits):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(conv.bias)

    def forward(self, regions_XCPP: Tensor, labels_X: Tensor) -> Tensor:
        """The mask logits (X, S, S) of the given classes."""
        for conv in self.convs:
            regions_XCPP = F.relu(conv(regions_XCPP))
        logits_XKSS = self.mask_logits(F.relu(self.upsample(regions_XCPP)))
        return logits_XKSS[torch.arange(len(labels_X), device=labels_X.device), labels_X]
