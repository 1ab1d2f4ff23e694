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
        first_XCD, second_XDC = self._filters(query_BNTC)
        x = torch.bmm(regions_BNTPC.flatten(0, 2), first_XCD)
        return self._second(F.relu_(self.norm1(x)), second_XDC).view(regions_BNTPC.shape)

    def _filters(self, query_BNTC: Tensor) -> tuple[Tensor, Tensor]:
        """Both convolutions' weights for each embedding, (X, C, D) and (X, D, C)."""
        first, second = self.filters(query_BNTC.flatten(0, 2)).split(self.hidden_dim * self.dynamic_dim, dim=-1)
        return first.view(-1, self.hidden_dim, self.dynamic_dim), second.view(-1, self.dynamic_dim, self.hidden_dim)

    def _second(self, x_XPD: Tensor, second_XDC: Tensor) -> Tensor:
        return F.relu_(self.norm2(torch.bmm(x_XPD, second_XDC)))


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
        if regions_BNTPC.dim() == 6:
            outputs = super().forward(query_BNTC, regions_BNTPC.flatten(3, 4)).view(regions_BNTPC.shape)
            return _SummedBySimilarity.apply(outputs, False, self.temperature)
        if query_BNTC.shape[2] == 1:
            return super().forward(query_BNTC, regions_BNTPC)
        return _SummedBySimilarity.apply(self._filtered_by_three(query_BNTC, regions_BNTPC), True, self.temperature)

    def _filtered_by_three(self, query_BNTC: Tensor, regions_BNTPC: Tensor) -> Tensor:
        """Each region u under the filters of the frames u+1, u and u-1, which look at it: (B, N, T, 3, P, C).

        Beyond the clip a filter is repeated; the output goes unused. Filters are smaller than regions to put side by side.
        """
        clips, tracklets, frames, locations, width = regions_BNTPC.shape
        first_X3CD, second_X3DC = (
            _of_neighbours(filters.unflatten(0, (clips, tracklets, frames))).flatten(0, 2)
            for filters in self._filters(query_BNTC))
        first_XCE = first_X3CD.transpose(1, 2).flatten(2)
        x = torch.bmm(regions_BNTPC.flatten(0, 2), first_XCE).view(-1, locations, 3, self.dynamic_dim)
        x = F.relu_(self.norm1(x)).transpose(1, 2).reshape(-1, locations, self.dynamic_dim)
        return self._second(x, second_X3DC.flatten(0, 1)).view(clips, tracklets, frames, 3, locations, width)


def _of_neighbours(x_BNT: Tensor) -> Tensor:
    """What belongs to the frames u+1, u and u-1, beside each other: (B, N, T, 3, ...)."""
    frame = torch.arange(x_BNT.shape[2], device=x_BNT.device)
    neighbours = torch.stack((frame + 1, frame, frame - 1), dim=1).clamp(0, len(frame) - 1)
    return x_BNT.index_select(2, neighbours.flatten()).unflatten(2, neighbours.shape)


