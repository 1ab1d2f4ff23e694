"""Self-attention among tracklet queries: factorised temporo-spatial (FTSA, Sec. 3.1, Eq. 1-2), and table 1a's alternatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over the second axis, followed by the residual sum and LayerNorm (post-norm).

    Args:
        gated: a fresh block returns its input exactly, norm included: each channel moves from there to what the block makes
            of it as far as a learned gate opens, which starts at 0 (1 is the block without gate). So a temporal block, for
            which no weights of images exist, leaves the pretrained block after it what it expects.
    """

    def __init__(self, hidden_dim: int, heads: int, *, gated: bool = False):
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.project_out = nn.Linear(hidden_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.gate = nn.Parameter(torch.zeros(hidden_dim)) if gated else None
        nn.init.xavier_uniform_(self.project_in.weight)
        nn.init.zeros_(self.project_in.bias)
        nn.init.zeros_(self.project_out.bias)

    def forward(self, x_SLC: Tensor) -> Tensor:
        """S independent sequences of L embeddings: (S, L, C) to (S, L, C)."""
        sequences, length, width = x_SLC.shape
        qkv = self.project_in(x_SLC).view(sequences, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(1, 2).reshape(sequences, length, width)
        attended = self.norm(x_SLC + self.project_out(mixed))
        return attended if self.gate is None else x_SLC + self.gate * (attended - x_SLC)


def over_time(block: SelfAttention, query_BNTC: Tensor) -> Tensor:
    """Eq. 1: the T embeddings of one tracklet attend to each other."""
    return block(query_BNTC.flatten(0, 1)).view(query_BNTC.shape)


def over_instances(block: SelfAttention, query_BNTC: Tensor) -> Tensor:
    """Eq. 2: the N embeddings of one frame attend to each other."""
    batch, queries, frames, width = query_BNTC.shape
    query = query_BNTC.transpose(1, 2).reshape(batch * frames, queries, width)
    return block(query).view(batch, frames, queries, width).transpose(1, 2)


class FactorisedTemporoSpatialAttention(nn.Module):
    """FTSA: first the T embeddings of one tracklet attend to each other, then the N embeddings of one frame.

    Eq. 1 (temporal) gives every embedding its own past and future; Eq. 2 (spatial) lets instances of a frame tell
    each other apart. The cost is N·T² + T·N² instead of (N·T)² for joint attention.

    Args:
        spatial_first: use the other order, which the paper finds no different (Sec. 3.1). The parameters are the same.
    """

    def __init__(self, hidden_dim: int, heads: int, *, spatial_first: bool = False):
        super().__init__()
        self.spatial_first = spatial_first
        self.temporal = SelfAttention(hidden_dim, heads, gated=True)
        self.spatial = SelfAttention(hidden_dim, heads)

    def forward(self, query_BNTC: Tensor) -> Tensor:
        if self.spatial_first:
            return over_time(self.temporal, over_instances(self.spatial, query_BNTC))
        return over_instances(self.spatial, over_time(self.temporal, query_BNTC))


class TemporalAttention(nn.Module):
    """Eq. 1 alone: tracklets know nothing of each other."""

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.temporal = SelfAttention(hidden_dim, heads, gated=True)

    def forward(self, query_BNTC: Tensor) -> Tensor:
        return over_time(self.temporal, query_BNTC)


class SpatialAttention(nn.Module):
    """Eq. 2 alone: frames know nothing of each other."""

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.spatial = SelfAttention(hidden_dim, heads)

    def forward(self, query_BNTC: Tensor) -> Tensor:
        return over_instances(self.spatial, query_BNTC)


class JointAttention(nn.Module):
    """Every embedding of a clip attends to all N·T of them. At T=1 it is spatial attention."""

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.joint = SelfAttention(hidden_dim, heads)

    def forward(self, query_BNTC: Tensor) -> Tensor:
        return self.joint(query_BNTC.flatten(1, 2)).view(query_BNTC.shape)


def build_attention(scheme: str, hidden_dim: int, heads: int) -> nn.Module:
    """The attention of ``ModelConfig.attention``: (B, N, T, C) to (B, N, T, C)."""
    if scheme in ("ftsa", "ftsa-st"):
        return FactorisedTemporoSpatialAttention(hidden_dim, heads, spatial_first=scheme == "ftsa-st")
    return {"temporal": TemporalAttention, "spatial": SpatialAttention, "joint": JointAttention}[scheme](hidden_dim, heads)
