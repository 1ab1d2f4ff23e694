"""The ground truth of clips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

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
        real_T: which frames are frames of the video, and not copies of its last one; None: all are.
    """

    track_ids_K: Tensor
    labels_K: Tensor
    present_KT: Tensor
    boxes_KT4: Tensor
    masks_KTHW: Tensor
    real_T: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_K)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the clip's frames, without what pads them to the other clips of a batch."""
        return tuple(self.masks_KTHW.shape[-2:])

    def real(self) -> Tensor:
        """Which of the T frames are frames of the video."""
        return self.present_KT.new_ones(self.present_KT.shape[1]) if self.real_T is None else self.real_T


def followed_by(before: ClipTargets, after: ClipTargets) -> ClipTargets:
    """The second clip's targets with the first clip's instances that are gone, behind its own: absent in every frame.

    A tracklet keeps its assignment from the first clip (Sec. 3.3), so these are to be learned as well.
    """
    gone_X = _gone(before, after)

    def extended(values: Tensor) -> Tensor:
        return torch.cat((values, values.new_zeros(len(gone_X), *values.shape[1:])))

    return ClipTargets(
        torch.cat((after.track_ids_K, before.track_ids_K[gone_X])), torch.cat((after.labels_K, before.labels_K[gone_X])),
        extended(after.present_KT), extended(after.boxes_KT4), extended(after.masks_KTHW), after.real_T)


def _gone(before: ClipTargets, after: ClipTargets) -> Tensor:
    """Which of the first clip's instances the second does not show."""
    return (~torch.isin(before.track_ids_K, after.track_ids_K)).nonzero()[:, 0]


@dataclass(frozen=True)
class StackedTargets:
    """The targets of B clips in one, each clip's instances padded to K with instances that are absent in every frame.

    Attributes:
        labels_BK, present_BKT, boxes_BKT4, masks_BKTHW, real_BT: as in ``ClipTargets``. K is at least one. Smaller masks are
            padded at the right and at the bottom, where they are empty.
    """

    labels_BK: Tensor
    present_BKT: Tensor
    boxes_BKT4: Tensor
    masks_BKTHW: Tensor
    real_BT: Tensor

    def to(self, device: torch.device | str) -> StackedTargets:
        return StackedTargets(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def select(self, clips: slice) -> StackedTargets:
        """The targets of some of the clips."""
        return StackedTargets(*(getattr(self, name)[clips] for name in self.__dataclass_fields__))


def stack_targets(targets: Sequence[ClipTargets]) -> StackedTargets:
    """Stacks the targets of clips that have the same length."""
    def stack(values: list[Tensor]) -> Tensor:
        padded = pad_sequence(values, batch_first=True)
        return padded if padded.shape[1] else padded.new_zeros(len(values), 1, *padded.shape[2:])

    return StackedTargets(
        stack([clip.labels_K for clip in targets]), stack([clip.present_KT for clip in targets]),
        stack([clip.boxes_KT4 for clip in targets]), _stack_masks([clip.masks_KTHW for clip in targets]),
        torch.stack([clip.real() for clip in targets]))


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
class Counts:
    """What a batch's targets hold. Losses are divided by it, so it is known before the forward pass.

    Attributes:
        clips: clips.
        pairs: (instance, frame) pairs of each clip's instances, frames without the instance included.
        entries: those of ``pairs`` in real frames.
        gone: (instance, real frame) pairs of second clips, of instances that only the first clip shows.
        present: pairs in which the instance is visible.
    """

    clips: int
    pairs: int
    entries: int
    gone: int
    present: int

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        return cls(*(sum(values) for values in zip(*(astuple(part) for part in parts), strict=True)))


def counted(targets: Sequence[Sequence[ClipTargets]]) -> Counts:
    """What the targets of first clips hold, and those of second ones, if there are any."""
    clips = [clip for clips in targets for clip in clips]
    return Counts(
        clips=len(clips), pairs=sum(clip.present_KT.numel() for clip in clips),
        entries=sum(len(clip) * int(clip.real().sum()) for clip in clips),
        gone=sum(len(_gone(*pair)) * int(pair[1].real().sum()) for pair in zip(*targets, strict=True) if len(pair) == 2),
        present=sum(int(clip.present_KT.sum()) for clip in clips))


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

    def counts(self) -> Counts:
        """What this batch, or this part of one, holds."""
        return counted(self.targets)
