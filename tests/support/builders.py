"""Building blocks of tests: a tiny network and clips with known targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from effvis.config import ModelConfig
from effvis.data.clips import ClipPairs
from effvis.data.dataset import DatasetIndex
from effvis.data.index import clip_index
from effvis.data.targets import ClipPairBatch, ClipTargets
from effvis.model.attention import SelfAttention
from effvis.model.efficientvis import EfficientVIS
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR


def tiny_config(clip_length: int = 2, **changes) -> ModelConfig:
    values = dict(
        num_classes=3, clip_length=clip_length, queries=4, iterations=2, hidden_dim=16, attention_heads=2, ffn_dim=32,
        dynamic_dim=8, roi_size=4, mask_roi_size=4, mask_convs=1, similarity_temperature=0.1)
    return ModelConfig(**(values | changes))


def tiny_model(clip_length: int = 2, seed: int = 0, **changes) -> EfficientVIS:
    """A network from random numbers, with open gates."""
    torch.manual_seed(seed)
    return opened(EfficientVIS(tiny_config(clip_length, **changes)))


def opened(module: nn.Module) -> nn.Module:
    """The module with temporal attention that does something: that of a fresh one returns its input."""
    for part in module.modules():
        if isinstance(part, SelfAttention) and part.gate is not None:
            nn.init.uniform_(part.gate, 0.5, 1.0)
    return module


class SmallBody(nn.Module):
    """A backbone body with strides 4 to 32 from four convolutions."""

    channels = (8, 12, 16, 24)

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(inner, outer, 5, stride, 2)
            for inner, outer, stride in zip((3, *self.channels), self.channels, (4, 2, 2, 2), strict=False))

    def forward(self, x):
        levels = []
        for conv in self.convs:
            x = torch.relu(conv(x))
            levels.append(x)
        return levels


def small_vistr(clip_length: int = 2, seed: int = 0, **changes) -> VisTR:
    torch.manual_seed(seed)
    values = dict(num_classes=3, clip_length=clip_length, queries=4, hidden_dim=96, encoder_layers=1, decoder_layers=2,
                  attention_heads=2, ffn_dim=64, dropout=0.0)
    return VisTR(VisTRConfig(**(values | changes)), SmallBody(), SmallBody.channels)


def rectangles(tracks: list[int], clip_length: int, rng: np.random.Generator, absent: bool = False) -> tuple:
    """A clip (T, 3, 32, 48) of bright rectangles and its targets; with ``absent``, the first is missing in frame 0."""
    count = len(tracks)
    frames = torch.zeros(clip_length, 3, 32, 48, dtype=torch.uint8)
    masks = torch.zeros(count, clip_length, 32, 48, dtype=torch.bool)
    boxes = torch.zeros(count, clip_length, 4)
    present = torch.ones(count, clip_length, dtype=torch.bool)
    if absent and count:
        present[0, 0] = False
    for k, t in present.nonzero().tolist():
        x, y = int(rng.integers(0, 36)), int(rng.integers(0, 22))
        masks[k, t, y: y + 10, x: x + 12] = True
        boxes[k, t] = torch.tensor([x, y, x + 12.0, y + 10.0])
        frames[t, :, y: y + 10, x: x + 12] = torch.tensor([80 + 40 * (tracks[k] % 4), 200, 60])[:, None, None]
    labels = torch.tensor([track % 3 for track in tracks], dtype=torch.int64)
    return frames, ClipTargets(torch.tensor(tracks, dtype=torch.int64), labels, present, boxes, masks)


def pair_batch(
    pairs: list[tuple[list[int], list[int]]], clip_length: int, seed: int = 0, absent: bool = False
) -> ClipPairBatch:
    """A batch of clip pairs, given the track ids that each clip shows."""
    rng = np.random.default_rng(seed)
    clips = [[rectangles(tracks, clip_length, rng, absent) for tracks in pair] for pair in pairs]
    return ClipPairBatch(
        frames=tuple(torch.stack([pair[c][0] for pair in clips]) for c in (0, 1)),
        targets=tuple([pair[c][1] for pair in clips] for c in (0, 1)),
        videos=list(range(len(pairs))))


def clip_pairs(index: DatasetIndex, clip_length: int = 2, **changes) -> ClipPairs:
    """Pairs of clips from a data set of 32x48 frames, two pairs per step."""
    return ClipPairs(index, clip_index(index, clip_length), **({"input_size": (32, 48), "batch_size": 2, "seed": 0} | changes))
