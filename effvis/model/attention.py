"""Self-attention among tracklet queries: factorised temporo-spatial self-attention (FTSA, Sec. 3.1, Eq. 1-2)."""

from __future__ import annotations

from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over the second axis, with residual and LayerNorm after it (post-norm)."""

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(hidden_dim, 3 * hidden_dim)
        self.project_out = nn.Linear(hidden_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
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
        return self.norm(x_SLC + self.project_out(mixed))


class FactorisedTemporoSpatialAttention(nn.Module):
    """FTSA: first the T embeddings of one tracklet attend to each other, then the N embeddings of one frame.

    Eq. 1 (temporal) gives every embedding its own past and future; Eq. 2 (spatial) lets instances of a frame tell
    each other apart. The cost is N·T² + T·N² instead of (N·T)² for joint attention.
    """

    def __init__(self, hidden_dim: int, heads: int):
        super().__init__()
        self.temporal = SelfAttention(hidden_dim, heads)
        self.spatial = SelfAttention(hidden_dim, heads)

    def forward(self, query_BNTC: Tensor) -> Tensor:
        batch, queries, frames, width = query_BNTC.shape
        query = self.temporal(query_BNTC.reshape(batch * queries, frames, width)).view(batch, queries, frames, width)
        query = query.transpose(1, 2).reshape(batch * frames, queries, width)
        return self.spatial(query).view(batch, frames, queries, width).transpose(1, 2)
