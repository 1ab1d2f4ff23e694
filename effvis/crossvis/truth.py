"""What is to be learned from pairs of frames, laid out as the losses read it.

Dimensions in names: F frames, the first frames of all pairs before the second ones; I instances of all frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.crossvis.locations import Locations, assign
from effvis.data.targets import ClipTargets
from effvis.errors import UserError


@dataclass(frozen=True)
class FrameTruth:
    """The I instances that F frames show, frame by frame.

    Attributes:
        frame_I: the frame of each.
        labels_I: category indices.
        boxes_I4: xyxy in input pixels.
        masks_IHW: float, at the stride at which masks are compared; over the padded frame.
        identity_I: row of each in the layer of identities; of pictures, nobody reads it.
        partner_I: the same instance in the pair's other frame, as a place in this list; -1 where that does not show it.
        instance_FP: which instance each location is to predict, as a place in this list; -1 for none.
    """

    frame_I: Tensor
    labels_I: Tensor
    boxes_I4: Tensor
    masks_IHW: Tensor
    identity_I: Tensor
    partner_I: Tensor
    instance_FP: Tensor


def frame_truth(
    targets: tuple[Sequence[ClipTargets], ...], locations: Locations, *, size: tuple[int, int],
    mask_stride: int, size_per_stride: float, identities: int | None,
) -> FrameTruth:
    """The truth of pairs of single frames, or of pictures, of one size.

    Args:
        targets: those of the first frames, and those of the second ones, if there are any.
        size: (height, width) of the padded frames.
        mask_stride: masks are compared at every so many pixels, at the middle of each cell.
        identities: how many the network knows; None where none is learned.

    Raises:
        UserError: the id of an instance is beyond the network's identities.
    """
    device = locations.xy_P2.device
    shown = [_shown(clip, device) for clips in targets for clip in clips]
    assigned, first = [], 0
    for frame in shown:
        instance_P = assign(locations, frame.boxes_KT4[:, 0], frame.masks_KTHW[:, 0], size_per_stride)
        assigned.append(torch.where(instance_P < 0, instance_P, instance_P + first))
        first += len(frame)
    counts = torch.tensor([len(frame) for frame in shown], device=device)
    frame_I = torch.arange(len(shown), device=device).repeat_interleave(counts)
    ids_I = torch.cat([frame.track_ids_K for frame in shown])
    return FrameTruth(
        frame_I, torch.cat([frame.labels_K for frame in shown]), torch.cat([frame.boxes_KT4[:, 0] for frame in shown]),
        torch.cat([_at_stride(frame.masks_KTHW[:, 0], size, mask_stride) for frame in shown]), _identities(ids_I, identities),
        _partners(frame_I, ids_I, pairs=len(targets[0])), torch.stack(assigned))


def _shown(clip: ClipTargets, device: torch.device) -> ClipTargets:
    """The instances that a clip of one frame shows."""
    present = clip.present_KT[:, 0]
    return ClipTargets(*(values[present].to(device) for values in (
        clip.track_ids_K, clip.labels_K, clip.present_KT, clip.boxes_KT4, clip.masks_KTHW)))


def _at_stride(masks_IHW: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    height, width = masks_IHW.shape[-2:]
    padded = F.pad(masks_IHW.float(), (0, size[1] - width, 0, size[0] - height))
    return padded[:, stride // 2:: stride, stride // 2:: stride]


def _identities(ids_I: Tensor, identities: int | None) -> Tensor:
    if identities is None:
        return ids_I
    wrong = ids_I[(ids_I < 1) | (ids_I > identities)]
    if len(wrong):
        raise UserError("params.yaml", "crossvis.model.identities", f"is {identities}, but the training split has an instance "
                        f"with the id {int(wrong[0])}", "Set it to the highest id of its annotations; ids count from 1")
    return ids_I - 1


def _partners(frame_I: Tensor, ids_I: Tensor, pairs: int) -> Tensor:
    if not len(ids_I):
        return ids_I
    other_I = (frame_I + pairs) % (2 * pairs)
    same_II = (frame_I == other_I[:, None]) & (ids_I == ids_I[:, None])
    return torch.where(same_II.any(dim=1), same_II.int().argmax(dim=1), -1)
