"""Boxes of the R-CNN family: deltas between boxes, and the suppression of doubles.

Boxes (..., 4) are xyxy in input pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effvis.model.boxes import LARGEST_LOG_SCALE, iou

Weights = tuple[float, float, float, float]
# Of the deltas of proposals and of detections: the inverse of the standard deviations by which R-CNN divides them.
PROPOSAL_WEIGHTS: Weights = (1.0, 1.0, 1.0, 1.0)
BOX_WEIGHTS: Weights = (10.0, 10.0, 5.0, 5.0)


def encode(boxes: Tensor, wanted: Tensor, weights: Weights) -> Tensor:
    """The deltas (..., 4) that ``decode`` turns ``boxes`` into ``wanted`` with; both have an area."""
    size, wanted_size = boxes[..., 2:] - boxes[..., :2], wanted[..., 2:] - wanted[..., :2]
    shift = (wanted[..., :2] + wanted_size / 2 - boxes[..., :2] - size / 2) / size
    return torch.cat((shift, (wanted_size / size).log()), dim=-1) * boxes.new_tensor(weights)


def decode(boxes: Tensor, deltas: Tensor, weights: Weights, size: tuple[int, int]) -> Tensor:
    """Boxes moved and scaled by deltas (..., 4), within a frame of this (height, width)."""
    shift = deltas / deltas.new_tensor(weights)
    own = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + own / 2 + shift[..., :2] * own
    half = own * shift[..., 2:].clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).exp() / 2
    corners = torch.cat((centre - half, centre + half), dim=-1)
    return torch.minimum(corners.clamp(min=0), corners.new_tensor([size[1], size[0]] * 2))


def suppress(boxes_X4: Tensor, scores_X: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression in each of some groups of X boxes: which boxes (..., X) stay.

    A box is dropped if its IoU with a better box of its group that stays is above the threshold; of equal scores the earlier
    box is better.

    Args:
        boxes_X4, scores_X: (..., X, 4) and (..., X).
    """
    order_X = scores_X.argsort(dim=-1, descending=True, stable=True)
    sorted_X4 = boxes_X4.gather(-2, order_X[..., None].expand_as(boxes_X4))
    doubles_XX = (iou(sorted_X4[..., :, None, :], sorted_X4[..., None, :, :])[0] > threshold).triu(diagonal=1)
    stays_X = torch.ones_like(order_X, dtype=torch.bool)
    # The best box is settled at once, the second after one step, and so on; a few steps settle all unless doubles form chains.
    while True:
        now_X = ~(doubles_XX & stays_X[..., None]).any(dim=-2)
        if torch.equal(now_X, stays_X):
            return stays_X.gather(-1, order_X.argsort(dim=-1))
        stays_X = now_X
