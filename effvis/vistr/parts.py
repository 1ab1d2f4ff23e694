"""The parts of VisTR: 3-D sine positions, encoder and decoder layers, box attention and the two mask heads.

Dimensions in names: F frames (of all clips), K tracklets per clip, L tokens, Q queries, A attention heads, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effvis.model.boxes import at_least_fp32

# Keeps the authors' division of a coordinate by its extent from dividing by zero.
POSITION_EPSILON = 1e-6


def deformable_conv3x3(x_XCHW: Tensor, offsets_XOHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution whose nine taps read the map bilinearly beside their places: (X, D, H, W).

    Tap k = 3i + j of the output at row y and column x reads at row y + i - 1 + offsets[2k] and column
    x + j - 1 + offsets[2k + 1]; each of the four corners outside of the map counts as zero. Filtering comes before reading,
    which is the same and reads fewer channels.

    Args:
        offsets_XOHW: 18 channels, in cells.
        conv: gives the filter (D, C, 3, 3) and the bias.
    """
    height, width = x_XCHW.shape[-2:]
    offsets = at_least_fp32(offsets_XOHW)
    rows = torch.arange(height, device=x_XCHW.device, dtype=offsets.dtype)[:, None]
    columns = torch.arange(width, device=x_XCHW.device, dtype=offsets.dtype)
    taps = conv.weight.flatten(2).permute(2, 0, 1).flatten(0, 1)[..., None, None]  # (9D, C, 1, 1)
    total = torch.zeros(())
    for k, filtered in enumerate(at_least_fp32(F.conv2d(x_XCHW, taps)).chunk(9, dim=1)):
        row = rows + (k // 3 - 1) + offsets[:, 2 * k]
        column = columns + (k % 3 - 1) + offsets[:, 2 * k + 1]
        # What is read at each corner is computed again for gradients: it would be four times as large as the map.
        total = total + checkpoint(read_bilinearly, filtered, row, column, use_reentrant=False)
    return total + conv.bias[:, None, None]


def read_bilinearly(x_XDHW: Tensor, row_XHW: Tensor, column_XHW: Tensor) -> Tensor:
    """Maps read at fractional rows and columns, in cells; corners outside count as zero. Its gradients are deterministic."""
    height, width = x_XDHW.shape[-2:]
    top, left = row_XHW.floor(), column_XHW.floor()
    total = torch.zeros_like(x_XDHW)
    for y, y_share in ((top, top + 1 - row_XHW), (top + 1, row_XHW - top)):
        for x, x_share in ((left, left + 1 - column_XHW), (left + 1, column_XHW - left)):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            at = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).long().flatten(1).unsqueeze(1)
            corner = x_XDHW.flatten(2).gather(2, at.expand(-1, x_XDHW.shape[1], -1)).view_as(x_XDHW)
            total = total + corner * (inside * y_share * x_share).unsqueeze(1)
    return total


