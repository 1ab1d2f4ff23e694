"""VisTR (Wang et al., CVPR 2021), the method that EfficientVIS is compared with: a transformer over all tokens of a clip.

Reading order: ``VisTR.forward`` and ``VisTR.mask_logits`` here, then parts.py. docs/vistr.md says what differs from
the original.

Dimensions in names: B clips, N queries per frame (tracklets), T frames of a clip, C channels, K class rows,
D decoder layers. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD, build_body
from effvis.model.boxes import at_least_fp32, cxcywh_to_xyxy
from effvis.model.class_rows import fitted
from effvis.model.heads import gather_tracklets
from effvis.vistr.config import VisTRConfig
from effvis.vistr.parts import BoxAttention, DecoderLayer, EncoderLayer, FrameMaskHead, SequenceMaskHead, sine_positions


@dataclass(frozen=True)
class VisTROutput:
    """VisTR's output for B clips; the last of the D decoder layers is the prediction.

    Attributes:
        logits_DBNTK: class logits: absent first, if the network has such a row, no-object last.
        boxes_DBNT4: xyxy in input pixels.
        query_BNTC: decoded queries of the last layer.
        memory_FCHW: encoded clips at the coarsest stride (32 in VisTR), F = B*T.
        levels: the three finer backbone features (strides 4, 8 and 16 in VisTR), each (F, C_l, H_l, W_l).
        height, width: the input's size in pixels.
    """

    logits_DBNTK: Tensor
    boxes_DBNT4: Tensor
    query_BNTC: Tensor
    memory_FCHW: Tensor
    levels: Sequence[Tensor]
    height: int
    width: int


class VisTR(nn.Module):
    """Predicts the classes, boxes and whole-frame masks of N tracklets in one pass over a clip.

    Attributes:
        zero_where_missing: names of parameters that are zero for weights that lack them.
        class_layers: beginnings of the names of those that are learned anew for other classes.
    """

    zero_where_missing = ("frame_masks.offsets.weight", "frame_masks.offsets.bias")
    class_layers = ("class_logits.",)

    def __init__(self, config: VisTRConfig, body: nn.Module, channels: Sequence[int], mask_stride: int = 4):
        """
        Args:
            body: maps frames (F, 3, H, W) to four feature maps, each of twice the stride of the one before, rounded up at
                odd sizes. ``build_vistr`` passes the one that the config names.
            channels: numbers of channels of these four maps.
            mask_stride: the stride of the first of them, and so of the masks; 4 in VisTR.
        """
        super().__init__()
        self.config = config
        self.mask_stride = mask_stride
        width, heads = config.hidden_dim, config.attention_heads
        layer = (width, heads, config.ffn_dim, config.dropout)
        self.body = body
        self.project = nn.Conv2d(channels[3], width, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*layer) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*layer) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.query_NTC = nn.Parameter(torch.randn(config.queries, config.clip_length, width))
        self.class_logits = nn.Linear(width, config.class_rows)
        self.box = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
        self.box_attention = BoxAttention(width, heads)
        self.frame_masks = FrameMaskHead(width, heads, channels[:3])
        self.sequence_masks = SequenceMaskHead(width)
        for part in (self.encoder, self.decoder, self.box_attention):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        self.register_load_state_dict_pre_hook(_zero_offsets)
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

        boxes = cxcywh_to_xyxy(at_least_fp32(self.box(decoded_DBNTC)).sigmoid())
        memory_FCHW = memory.view(clips * frames, rows, columns, channels).permute(0, 3, 1, 2).contiguous()
        return VisTROutput(
            logits_DBNTK=self.class_logits(decoded_DBNTC), boxes_DBNT4=boxes * boxes.new_tensor([width, height] * 2),
            query_BNTC=decoded_DBNTC[-1], memory_FCHW=memory_FCHW, levels=levels, height=height, width=width)

    def mask_logits(self, output: VisTROutput, select_BK: Tensor | None = None) -> Tensor:
        """Whole-frame masks at stride s: (B, N, T, H/s, W/s), or of K selected tracklets per clip (B, K, T, H/s, W/s)."""
        query = output.query_BNTC if select_BK is None else gather_tracklets(output.query_BNTC, select_BK)
        clips, tracklets, frames, _ = query.shape
        query_FKC = query.transpose(1, 2).flatten(0, 1)
        attention = self.box_attention(query_FKC, output.memory_FCHW)
        features = self.frame_masks(output.memory_FCHW, attention, output.levels).unflatten(0, (clips, frames))
        sequences = features.permute(0, 2, 3, 1, 4, 5).flatten(0, 1)  # (B*K, C/16, T, H/s, W/s)
        return self.sequence_masks(sequences).view(clips, tracklets, frames, *sequences.shape[-2:])

    def load_initial(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Starts from the weights of the same network at another T or with other classes.

        Queries learned at another T are averaged or repeated in time (``at_clip_length``); offsets that are not given are zero;
        the class layer of another number of classes stays as initialised.

        Returns:
            The names of its own parameters that stay as initialised.

        Raises:
            ValueError: a weight is missing, unknown or has another shape, so that it is not the same network.
        """
        own = self.state_dict()
        weights = with_offsets(weights, own)
        if "query_NTC" in weights:
            weights["query_NTC"] = at_clip_length(weights["query_NTC"], own["query_NTC"].shape[1])
        adapted, stay = fitted(weights, own, lambda name: name.startswith(self.class_layers))
        self.load_state_dict(adapted)
        return stay


def build_vistr(config: VisTRConfig) -> VisTR:
    """VisTR on the backbone that its config names."""
    body = build_body(config.backbone)
    return VisTR(config, body, body.channels, body.strides[0])


def _zero_offsets(model: VisTR, weights: dict[str, Tensor], prefix: str, *_) -> None:
    """Fills in what ``with_offsets`` does while a state dict is loaded."""
    if not prefix:
        weights.update(with_offsets(weights, model.state_dict()))


def with_offsets(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, with offsets of zero where they were trained with a plain convolution at the mask head's end."""
    zeros = {name: torch.zeros_like(own[name]) for name in own if name in VisTR.zero_where_missing}
    return {**zeros, **weights}


def at_clip_length(query_NTC: Tensor, frames: int) -> Tensor:
    """The queries (N, T, C) of another number of frames: each is the mean of those in its share of the clip.

    The time code of a frame is its share of the clip's length, so a frame of a short clip stands where several frames of a
    longer one do. The authors' code has no such step: it reads weights at their own T alone.
    """
    return F.adaptive_avg_pool1d(query_NTC.transpose(1, 2), frames).transpose(1, 2)


def resize_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask logits (X, T, h, w) stretched from their stride straight to (height, width), as the authors' code does."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
