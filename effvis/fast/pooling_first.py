"""EfficientVIS for inference; in one form it computes its pyramid's last convolution only where a proposal looks.

Each level of the pyramid ends in a 3x3 convolution, and RoIAlign then averages a few of its values per bin. Both are linear,
so they can change places: the values under the nine taps of the kernel are averaged first, and the kernel is applied
once per bin. At ResNet-50's size the finest levels have many more cells than a clip has bins. A level where this does not
pay, because it has few cells or nearly all proposals belong to it, is convolved as a whole once they are known: docs/speed.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.config import ModelConfig
from effvis.fast.unfinished import UnfinishedFeatures, UnmergedFrames, detach_last_convolutions, leave_finest_lateral
from effvis.model.efficientvis import PADDED_TO, BaseFeatures, EfficientVIS, _joined
from effvis.model.roi_align import pooling_weights

SAMPLING_RATIO, CANONICAL_SIZE, CANONICAL_LEVEL = 2, 224.0, 4  # as in effvis.model.roi_align.multilevel_roi_align
# The averages under nine taps are held for this many bins at once: 14 MB at 256 channels, which still fits into the caches.
BINS_AT_ONCE = 1568
# Averaging under nine taps takes as long as the convolution of a bin, so that a bin costs as much as two cells of a map.
CELLS_PER_BIN = 2


class ForInference(EfficientVIS):
    """A network made of the parts of another one.

    Args:
        pixels_at_once: the backbone takes as many frames together as have this many pixels, and one at least.
    """

    def __init__(self, model: EfficientVIS, pixels_at_once: int):
        nn.Module.__init__(self)
        self.config, self.pixels_at_once = model.config, pixels_at_once
        self.backbone = model.backbone
        self.query_NTC, self.proposal_NT4 = model.query_NTC, model.proposal_NT4
        self.interactions, self.mask_heads = model.interactions, model.mask_heads
        self.register_buffer("pixel_mean", model.pixel_mean, persistent=False)
        self.register_buffer("pixel_std", model.pixel_std, persistent=False)
        self.train(model.training)

    def features(self, frames_BTCHW: Tensor) -> BaseFeatures:
        clips, frames, _, height, width = frames_BTCHW.shape
        parts = frames_BTCHW.flatten(0, 1).split(max(1, self.pixels_at_once // (height * width)))
        pyramid = self._levels(parts[0]) if len(parts) == 1 else _joined(map(self._levels, parts), clips * frames)
        return BaseFeatures(pyramid, clips, frames, self._sizes(clips, height, width))


class PoolingFirst(ForInference):
    """A network whose base features lack the last convolution of each level, until it pays to convolve the level."""

    def __init__(self, model: EfficientVIS, pixels_at_once: int):
        super().__init__(model, pixels_at_once)
        self.whole = detach_last_convolutions(self.backbone)
        # A tuple: bins need the kernels as they are, even where a level as a whole is convolved otherwise (winograd.py).
        self.convolutions = tuple(self.whole)
        self.finest_lateral = leave_finest_lateral(self.backbone)

    def features(self, frames_BTCHW: Tensor) -> UnfinishedFeatures:
        features = super().features(frames_BTCHW)
        unmerged = None
        if self.finest_lateral is not None:
            finest_FCHW, coarser_FCHW = features.pyramid[:2]
            left_F = torch.ones(len(finest_FCHW), dtype=torch.bool, device=finest_FCHW.device)
            unmerged = UnmergedFrames(left_F, coarser_FCHW, self.finest_lateral)
        return UnfinishedFeatures(**vars(features), waiting=list(self.convolutions), whole=self.whole, unmerged=unmerged)

    def _crop(self, features: UnfinishedFeatures, boxes_BNT4: Tensor, size: int) -> Tensor:
        clips, queries, frames = boxes_BNT4.shape[:3]
        by_frame = boxes_BNT4.transpose(1, 2).reshape(clips * frames, queries, 4)
        level_FN = _levels(by_frame, self.backbone.strides)
        features.merge((level_FN == 0).any(dim=1))
        boxes_of_levels = torch.bincount(level_FN.flatten(), minlength=len(features.waiting)).tolist()
        for level, (here, lacking) in enumerate(zip(boxes_of_levels, features.waiting, strict=True)):
            # Assumes that the boxes of all interactions and of the masks belong to the same levels as these.
            bins = here * bins_of_a_tracklet(self.config)
            if lacking is not None and bins * CELLS_PER_BIN > features.pyramid[level][:, 0].numel():
                features.finish(level)
        pooled = convolved_regions(features.pyramid, self.backbone.strides, features.waiting, by_frame, size)
        return pooled.view(clips, frames, queries, size * size, -1).transpose(1, 2)


def make_fast(
    model: EfficientVIS, input_size: tuple[int, int], pixels_at_once: int, pool_first: bool | None
) -> EfficientVIS:
    """The network without its unused mask heads, all but the last; it may pool before the last convolution.

    Args:
        pool_first: whether it does; None: on processors, where it pays.
    """
    model.mask_heads = nn.ModuleList([*(nn.Identity() for _ in model.mask_heads[1:]), model.mask_heads[-1]])
    if pool_first is None:
        pool_first = model.query_NTC.device.type == "cpu" and pooling_first_pays(model, input_size)
    return (PoolingFirst if pool_first else ForInference)(model, pixels_at_once)


def bins_of_a_tracklet(config: ModelConfig) -> int:
    """The number of a tracklet's bins in each frame, over all interactions and its mask."""
    return config.iterations * config.roi_size**2 + config.mask_roi_size**2


