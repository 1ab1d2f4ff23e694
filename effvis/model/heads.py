"""One query-video interaction (Sec. 3.1): attention, temporal dynamic convolution, then class, box and mask."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.config import ModelConfig
from effvis.model.attention import build_attention
from effvis.model.dynamic_conv import build_dynamic_conv

# The share of positives that a fresh classifier predicts, so that the focal loss starts small.
PRIOR = 0.01
# The names of the layers whose rows are masks: one for all classes, or one per class.
MASK_LOGITS = re.compile(r"mask_heads\.\d+\.logits\.(weight|bias)")


class Interaction(nn.Module):
    """Refines queries by the regions that their proposals crop, and predicts from the refined queries."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.hidden_dim
        self.attention = build_attention(config.attention, width, config.attention_heads)
        self.dynamic_conv = build_dynamic_conv(
            config.dynamic_conv, width, config.dynamic_dim, config.similarity_temperature)
        self.gather = nn.Linear(config.roi_size**2 * width, width)
        self.gather_norm = nn.LayerNorm(width)
        self.interaction_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, config.ffn_dim), nn.ReLU(inplace=True), nn.Linear(config.ffn_dim, width))
        self.ffn_norm = nn.LayerNorm(width)
        self.class_tower = _tower(width, 1)
        self.class_logits = nn.Linear(width, config.num_classes)
        self.box_tower = _tower(width, 3)
        self.box_deltas = nn.Linear(width, 4)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - PRIOR) / PRIOR))
        # A fresh network leaves its proposals nearly where they are.
        nn.init.normal_(self.box_deltas.weight, std=0.01)
        nn.init.zeros_(self.box_deltas.bias)

    def forward(self, query_BNTC: Tensor, regions_BNTPC: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Runs the interaction on the proposals' regions, as ``EfficientVIS.regions`` gives them.

        Returns:
            The refined query (B, N, T, C), class logits (B, N, T, K), box deltas (B, N, T, 4), and the attended query
            (B, N, T, C), which has not seen the regions yet.
        """
        attended = self.attention(query_BNTC)
        filtered = self.dynamic_conv(attended, regions_BNTPC)
        target = F.relu_(self.gather_norm(self.gather(filtered.flatten(3))))
        query = self.interaction_norm(attended + target)
        query = self.ffn_norm(query + self.ffn(query))
        return query, self.class_logits(self.class_tower(query)), self.box_deltas(self.box_tower(query)), attended


class MaskHead(nn.Module):
    """Masks inside the refined boxes (QueryInst's dynamic mask head).

    The paper leaves open whether masks are class-agnostic. QueryInst's are not; agnostic ones share what they learn over
    classes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width, self.roi_size = config.hidden_dim, config.mask_roi_size
        self.dynamic_conv = build_dynamic_conv(
            config.dynamic_conv, width, config.dynamic_dim, config.similarity_temperature)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in range(config.mask_convs))
        self.upsample = nn.ConvTranspose2d(width, width, 2, 2)
        self.specific = config.mask_classes == "specific"
        self.logits = nn.Conv2d(width, config.num_classes if self.specific else 1, 1)

    def forward(self, query_BNTC: Tensor, regions_BNTPC: Tensor, label_BNT: Tensor) -> Tensor:
        """Mask logits (B, N, T, S, S) from ``EfficientVIS.regions`` of the mask boxes, S twice the side of the regions.

        Args:
            label_BNT: the class whose mask it is to be; class-agnostic masks do not depend on it.
        """
        x = self.dynamic_conv(query_BNTC, regions_BNTPC).flatten(0, 2)
        x = x.transpose(1, 2).unflatten(-1, (self.roi_size, self.roi_size))
        for conv in self.convs:
            x = F.relu_(conv(x))
        return self._upsampled_logits(x, label_BNT.flatten()).unflatten(0, query_BNTC.shape[:-1])

    def _upsampled_logits(self, x_XCSS: Tensor, label_X: Tensor) -> Tensor:
        """``logits(relu(upsample(x)))`` as two matrix products: no patch of a 2x2 transposed convolution of stride 2 overlaps.

        Returns:
            The logits (X, 2S, 2S).
        """
        rows, width, side = x_XCSS.shape[:3]
        weight = self.upsample.weight.permute(0, 2, 3, 1).reshape(width, -1)  # the four new pixels' weights, channels last
        x = F.relu_(torch.addmm(self.upsample.bias.repeat(4), x_XCSS.permute(0, 2, 3, 1).reshape(-1, width), weight))
        if self.specific:
            weight_XC1 = self.logits.weight.view(-1, width)[label_X].unsqueeze(-1)
            logits = x.view(rows, 4 * side**2, width) @ weight_XC1 + self.logits.bias[label_X, None, None]
        else:
            logits = F.linear(x.view(-1, width), self.logits.weight.view(1, width), self.logits.bias)
        return logits.view(rows, side, side, 2, 2).transpose(2, 3).reshape(rows, 2 * side, 2 * side)


def _tower(width: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*(
        module for _ in range(layers)
        for module in (nn.Linear(width, width, bias=False), nn.LayerNorm(width), nn.ReLU(inplace=True))
    ))


def gather_tracklets(x_BN: Tensor, select_BK: Tensor) -> Tensor:
    """Picks K tracklets of each clip: (B, N, ...) to (B, K, ...)."""
    return x_BN[torch.arange(len(x_BN), device=x_BN.device)[:, None], select_BK]
