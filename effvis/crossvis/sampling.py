"""Bilinear resampling with the samples where AdelaiDet has them, as one small matrix for each axis."""

from __future__ import annotations

import torch
from torch import Tensor


def aligned_weights(length: int, factor: int, like: Tensor) -> Tensor:
    """Weights (factor * length, length) that make an axis ``factor`` times as long.

    A location of stride s lies at s/2, rounded down, in the pixels of its cell. So input i is output
    ``i * factor + factor // 2``; outputs before the first and after the last input are copies of it.
    """
    places = (torch.arange(factor * length, device=like.device, dtype=torch.float64) - factor // 2) / factor
    return _two_taps(places, length, like)


def stretching_weights(length: int, wanted: int, like: Tensor) -> Tensor:
    """Weights (wanted, length) that stretch an axis, both of whose ends keep their places (``align_corners=False``)."""
    places = (torch.arange(wanted, device=like.device, dtype=torch.float64) + 0.5) * (length / wanted) - 0.5
    return _two_taps(places, length, like)


def resampled(maps_RHW: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps (R, H, W) resampled to (R, len(rows), len(columns))."""
    return rows @ maps_RHW @ columns.transpose(0, 1)


def _two_taps(places_O: Tensor, length: int, like: Tensor) -> Tensor:
    """Weights (O, length) of the two inputs beside each place; places outside are moved to the nearest end."""
    places_O = places_O.clamp(0, length - 1)
    before_O = places_O.floor().long()
    share_O = (places_O - before_O).to(like.dtype)
    weights = like.new_zeros(len(places_O), length)
    outputs = torch.arange(len(places_O), device=like.device)
    weights[outputs, before_O] = 1 - share_O
    weights[outputs, (before_O + 1).clamp(max=length - 1)] += share_O
    return weights