def pooling_first_pays(model: EfficientVIS, input_size: tuple[int, int]) -> bool:
    """Whether the clip's proposals, and the masks of all tracklets, have fewer bins than its pyramid has cells."""
    height, width = (side + -side % PADDED_TO for side in input_size)
    cells = sum((height // stride) * (width // stride) for stride in model.backbone.strides)
    return model.config.queries * bins_of_a_tracklet(model.config) < cells


def convolved_regions(
    maps: Sequence[Tensor], strides: Sequence[int], convolutions: Sequence[nn.Conv2d | None], boxes_FN4: Tensor, size: int
) -> Tensor:
    """``multilevel_roi_align`` of maps after 3x3 convolutions, each computed only at the bins of its own boxes.

    Args:
        maps: per level (F, C, H_l, W_l), finest first, in channels_last.
        strides: input pixels per feature pixel of each level, powers of two.
        convolutions: each level's convolution, with padding 1; None where its map is convolved already.
        boxes_FN4: N boxes per frame, xyxy in input pixels.

    Returns:
        The regions (F, N, P, P, C).
    """
    frames, boxes = boxes_FN4.shape[:2]
    level_R = _levels(boxes_FN4, strides).flatten()
    pooled = maps[0].new_empty(frames * boxes, size, size, maps[0].shape[1])
    for level, (feature, stride, convolution) in enumerate(zip(maps, strides, convolutions, strict=True)):
        mine = (level_R == level).nonzero()[:, 0]
        for rois in mine.split(max(1, BINS_AT_ONCE // size**2)):
            rows, columns = pooling_weights(
                boxes_FN4.flatten(0, 1)[rois], feature.shape[-2:], (size, size), 1.0 / stride, SAMPLING_RATIO, True)
            pooled[rois] = _pool(convolution, feature, (rois // boxes).tolist(), rows, columns).to(pooled.dtype)
    return pooled.view(frames, boxes, size, size, -1)


def _pool(
    convolution: nn.Conv2d | None, feature_FCHW: Tensor, frames: Sequence[int], rows_RPH: Tensor, columns_RQW: Tensor
) -> Tensor:
    """Averages of the convolved map: (R, P, Q, C)."""
    if convolution is None:
        return _pool_windows(feature_FCHW, frames, rows_RPH, columns_RQW)
    bins, channels = rows_RPH.shape[1], feature_FCHW.shape[1]
    taps = _pool_windows(feature_FCHW, frames, _shifted(rows_RPH), _shifted(columns_RQW))
    by_tap = taps.view(-1, bins, 3, bins, 3, channels).transpose(2, 3).reshape(-1, bins, bins, 9 * channels)
    # The kernel as a matrix: a row per output channel, columns by tap and input channel. A view: it is in channels_last.
    kernel = convolution.weight.permute(0, 2, 3, 1).flatten(1)
    # Samples beyond the frame count as zero, and get no share of the bias either.
    share = rows_RPH.sum(dim=-1)[:, :, None] * columns_RQW.sum(dim=-1)[:, None, :]
    return F.linear(by_tap, kernel) + convolution.bias * share[..., None]


def _levels(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """The number of the level that each box belongs to, as in multilevel_roi_align."""
    side = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1).sqrt()
    wanted = torch.floor(CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIZE + 1e-6))
    finest = strides[0].bit_length() - 1
    return (wanted - finest).clamp(0, len(strides) - 1).long()


def _pool_windows(feature_FCHW: Tensor, frames: Sequence[int], rows_RPH: Tensor, columns_RQW: Tensor) -> Tensor:
    """Pools the map with the weights of R regions, each in its frame: (R, P, Q, C).

    A region's products are small enough for the caches, but too small to share among threads.
    """
    feature_FHWC = feature_FCHW.permute(0, 2, 3, 1)
    rows_RPH, columns_RQW = rows_RPH.to(feature_FHWC.dtype), columns_RQW.to(feature_FHWC.dtype)
    channels, (regions, bins) = feature_FHWC.shape[-1], rows_RPH.shape[:2]
    pooled = feature_FHWC.new_empty(regions, bins, columns_RQW.shape[1], channels)
    with _one_thread():
        for r, (frame, (top, bottom), (left, right)) in enumerate(
                zip(frames, _extents(rows_RPH), _extents(columns_RQW), strict=True)):
            window = feature_FHWC[frame, top:bottom, left:right].flatten(1)
            by_rows = torch.mm(rows_RPH[r, :, top:bottom], window).view(bins, -1, channels)
            torch.matmul(columns_RQW[r, :, left:right], by_rows, out=pooled[r])
    return pooled


def _shifted(weights_RPL: Tensor) -> Tensor:
    """Weights of an axis for a map shifted by -1, 0 and 1, with nothing beyond its border: (R, P * 3, L)."""
    length = weights_RPL.shape[-1]
    padded = F.pad(weights_RPL, (1, 1))
    return torch.stack([padded[..., 2 - tap: 2 - tap + length] for tap in range(3)], dim=2).flatten(1, 2)


def _extents(weights_RPL: Tensor) -> list[tuple[int, int]]:
    """The start and end on the axis of each region's weights, one pixel apart at least."""
    used_RL = (weights_RPL != 0).any(dim=1)
    # argmax finds the first; it does not take booleans.
    first_R, past_R = used_RL.byte().argmax(dim=1), used_RL.shape[1] - used_RL.flip(1).byte().argmax(dim=1)
    return list(zip(first_R.tolist(), past_R.where(used_RL.any(dim=1), 1).tolist(), strict=True))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