def sine_positions(frames: int, height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """The encoded position of each token in time, height and width: (frames, height, width, channels).

    Each axis has a third of the channels. Its coordinate runs from just above 0 to 2 pi over the extent of the clip, times
    frequencies falling from 1 to nearly 1/10000; even channels hold sines, odd ones cosines.

    Args:
        channels: a multiple of six.
        like: a tensor of the wanted device and type.
    """
    share = channels // 3
    channel = torch.arange(share, device=like.device, dtype=torch.float32)
    period_C = 10000.0 ** (2 * (channel // 2) / share)
    encoded = []
    for axis, length in enumerate((frames, height, width)):
        steps = torch.arange(1, length + 1, device=like.device, dtype=torch.float32)
        place = steps / (length + POSITION_EPSILON) * (2 * math.pi)
        angle = place[:, None] / period_C
        along = torch.where(channel % 2 == 0, angle.sin(), angle.cos())
        shape = [1, 1, 1, share]
        shape[axis] = length
        encoded.append(along.view(shape).expand(frames, height, width, share))
    return torch.cat(encoded, dim=-1).to(like.dtype)


class FeedForward(nn.Module):
    """Two linear layers, followed by the residual sum and LayerNorm."""

    def __init__(self, hidden_dim: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(hidden_dim, ffn_dim), nn.Linear(ffn_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(inner)))


class Attention(nn.Module):
    """Multi-head attention, then the residual sum and LayerNorm; positions go to queries and keys, never to values."""

    def __init__(self, hidden_dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention = nn.MultiheadAttention(hidden_dim, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, x_position: Tensor, memory: Tensor, memory_position: Tensor) -> Tensor:
        """Queries x (B, Q, C) read memory (B, L, C)."""
        mixed = self.attention(x + x_position, memory + memory_position, memory, need_weights=False)[0]
        return self.norm(x + self.dropout(mixed))


class EncoderLayer(nn.Module):
    """Every location of every frame attends to all others of the clip."""

    def __init__(self, hidden_dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attention = Attention(hidden_dim, heads, dropout)
        self.ffn = FeedForward(hidden_dim, ffn_dim, dropout)

    def forward(self, tokens_BLC: Tensor, position_1LC: Tensor) -> Tensor:
        return self.ffn(self.self_attention(tokens_BLC, position_1LC, tokens_BLC, position_1LC))


class DecoderLayer(nn.Module):
    """The queries of all instances and frames attend to each other, then to the whole clip."""

    def __init__(self, hidden_dim: int, heads: int, ffn_dim: int, dropout: float):
        super().__init__()
        self.self_attention = Attention(hidden_dim, heads, dropout)
        self.cross_attention = Attention(hidden_dim, heads, dropout)
        self.ffn = FeedForward(hidden_dim, ffn_dim, dropout)

    def forward(self, x_BQC: Tensor, query_1QC: Tensor, memory_BLC: Tensor, position_1LC: Tensor) -> Tensor:
        x = self.self_attention(x_BQC, query_1QC, x_BQC, query_1QC)
        return self.ffn(self.cross_attention(x, query_1QC, memory_BLC, position_1LC))


class BoxAttention(nn.Module):
    """Where in its frame a decoded query looks: attention weights without values."""

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(hidden_dim, hidden_dim), nn.Linear(hidden_dim, hidden_dim)

    def forward(self, query_FKC: Tensor, memory_FCHW: Tensor) -> Tensor:
        """Weights (F, K, A, H, W), which sum to one over heads and locations together, as in DETR."""
        frames, _, height, width = memory_FCHW.shape
        query = self.query(query_FKC).unflatten(-1, (self.heads, -1))  # (F, K, A, D)
        key = self.key(memory_FCHW.flatten(2).transpose(1, 2)).unflatten(-1, (self.heads, -1))  # (F, L, A, D)
        logits = torch.einsum("fkad,flad->fkal", query / math.sqrt(query.shape[-1]), key)
        return logits.flatten(2).softmax(dim=-1).view(frames, -1, self.heads, height, width)


class FrameMaskHead(nn.Module):
    """Upsamples memory and box attention to stride 4 with the help of the backbone's finer features (DETR's mask head)."""

    def __init__(self, hidden_dim: int, heads: int, level_channels: Sequence[int]):
        """``level_channels`` are the numbers of channels at strides 4, 8 and 16."""
        super().__init__()
        first = hidden_dim + heads
        widths = [first, first, hidden_dim // 2, hidden_dim // 4, hidden_dim // 8, hidden_dim // 16]
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, padding=1) for inner, outer in zip(widths[:-1], widths[1:], strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, outer), outer) for outer in widths[1:])
        self.adapters = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels, width in zip(reversed(level_channels), widths[2:5], strict=True))
        for conv in (*self.convs, *self.adapters):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)
        # The last convolution is deformable. It starts as a plain one, so that no random number is drawn for its offsets.
        self.offsets = nn.utils.skip_init(nn.Conv2d, widths[4], 18, 1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, memory_FCHW: Tensor, attention_FKAHW: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Features of K tracklets in each frame: (F, K, C/16, H_4, W_4).

        Args:
            levels: the features of strides 4, 8 and 16, each (F, C_l, H_l, W_l).
        """
        frames, tracklets = attention_FKAHW.shape[:2]
        shared = memory_FCHW.unsqueeze(1).expand(-1, tracklets, -1, -1, -1)
        x = self._convolve(0, torch.cat((shared, attention_FKAHW), dim=2).flatten(0, 1))
        x = self._convolve(1, x)
        for step, (adapter, level) in enumerate(zip(self.adapters, reversed(levels), strict=True), start=2):
            # The frame's feature is computed once and shared by its tracklets.
            fine = adapter(level).unsqueeze(1)
            coarse = F.interpolate(x, size=fine.shape[-2:], mode="nearest").view(frames, tracklets, -1, *fine.shape[-2:])
            x = self._convolve(step, (fine + coarse).flatten(0, 1))
        return x.view(frames, tracklets, *x.shape[1:])

    def _convolve(self, step: int, x: Tensor) -> Tensor:
        conv = self.convs[step]
        filtered = conv(x) if step < len(self.convs) - 1 else deformable_conv3x3(x, self.offsets(x), conv)
        return F.relu(self.norms[step](filtered))


class SequenceMaskHead(nn.Sequential):
    """3-D convolutions over the T feature maps of one tracklet: (X, C/16, T, H, W) to logits (X, 1, T, H, W)."""

    def __init__(self, hidden_dim: int):
        inner, width = hidden_dim // 16, hidden_dim // 32
        layers: list[nn.Module] = []
        for channels in (inner, width, width):
            layers += [nn.Conv3d(channels, width, 3, padding=2, dilation=2),
                       nn.GroupNorm(math.gcd(4, width), width), nn.ReLU()]
        super().__init__(*layers, nn.Conv3d(width, 1, 1))
