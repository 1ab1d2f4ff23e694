"""The tracking head of MaskTrack R-CNN: from an object's features to the probability of being a known object.

Dimensions in names: N candidates, M known objects, D values of an embedding. Entry 0 of M + 1 stands for a new object, entry n
for the known object n - 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.boxes import at_least_fp32

NEW = 0


class TrackingHead(nn.Module):
    """Two fully connected layers from an object's features, of any shape, to its embedding.

    Args:
        features: how many values an object's features have; a 7x7 region of 256 channels has 12,544.
        width: D, of both layers; 1024 in the paper.
        rectified: a ReLU follows the second layer too, as in mmtracking, and not the first alone, as in the authors' code.
    """

    def __init__(self, features: int, width: int = 1024, rectified: bool = False):
        super().__init__()
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)
        self.rectified = rectified
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features_N: Tensor) -> Tensor:
        """From features (N, ...) to embeddings (N, D)."""
        embedding_ND = self.second(F.relu(self.first(features_N.flatten(1))))
        return F.relu(embedding_ND) if self.rectified else embedding_ND


def identity_logits(candidate_ND: Tensor, known_MD: Tensor) -> Tensor:
    """Logits (N, M + 1) whose softmax is the paper's probability p_i(n): inner products, and 0 for a new object."""
    product_NM = at_least_fp32(candidate_ND @ known_MD.T)
    return F.pad(product_NM, (1, 0))


def identity_targets(candidate_ids_N: Tensor, known_ids_M: Tensor) -> Tensor:
    """The true entry (N,) of each candidate among the known objects; ``NEW`` for those that are not known."""
    same_NM = candidate_ids_N[:, None] == known_ids_M
    return torch.cat((~same_NM.any(dim=1, keepdim=True), same_NM), dim=1).to(torch.uint8).argmax(dim=1)


def tracking_loss(logits_NL: Tensor, targets_N: Tensor) -> Tensor:
    """The cross-entropy of the paper's tracking loss, as a mean over the candidates as in the authors' code; 0 without one."""
    return F.cross_entropy(logits_NL, targets_N, reduction="sum") / max(len(targets_N), 1)
