"""VisTR in the order of its authors' code (github.com/Epiphqny/VisTR), for benchmarks.speed.

It computes the same numbers as ``effvis.vistr.model.VisTR``, whose attention is fused and whose mask heads take several frames
at once: here attention weights are written out and averaged over the heads, as ``nn.MultiheadAttention`` does by default, and
masks are computed frame by frame, then tracklet by tracklet. What their code has besides (masks of padding, a deformable
convolution at the end of the mask head) is left out, so theirs takes no less time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from effvis.model.backbone import build_body
from effvis.model.heads import gather_tracklets
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR, VisTROutput


class LiteralVisTR(VisTR):
    """Like ``VisTR``; the module's docstring says what is computed differently."""

    def __init__(self, config: VisTRConfig):
        body = build_body(config.backbone)
        super().__init__(config, body, body.channels, body.strides[0])
        for module in self.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.register_forward_pre_hook(_with_weights, with_kwargs=True)

    def mask_logits(self, output: VisTROutput, select_BK: Tensor | None = None) -> Tensor:
        """Like ``VisTR.mask_logits``, for one clip: (1, K, T, H/s, W/s)."""
        query = output.query_BNTC if select_BK is None else gather_tracklets(output.query_BNTC, select_BK)
        by_frame = []
        for frame in range(query.shape[2]):
            here = slice(frame, frame + 1)
            memory_FCHW = output.memory_FCHW[here]
            attention = self.box_attention(query[:, :, frame], memory_FCHW)
            by_frame.append(self.frame_masks(memory_FCHW, attention, [level[here] for level in output.levels]))
        features = torch.cat(by_frame)  # (T, K, C/16, H/s, W/s)
        return torch.cat([self.sequence_masks(features[:, n].transpose(0, 1).unsqueeze(0)) for n in range(features.shape[1])],
                         dim=1)


def _with_weights(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs | {"need_weights": True}
