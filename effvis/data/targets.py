"""The ground truth of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class ClipTargets:
    """The K instances that are present in at least one of a clip's T frames.

    Attributes:
        track_ids_K: identities, the same in every clip of a video.
        labels_K: category indices.
        present_KT: whether the instance is visible in the frame.
        boxes_KT4: xyxy in input pixels; zeros where absent.
        masks_KTHW: bool at input size; empty where absent.
    """

    track_ids_K: Tensor
    labels_K: Tensor
    present_KT: Tensor
    boxes_KT4: Tensor
    masks_KTHW: Tensor

    def __len__(self) -> int:
        return len(self.labels_K)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the clip's frames, without what pads them to the other clips of a batch."""
        return tuple(self.masks_KTHW.shape[-2:])


@dataclass(frozen=True)
class StackedTargets:
    """The targets of B clips in one, each clip's instances padded to K with instances that are absent in every frame.

    Attributes:
        labels_BK, present_BKT, boxes_BKT4, masks_BKTHW: as in ``ClipTargets``. K is at least one. Smaller masks are padded at
            the right and at the bottom, where they are empty.
    """

    labels_BK: Tensor
    present_BKT: Tensor
    boxes_BKT4: Tensor
    masks_BKTHW: Tensor

    def to(self, device: torch.device | str) -> StackedTargets:
        return StackedTargets(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def stack_targets(targets: Sequence[ClipTargets]) -> StackedTargets:
    """Stacks the targets of clips that have the same length."""
    def stack(values: list[Tensor]) -> Tensor:
        padded = pad_sequence(values, batch_first=True)
        return padded if padded.shape[1] else padded.new_zeros(len(values), 1, *padded.shape[2:])

    return StackedTargets(
        stack([clip.labels_K for clip in targets]), stack([clip.present_KT for clip in targets]),
        stack([clip.boxes_KT4 for clip in targets]), _stack_masks([clip.masks_KTHW for clip in targets]))


def _stack_masks(masks: Sequence[Tensor]) -> Tensor:
    """Masks (K, T, H, W) of clips in one (B, K, T, H, W), empty where a clip has fewer instances or smaller frames."""
    height, width = largest([clip.shape[-2:] for clip in masks])
    stacked = masks[0].new_zeros(len(masks), max(1, *map(len, masks)), masks[0].shape[1], height, width)
    for into, clip in zip(stacked, masks, strict=True):
        into[: len(clip), :, : clip.shape[-2], : clip.shape[-1]] = clip
    return stacked


def largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The greatest height and the greatest width of some sizes."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


@dataclass(frozen=True)
class ClipPairBatch:
    """B pairs of clips, the two of a pair from one video, in the (random) order in which the network sees them.

    Where a second clip teaches nothing, it is left out, and there is one of each below instead of two.

    Attributes:
        frames: two tensors (B, T, 3, H, W) uint8. Frames of a clip that are smaller than others, as its targets' ``size`` says,
            lie at the top left; the rest is padding.
        targets: two lists of B ``ClipTargets``.
        videos: index of the video of each pair.
    """

    frames: tuple[Tensor, ...]
    targets: tuple[list[ClipTargets], ...]
    videos: list[int]