class _SummedBySimilarity(torch.autograd.Function):
    """The sum of Eq. 3, with its gradient written out: autograd would keep and pass through many maps of this size.

    With outputs x_k of lengths n_k, cosines s_k = <x_own, x_k> / (n_own n_k) and weights w = softmax(s / temperature), the sum
    is y = sum of w_k x_k. An output of length 0 has the cosine 0, whatever is near it.
    """

    @staticmethod
    def forward(ctx: Any, x_BNT3PC: Tensor, by_region: bool, temperature: float) -> Tensor:
        """The sums (B, N, T, P, C).

        Args:
            x_BNT3PC: outputs of frame t for the regions of frames t-1, t and t+1; or, ``by_region``, outputs of region u for
                the frames u+1, u and u-1.
        """
        before, here, after = _views(x_BNT3PC, by_region)
        sums = torch.promote_types(x_BNT3PC.dtype, torch.float32)
        length = torch.linalg.vector_norm(x_BNT3PC, dim=-1, dtype=sums)
        inverse = torch.where(length > 0, 1 / length, 0)
        by_before, by_own, by_after = _views(inverse, by_region)
        cosine = torch.full_like(inverse, float("-inf"))
        cosine[:, :, 1:, 0] = (here[:, :, 1:] * before).sum(dim=-1, dtype=sums) * by_before * by_own[:, :, 1:]
        cosine[:, :, :, 1] = (by_own > 0).to(sums)
        cosine[:, :, :-1, 2] = (here[:, :, :-1] * after).sum(dim=-1, dtype=sums) * by_after * by_own[:, :, :-1]
        weight = (cosine / temperature).softmax(dim=3)
        ctx.save_for_backward(x_BNT3PC, inverse, cosine, weight)
        ctx.by_region, ctx.temperature = by_region, temperature
        of_before, of_own, of_after = _views(weight.to(x_BNT3PC.dtype).unsqueeze(-1), False)
        found = here * of_own
        found[:, :, 1:].addcmul_(of_before, before)
        found[:, :, :-1].addcmul_(of_after, after)
        return found

    @staticmethod
    def backward(ctx: Any, grad_BNTPC: Tensor) -> tuple[Tensor, None, None]:
        x, inverse, cosine, weight = ctx.saved_tensors
        before, here, after = _views(x, ctx.by_region)
        by_before, by_own, by_after = _views(inverse, ctx.by_region)
        later, earlier = grad_BNTPC[:, :, 1:], grad_BNTPC[:, :, :-1]

        of_weight = torch.zeros_like(weight)
        products = torch.empty_like(grad_BNTPC)
        of_weight[:, :, 1:, 0] = _dot(later, before, products, weight.dtype)
        of_weight[:, :, :, 1] = _dot(grad_BNTPC, here, products, weight.dtype)
        of_weight[:, :, :-1, 2] = _dot(earlier, after, products, weight.dtype)
        of_cosine = weight * (of_weight - (weight * of_weight).sum(dim=3, keepdim=True)) / ctx.temperature
        # The cosine of an output with itself is 1, whatever it is.
        of_s_before, _, of_s_after = _views(of_cosine, False)
        s_before, _, s_after = _views(cosine, False)
        turn = torch.zeros_like(by_own)
        turn[:, :, 1:] += of_s_before * s_before
        turn[:, :, :-1] += of_s_after * s_after

        def factor(values: Tensor) -> Tensor:
            return values.to(x.dtype).unsqueeze(-1)

        of_before, of_own, of_after = _views(factor(weight), False)
        to_before = factor(of_s_before * by_before * by_own[:, :, 1:])
        to_after = factor(of_s_after * by_after * by_own[:, :, :-1])
        found = torch.empty_like(x)
        unused = ((-1, 0), (0, 2)) if ctx.by_region else ((0, 0), (-1, 2))
        for frame, place in unused:
            found[:, :, frame, place] = 0
        for_before, for_here, for_after = _views(found, ctx.by_region)
        torch.mul(before, factor(-of_s_before * s_before * by_before.square()), out=for_before)
        for_before.addcmul_(of_before, later).addcmul_(to_before, here[:, :, 1:])
        torch.mul(after, factor(-of_s_after * s_after * by_after.square()), out=for_after)
        for_after.addcmul_(of_after, earlier).addcmul_(to_after, here[:, :, :-1])
        torch.mul(here, factor(-turn * by_own.square()), out=for_here)
        for_here.addcmul_(of_own, grad_BNTPC)
        for_here[:, :, 1:].addcmul_(to_before, before)
        for_here[:, :, :-1].addcmul_(to_after, after)
        return found, None, None


def _dot(x: Tensor, y: Tensor, products: Tensor, dtype: torch.dtype) -> Tensor:
    """Scalar products over the last dimension. ``products`` is overwritten: fresh memory for each takes longer than they do."""
    return torch.mul(x, y, out=products[:, :, : x.shape[2]]).sum(dim=-1, dtype=dtype)


def _views(x_BNT3: Tensor, by_region: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What belongs to the frames before frames 1 to T-1, to all frames, and to those after frames 0 to T-2."""
    if by_region:
        return x_BNT3[:, :, :-1, 0], x_BNT3[:, :, :, 1], x_BNT3[:, :, 1:, 2]
    return x_BNT3[:, :, 1:, 0], x_BNT3[:, :, :, 1], x_BNT3[:, :, :-1, 2]


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
    return _of_neighbours(boxes_BNT4).permute(3, 0, 1, 2, 4)


def looked_at(regions_3BNTPC: Tensor) -> Tensor:
    """From the regions that ``boxes_of_neighbours`` crops in each frame u, those that each frame t looks at.

    Returns:
        (B, N, T, 3, P, C): frames t-1, t and t+1 under b^t. Beyond the clip they mean nothing.
    """
    as_before, here, as_after = regions_3BNTPC
    return torch.stack((as_before.roll(1, dims=2), here, as_after.roll(-1, dims=2)), dim=3)
