"""VisTR (Wang et al., CVPR 2021), the method that EfficientVIS is compared with: a transformer over all tokens of a clip.

Reading order: ``VisTR.forward`` and ``VisTR.mask_logits`` here, then vistr_parts.py. docs/vistr.md says what differs from
the original.

Dimensions in names: B clips, N queries per frame (tracklets), T frames of a clip, C channels, K classes and no-object,
D decoder layers. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from effvis.config import Config
from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD
from effvis.model.boxes import cxcywh_to_xyxy
from effvis.model.heads import gather_tracklets
from effvis.model.vistr_parts import (
    BoxAttention,
    DecoderLayer,
    EncoderLayer,
    FrameMaskHead,
    SequenceMaskHead,
    sine_positions,
)


class VisTRConfig(Config):
    """The network of the VisTR paper; the defaults are its settings."""

    num_classes: int = Field(ge=1)
    clip_length: int = Field(ge=1, description="T, frames per clip; 36 in the VisTR paper")
    queries: int = Field(10, ge=1, description="N, queries per frame; the n-th queries of all frames are one tracklet")
    hidden_dim: int = Field(384, ge=96, multiple_of=96, description="C; thirds hold the positions, 1/32 the last mask layers")
    encoder_layers: int = Field(6, ge=1)
    decoder_layers: int = Field(6, ge=1)
    attention_heads: int = Field(8, ge=1)
    ffn_dim: int = Field(2048, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="0 where training must be the same on every machine")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.hidden_dim % self.attention_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of attention_heads {self.attention_heads}")
        return self


@dataclass(frozen=True)
class VisTROutput:
    """What VisTR says of B clips; the last of the D decoder layers is the prediction.

    Attributes:
        logits_DBNTK: class logits, no-object last.
        boxes_DBNT4: xyxy in input pixels.
        query_BNTC: decoded queries of the last layer.
        memory_FCHW: encoded clip at stride 32, F = B*T.
        levels: backbone features of strides 4, 8 and 16, each (F, C_l, H_l, W_l).
        height, width: of the input, in pixels.
    """

    logits_DBNTK: Tensor
    boxes_DBNT4: Tensor
    query_BNTC: Tensor
    memory_FCHW: Tensor
    levels: Sequence[Tensor]
    height: int
    width: int


class VisTR(nn.Module):
    """Predicts the classes, boxes and whole-frame masks of N tracklets in one pass over a clip."""

    def __init__(self, config: VisTRConfig, body: nn.Module, channels: Sequence[int]):
        """
        Args:
            body: frames (F, 3, H, W) to feature maps of strides 4, 8, 16 and 32, rounded up at odd sizes.
            channels: of these four maps.
        """
        super().__init__()
        self.config = config
        width, heads = config.hidden_dim, config.attention_heads
        layer = (width, heads, config.ffn_dim, config.dropout)
        self.body = body
        self.project = nn.Conv2d(channels[3], width, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.query_NTC = nn.Parameter(torch.randn(config.queries, config.clip_length, width))
        self.class_logits = nn.Linear(width, config.num_classes + 1)
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        self.box_attention = BoxAttention(width, heads)
        self.frame_masks = FrameMaskHead(width, heads, channels[:3])
        self.sequence_masks = SequenceMaskHead(width)
        for part in (self.encoder, self.decoder, self.box_attention):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)

    def forward(self, frames_BTCHW: Tensor) -> VisTROutput:
        """Classes and boxes of clips (B, T, 3, H, W) of RGB frames in 0..255, uint8 or float.

        Raises:
            ValueError: the clips do not have the T frames that the queries were made for.
        """
        clips, frames, _, height, width = frames_BTCHW.shape
        if frames != self.config.clip_length:
            raise ValueError(f"clips of {frames} frames were given, the queries are for {self.config.clip_length}")
        pixels = (frames_BTCHW.flatten(0, 1).to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        *levels, coarse = self.body(pixels)
        source_FCHW = self.project(coarse)
        channels, rows, columns = source_FCHW.shape[1:]
        position = sine_positions(frames, rows, columns, channels, source_FCHW).flatten(0, 2).unsqueeze(0)

        memory = source_FCHW.view(clips, frames, channels, -1).transpose(2, 3).reshape(clips, -1, channels)
        for encoder_layer in self.encoder:
            memory = encoder_layer(memory, position)
        query = self.query_NTC.flatten(0, 1).unsqueeze(0)
        x = torch.zeros_like(query).expand(clips, -1, -1)
        decoded = []
        for decoder_layer in self.decoder:
            x = decoder_layer(x, query, memory, position)
            decoded.append(self.decoder_norm(x))
        decoded_DBNTC = torch.stack(decoded).unflatten(2, (self.config.queries, frames))

        boxes = cxcywh_to_xyxy(self.box(decoded_DBNTC).sigmoid())
        memory_FCHW = memory.view(clips * frames, rows, columns, channels).permute(0, 3, 1, 2).contiguous()
        return VisTROutput(
            logits_DBNTK=self.class_logits(decoded_DBNTC), boxes_DBNT4=boxes * boxes.new_tensor([width, height] * 2),
            query_BNTC=decoded_DBNTC[-1], memory_FCHW=memory_FCHW, levels=levels, height=height, width=width)

    def mask_logits(self, output: VisTROutput, select_BK: Tensor | None = None) -> Tensor:
        """Whole-frame masks at stride 4: (B, N, T, H/4, W/4), or of K selected tracklets per clip (B, K, T, H/4, W/4)."""
        query = output.query_BNTC if select_BK is None else gather_tracklets(output.query_BNTC, select_BK)
        clips, tracklets, frames, _ = query.shape
        query_FKC = query.transpose(1, 2).flatten(0, 1)
        attention = self.box_attention(query_FKC, output.memory_FCHW)
        features = self.frame_masks(output.memory_FCHW, attention, output.levels).unflatten(0, (clips, frames))
        sequences = features.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B*K, C/16, T, H/4, W/4)
        return self.sequence_masks(sequences).view(clips, tracklets, frames, *sequences.shape[-2:])


def masks_at_input_size(logits: Tensor, height: int, width: int) -> Tensor:
    """Mask logits (X, T, H/4, W/4) at the size of the input: (X, T, H, W).

    The last row and column of stride 4 reach beyond inputs that are no multiple of it; what is beyond is cut off.
    """
    full = F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
    return full[..., :height, :width]
