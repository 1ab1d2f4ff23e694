"""Anchors of a pyramid, and which boxes learn which objects.

Dimensions in names: A anchors of all levels, X boxes, K true objects.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from effvis.model.boxes import iou

BACKGROUND, IGNORED = -1, -2


def anchors_of_level(
    size: Sequence[int], stride: int, scales: Sequence[float], ratios: Sequence[float], like: Tensor
) -> Tensor:
    """The anchors of a level, row by row, pixel by pixel, ratio by ratio and scale by scale: (H * W * ratios * scales, 4) xyxy.

    Those of a pixel are centred at its number times the stride, as in mmdetection.

    Args:
        size: (H, W) of the level.
        ratios: height to width; anchors of a scale have one area.
        like: gives type and device.
    """
    root_R = like.new_tensor(ratios).sqrt()
    side_S = like.new_tensor(scales) * stride
    width_RS, height_RS = side_S / root_R[:, None], side_S * root_R[:, None]
    corner_RS2 = torch.stack((width_RS, height_RS), dim=-1) / 2
    around_N4 = torch.cat((-corner_RS2, corner_RS2), dim=-1).flatten(0, 1)
    y_H, x_W = (torch.arange(length, device=like.device, dtype=like.dtype) * stride for length in size)
    centre_HW2 = torch.stack(torch.meshgrid(y_H, x_W, indexing="ij")[::-1], dim=-1)
    return (centre_HW2.repeat(1, 1, 2)[:, :, None] + around_N4).flatten(0, 2)


def assign(boxes_X4: Tensor, true_K4: Tensor, *, positive: float, negative: float, least: float) -> Tensor:
    """The object (X,) that each box learns, ``BACKGROUND`` or ``IGNORED``.

    A box learns the object that it overlaps most, if the IoU is at least ``positive``; below ``negative`` it is background.
    Beside, each object has the boxes that overlap it most, all that are equal, if their IoU is at least ``least``; of several
    objects the last one has the box.
    """
    assigned_X = torch.full((len(boxes_X4),), BACKGROUND, device=boxes_X4.device)
    if not len(true_K4) or not len(boxes_X4):
        return assigned_X
    iou_KX, _ = iou(true_K4[:, None], boxes_X4[None])
    best_X, object_X = iou_KX.max(dim=0)
    assigned_X[best_X >= negative] = IGNORED
    assigned_X = torch.where(best_X >= positive, object_X, assigned_X)
    for k, iou_X in enumerate(iou_KX):
        best = iou_X.max()
        assigned_X[(iou_X == best) & (best >= least)] = k
    return assigned_X


def sample(assigned_X: Tensor, count: int, positive_share: float) -> Tensor:
    """The places of ``count`` random boxes, positive ones first: at most this share of them, the others background.

    There are fewer where there is not enough background.
    """
    positive, background = (assigned_X >= 0).nonzero()[:, 0], (assigned_X == BACKGROUND).nonzero()[:, 0]
    positive = _some(positive, int(count * positive_share))
    return torch.cat((positive, _some(background, count - len(positive))))


def _some(places: Tensor, most: int) -> Tensor:
    # The processor's generator, whatever the device: which are drawn follows from the seed alone.
    return places if len(places) <= most else places[torch.randperm(len(places))[:most].to(places.device)]
