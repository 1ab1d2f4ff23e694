"""Masks from their boxes into frames, as QueryInst pastes them."""

from __future__ import annotations

import torch
from torch import Tensor


def paste_masks(masks_XSS: Tensor, boxes_X4: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of masks from their boxes into frames: (X, H, W).

    As in QueryInst, everything around the box's cells counts as zero, so that a mask fades to half its value at the box's edge
    and to nothing half a cell beyond it.
    """
    side = masks_XSS.shape[-1]
    rows = _paste_weights(boxes_X4[:, 1], boxes_X4[:, 3], size[0], side)
    columns = _paste_weights(boxes_X4[:, 0], boxes_X4[:, 2], size[1], side)
    return rows @ masks_XSS @ columns.transpose(-2, -1)


def _paste_weights(low_X: Tensor, high_X: Tensor, length: int, side: int) -> Tensor:
    """Weights (X, length, side) that give each pixel of an axis its value from the mask's side."""
    pixel = torch.arange(length, device=low_X.device, dtype=low_X.dtype) + 0.5
    share = (pixel - low_X[:, None]) / (high_X - low_X).clamp(min=1e-3)[:, None]
    position = share * side - 0.5
    return (1 - (position[..., None] - torch.arange(side, device=low_X.device, dtype=low_X.dtype)).abs()).clamp(min=0)
