"""Temporal dynamic convolution (Sec. 3.2, Eq. 3): a tracklet's own filters, applied to its aligned neighbours in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# The norm of a region without any feature, whose cosine is then 0, as in F.normalize.
SMALLEST_NORM = 1e-12


def aggregate_neighbours(regions_BNTPC: Tensor, temperature: float) -> Tensor:
    """Eq. 3's weighted sum over t' in {t-1, t, t+1} of a tracklet's regions of interest.

    Each location of frame t takes from the same location of its neighbours' regions, weighted by a softmax over t' of the
    cosine similarity between the two features. Beyond the clip there is no neighbour.

    Args:
        regions_BNTPC: P locations of the regions cropped by the proposals, C channels.
        temperature: the softmax's temperature.

    Returns:
        The sums (B, N, T, P, C).
    """
    return regions_BNTPC if regions_BNTPC.shape[2] == 1 else _Aggregation.apply(regions_BNTPC, temperature)


class _Aggregation(torch.autograd.Function):
    """Eq. 3 with its gradient written out.

    The regions are the largest tensors of a step, and its time depends on how often they are traversed. Here no copy of them
    is made or kept, neither normalised nor shifted in time.
    """

    @staticmethod
    def forward(ctx, x_BNTPC: Tensor, temperature: float) -> Tensor:
        now, later = slice(None, -1), slice(1, None)
        norm = torch.linalg.vector_norm(x_BNTPC, dim=-1).clamp(min=SMALLEST_NORM)  # (B, N, T, P)
        # Similarity is symmetric: frame t's to t+1 is frame t+1's to t.
        cosine = (x_BNTPC[:, :, now] * x_BNTPC[:, :, later]).sum(dim=-1) / (norm[:, :, now] * norm[:, :, later])
        similarity = norm.new_full((3, *norm.shape), float("-inf"))
        similarity[0, :, :, later] = similarity[2, :, :, now] = cosine / temperature
        similarity[1] = 1.0 / temperature
        weight = similarity.softmax(dim=0).to(x_BNTPC.dtype)  # autocast would leave it in fp32
        before, here, after = weight.unsqueeze(-1)

        mixed = torch.mul(here, x_BNTPC, out=x_BNTPC.new_empty(x_BNTPC.shape))
        mixed[:, :, later].addcmul_(before[:, :, later], x_BNTPC[:, :, now])
        mixed[:, :, now].addcmul_(after[:, :, now], x_BNTPC[:, :, later])
        ctx.save_for_backward(x_BNTPC, weight, norm, cosine)
        ctx.temperature = temperature
        return mixed

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BNTPC: Tensor) -> tuple[Tensor, None]:
        x, weight, norm, cosine = ctx.saved_tensors
        now, later = slice(None, -1), slice(1, None)
        before, here, after = weight.unsqueeze(-1)
        # Through the sum to what was summed, and to the weights.
        grad_x = torch.mul(here, grad_BNTPC, out=torch.empty_like(x))
        grad_x[:, :, now].addcmul_(before[:, :, later], grad_BNTPC[:, :, later])
        grad_x[:, :, later].addcmul_(after[:, :, now], grad_BNTPC[:, :, now])
        grad_weight = torch.zeros_like(weight)
        grad_weight[0, :, :, later] = (grad_BNTPC[:, :, later] * x[:, :, now]).sum(dim=-1)
        grad_weight[1] = (grad_BNTPC * x).sum(dim=-1)
        grad_weight[2, :, :, now] = (grad_BNTPC[:, :, now] * x[:, :, later]).sum(dim=-1)
        # Through the softmax to the cosines, and through each cosine to its two regions.
        grad_similarity = weight * (grad_weight - (weight * grad_weight).sum(dim=0))
        grad_cosine = (grad_similarity[0, :, :, later] + grad_similarity[2, :, :, now]) / ctx.temperature
        along = torch.zeros_like(norm)
        along[:, :, now] += grad_cosine * cosine
        along[:, :, later] += grad_cosine * cosine
        across = (grad_cosine / (norm[:, :, now] * norm[:, :, later])).unsqueeze(-1)
        grad_x.addcmul_((along / norm.square()).unsqueeze(-1), x, value=-1)
        grad_x[:, :, now].addcmul_(across, x[:, :, later])
        grad_x[:, :, later].addcmul_(across, x[:, :, now])
        return grad_x, None


def boxes_of_neighbours(boxes_BNT4: Tensor) -> Tensor:
    """Boxes that crop each frame for itself and as a neighbour, where b^t crops the neighbours of frame t too.

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
        regions_3BNTPC: the regions that the boxes of ``boxes_of_neighbours`` crop.
        temperature: the softmax's temperature.

    Returns:
        The sums (B, N, T, P, C).
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
    """Two 1x1 convolutions C -> D -> C whose weights one linear layer makes from the query (Sparse R-CNN's dynamic head)."""

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
        x = F.relu_(self.norm1(x))
        x = torch.bmm(x, second.view(-1, self.dynamic_dim, self.hidden_dim))
        return F.relu_(self.norm2(x))
