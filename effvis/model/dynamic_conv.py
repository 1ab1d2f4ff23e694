"""Dynamic convolution, and the temporal one (Sec. 3.1, Eq. 3): frame t's filter, applied to frames t-1, t and t+1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DynamicConv(nn.Module):
    """Two 1x1 convolutions C -> D -> C whose weights one linear layer makes from the query (Sparse R-CNN's dynamic head)."""

    def __init__(self, hidden_dim: int, dynamic_dim: int):
        super().__init__()
        self.hidden_dim, self.dynamic_dim = hidden_dim, dynamic_dim
        self.filters = nn.Linear(hidden_dim, 2 * hidden_dim * dynamic_dim)
        self.norm1 = nn.LayerNorm(dynamic_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)

    def forward(self, query_BNTC: Tensor, regions_BNTPC: Tensor) -> Tensor:
        """Filters the P locations of each tracklet's region in each frame by the query of that frame: (B, N, T, P, C)."""
        filters_X = self.filters(query_BNTC.flatten(0, 2))
        first, second = filters_X.split(self.hidden_dim * self.dynamic_dim, dim=-1)
        x = torch.bmm(regions_BNTPC.flatten(0, 2), first.view(-1, self.hidden_dim, self.dynamic_dim))
        x = F.relu_(self.norm1(x))
        x = torch.bmm(x, second.view(-1, self.dynamic_dim, self.hidden_dim))
        return F.relu_(self.norm2(x)).view(regions_BNTPC.shape)


class TemporalDynamicConv(DynamicConv):
    """Eq. 3: the filter of frame t is applied to the regions of frames t-1, t and t+1, and what comes out is summed.

    At each location the weights of the three outputs are the softmax of their cosine similarities to frame t's own output.
    Beyond the clip there is no frame. At T=1 this is the plain dynamic convolution; its parameters are the same.

    Args:
        hidden_dim: C.
        dynamic_dim: inner width of the dynamic convolution.
        temperature: the softmax's; the paper names none, which is 1.
    """

    def __init__(self, hidden_dim: int, dynamic_dim: int, temperature: float = 1.0):
        super().__init__(hidden_dim, dynamic_dim)
        self.temperature = temperature

    def forward(self, query_BNTC: Tensor, regions_BNTPC: Tensor) -> Tensor:
        """The tracklet features o (B, N, T, P, C).

        Args:
            query_BNTC: tracklet queries.
            regions_BNTPC: the region of each frame, cropped by the frame's own proposal; or (B, N, T, 3, P, C), the regions of
                frames t-1, t and t+1 that frame t looks at, where its own proposal crops all three.
        """
        frames, locations = query_BNTC.shape[2], regions_BNTPC.shape[-2]
        if regions_BNTPC.dim() == 5:
            if frames == 1:
                return super().forward(query_BNTC, regions_BNTPC)
            regions_BNTPC = _with_neighbours(regions_BNTPC)
        outputs = super().forward(query_BNTC, regions_BNTPC.flatten(3, 4)).unflatten(3, (3, locations))
        return _SummedBySimilarity.apply(outputs, _beyond_the_clip(frames, outputs.device), self.temperature)


class _SummedBySimilarity(torch.autograd.Function):
    """The sum of Eq. 3, with its gradient written out: autograd would keep and pass through many maps of this size.

    With outputs x_k of lengths n_k, cosines s_k = <x_own, x_k> / (n_own n_k) and weights w = softmax(s / temperature), the sum
    is y = sum of w_k x_k. An output of length 0 has the cosine 0, whatever is near it.
    """

    @staticmethod
    def forward(ctx: Any, x_BNT3PC: Tensor, beyond_T3: Tensor, temperature: float) -> Tensor:
        own = x_BNT3PC[:, :, :, 1:2]
        dot = (x_BNT3PC * own).sum(dim=-1, dtype=_sums(x_BNT3PC))
        length = torch.linalg.vector_norm(x_BNT3PC, dim=-1, dtype=dot.dtype)
        inverse = torch.where(length > 0, 1 / length, 0)
        cosine = dot * inverse * inverse[:, :, :, 1:2]
        weight = (cosine / temperature).masked_fill(beyond_T3[..., None], float("-inf")).softmax(dim=3)
        ctx.save_for_backward(x_BNT3PC, inverse, cosine, weight)
        ctx.temperature = temperature
        before, here, after = x_BNT3PC.unbind(dim=3)
        of_before, of_here, of_after = weight.to(x_BNT3PC.dtype).unsqueeze(-1).unbind(dim=3)
        return (of_here * here).addcmul_(of_before, before).addcmul_(of_after, after)

    @staticmethod
    def backward(ctx: Any, grad_BNTPC: Tensor) -> tuple[Tensor, None, None]:
        x, inverse, cosine, weight = ctx.saved_tensors
        own, grad = x[:, :, :, 1:2], grad_BNTPC.unsqueeze(3)
        of_weight = (x * grad).sum(dim=-1, dtype=weight.dtype)
        of_cosine = weight * (of_weight - (weight * of_weight).sum(dim=3, keepdim=True)) / ctx.temperature
        of_cosine[:, :, :, 1] = 0  # the cosine of an output with itself is 1, whatever it is
        along_own = of_cosine * inverse * inverse[:, :, :, 1:2]
        along_itself = -of_cosine * cosine * inverse.square()
        along_itself[:, :, :, 1] = -(of_cosine * cosine).sum(dim=3) * inverse[:, :, :, 1].square()
        weight, along_own, along_itself = (factor.to(x.dtype).unsqueeze(-1) for factor in (weight, along_own, along_itself))
        found = (along_itself * x).addcmul_(weight, grad).addcmul_(along_own, own)
        for_own = found[:, :, :, 1]
        for_own.addcmul_(along_own[:, :, :, 0], x[:, :, :, 0]).addcmul_(along_own[:, :, :, 2], x[:, :, :, 2])
        return found, None, None


def _sums(x: Tensor) -> torch.dtype:
    """The precision of sums over channels: single at least."""
    return torch.promote_types(x.dtype, torch.float32)


def _with_neighbours(regions_BNTPC: Tensor) -> Tensor:
    """The regions of frames t-1, t and t+1 beside each other: (B, N, T, 3, P, C), zeros beyond the clip."""
    padded = F.pad(regions_BNTPC, (0, 0, 0, 0, 1, 1))
    return torch.stack((padded[:, :, :-2], regions_BNTPC, padded[:, :, 2:]), dim=3)


def _beyond_the_clip(frames: int, device: torch.device) -> Tensor:
    """Which of the frames t-1, t and t+1 do not exist: (T, 3)."""
    t = torch.arange(frames, device=device)
    return torch.stack((t == 0, torch.zeros_like(t, dtype=torch.bool), t == frames - 1), dim=1)


def build_dynamic_conv(kind: str, hidden_dim: int, dynamic_dim: int, temperature: float) -> DynamicConv:
    """The dynamic convolution of ``ModelConfig.dynamic_conv``."""
    if kind == "still":
        return DynamicConv(hidden_dim, dynamic_dim)
    return TemporalDynamicConv(hidden_dim, dynamic_dim, temperature)


def boxes_of_neighbours(boxes_BNT4: Tensor) -> Tensor:
    """Boxes that crop each frame for itself and as a neighbour, where b^t crops the neighbours of frame t too.

    Frame u is t-1 for frame u+1, and t+1 for frame u-1. Beyond the clip a box is repeated; its region goes unused.

    Returns:
        (3, B, N, T, 4): at frame u the boxes b^{u+1}, b^u and b^{u-1}.
    """
    later = torch.cat((boxes_BNT4[:, :, 1:], boxes_BNT4[:, :, -1:]), dim=2)
    earlier = torch.cat((boxes_BNT4[:, :, :1], boxes_BNT4[:, :, :-1]), dim=2)
    return torch.stack((later, boxes_BNT4, earlier))


def looked_at(regions_3BNTPC: Tensor) -> Tensor:
    """From the regions that ``boxes_of_neighbours`` crops in each frame u, those that each frame t looks at.

    Returns:
        (B, N, T, 3, P, C): frames t-1, t and t+1 under b^t. Beyond the clip they mean nothing.
    """
    as_before, here, as_after = regions_3BNTPC
    return torch.stack((as_before.roll(1, dims=2), here, as_after.roll(-1, dims=2)), dim=3)
