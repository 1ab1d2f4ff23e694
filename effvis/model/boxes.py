"""Boxes as (x0, y0, x1, y1) in input pixels, and the arithmetic that the paper's losses and heads need."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Sparse R-CNN's weights of the four deltas, and the largest log-scale step in both directions, as in mmdetection, whose weights
# the COCO starts are. (detectron2 clamps at log(1e5 / 16), from above alone.)
DELTA_WEIGHTS = (2.0, 2.0, 1.0, 1.0)
LARGEST_LOG_SCALE = math.log(1000 / 16)


def at_least_fp32(values: Tensor) -> Tensor:
    """Values that autocast left in half precision as fp32: boxes would be off by pixels, and losses by percents."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) from centre and size to corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def apply_deltas(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Moves and scales boxes (..., 4) by predicted deltas (..., 4), as in the R-CNN family."""
    weights = deltas.new_tensor(DELTA_WEIGHTS)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2
    shift = deltas / weights
    centre = centre + shift[..., :2] * size
    size = size * shift[..., 2:].clamp(-LARGEST_LOG_SCALE, LARGEST_LOG_SCALE).exp()
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


def area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the union, of broadcastable boxes (..., 4)."""
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - overlap
    return overlap / union.clamp(min=1e-6), union


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (Rezatofighi et al., CVPR 2019) of broadcastable boxes (..., 4), in [-1, 1]."""
    ratio, union = iou(a, b)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(dim=-1)
    return ratio - (hull - union) / hull.clamp(min=1e-6)
