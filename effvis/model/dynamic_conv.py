"""Temporal dynamic convolution (Sec. 3.2, Eq. 3): a tracklet's own filters, applied to its aligned neighbours in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def aggregate_neighbours(regions_BNTPC: Tensor, temperature: float) -> Tensor:
    """Eq. 3's weighted sum over t' in {t-1, t, t+1} of a tracklet's regions of interest.

    Each location of frame t takes from the same location of the regions of its neighbours, with a softmax over t' of the
    cosine similarity between the two features. Beyond the clip there is no neighbour.

    Args:
        regions_BNTPC: P locations of the regions cropped by the proposals, C channels.
        temperature: of the softmax.

    Returns:
        (B, N, T, P, C).
    """
    if regions_BNTPC.shape[2] == 1:
        return regions_BNTPC
    unit = F.normalize(regions_BNTPC, dim=-1)
    next_similarity = (unit[:, :, :-1] * unit[:, :, 1:]).sum(dim=-1) / temperature
    # Similarity is symmetric: frame t's to t+1 is frame t+1's to t.
    none = next_similarity.new_full((*next_similarity.shape[:2], 1, next_similarity.shape[-1]), float("-inf"))
    own = torch.full_like(unit[..., 0], 1.0 / temperature)
    similarity = torch.stack(
        (torch.cat((none, next_similarity), dim=2), own, torch.cat((next_similarity, none), dim=2)))
    before, here, after = similarity.softmax(dim=0).unsqueeze(-1)
    previous = torch.cat((regions_BNTPC[:, :, :1], regions_BNTPC[:, :, :-1]), dim=2)
    following = torch.cat((regions_BNTPC[:, :, 1:], regions_BNTPC[:, :, -1:]), dim=2)
    return before * previous + here * regions_BNTPC + after * following


def boxes_of_neighbours(boxes_BNT4: Tensor) -> Tensor:
    """Boxes by which each frame is cropped for itself and as a neighbour, where b^t crops the neighbours of frame t too.

    Frame u is t-1 for frame u+1, and t+1 for frame u-1. Beyond the clip a box is repeated; its region goes unused.

    Returns:
        (3, B, N, T, 4): at frame u the boxes b^{u+1}, b^u and b^{u-1}.
    """
    later = torch.cat((boxes_BNT4[:, :, 1:], boxes_BNT4[:, :, -1:]), dim=2)
    earlier = torch.cat((boxes_BNT4[:, :, :1], boxes_BNT4[:, :, :-1]), dim=2)
    return torch.stack((later, boxes_BNT4, earlier))


def aggregate_cropped_here(regions_3BNTPC: Tensor, temperature: float) -> Tensor:
    """Eq. 3's weighted sum over t' in {t-1, t, t+1}, all three cropped by the proposal of frame t.

    Args:
        regions_3BNTPC: the regions that ``boxes_of_neighbours`` crop.
        temperature: of the softmax.

    Returns:
        (B, N, T, P, C).
    """
    as_before, here, as_after = regions_3BNTPC
    frames = here.shape[2]
    neighbours = torch.stack((as_before.roll(1, dims=2), here, as_after.roll(-1, dims=2)))
    unit = F.normalize(neighbours, dim=-1)
    similarity = (unit[1] * unit).sum(dim=-1) / temperature  # (3, B, N, T, P)
    t = torch.arange(frames, device=here.device)
    outside_3T = torch.stack((t == 0, torch.zeros_like(t, dtype=torch.bool), t == frames - 1))
    similarity = similarity.masked_fill(outside_3T[:, None, None, :, None], float("-inf"))
    return (similarity.softmax(dim=0).unsqueeze(-1) * neighbours).sum(dim=0)


class DynamicConv(nn.Module):
    """Two 1x1 convolutions C -> D -> C whose weights are one linear layer of the query (Sparse R-CNN's dynamic head)."""

    def __init__(self, hidden_dim: int, dynamic_dim: int):
        super().__init__()
        self.hidden_dim, self.dynamic_dim = hidden_dim, dynamic_dim
        self.filters = nn.Linear(hidden_dim, 2 * hidden_dim * dynamic_dim)
        self.norm1 = nn.LayerNorm(dynamic_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def forward(self, query_XC: Tensor, regions_XPC: Tensor) -> Tensor:
        """Filters the P locations of X regions by their X queries: (X, P, C)."""
        first, second = self.filters(query_XC).split(self.hidden_dim * self.dynamic_dim, dim=-1)
        x = torch.bmm(regions_XPC, first.view(-1, self.hidden_dim, self.dynamic_dim))
        x = F.relu(self.norm1(x))
        x = torch.bmm(x, second.view(-1, self.dynamic_dim, self.hidden_dim))
        return F.relu(self.norm2(x))
