"""One-to-one assignment of tracklets to instances over a whole clip (Eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from effvis.config import LossWeights
from effvis.data.targets import StackedTargets
from effvis.model.boxes import generalized_iou

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
# Turns counts of a part of a batch into those of the whole batch: to normalise losses, all parts must be counted.
Whole = Callable[[np.ndarray], np.ndarray]


def itself(counts: np.ndarray) -> np.ndarray:
    """The ``Whole`` of a batch that is not divided."""
    return counts


@torch.no_grad()
def matching_cost(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, targets: StackedTargets, size_4: Tensor, weights: LossWeights
) -> Tensor:
    """Cost of giving each tracklet to each instance: (..., B, N, instances), summed over the frames of the clip.

    Where the instance is present, a frame adds the focal class cost, the L1 distance of the boxes as shares of the frame
    and minus their GIoU; where it is absent, the cost of not being background.

    Args:
        logits_BNTK, boxes_BNT4: predictions of B clips; several interactions add dimensions before B.
        size_4: (width, height, width, height) of the input, for all clips or for each (B, 1, 1, 1, 4).
    """
    own, true = boxes_BNT4.unsqueeze(-2), targets.boxes_BKT4.transpose(1, 2).unsqueeze(1)  # (B, N or 1, T, 1 or K, 4)
    label = targets.labels_BK[:, None, None].expand(*own.shape[:-2], -1)
    positive, negative = _focal_terms(logits_BNTK.gather(-1, label))  # (..., B, N, T, instances)
    present = targets.present_BKT.transpose(1, 2).unsqueeze(1).to(positive.dtype)
    l1 = ((own - true) / size_4).abs().sum(dim=-1)
    present_cost = weights.focal * (positive - negative) + weights.l1 * l1 - weights.giou * generalized_iou(own, true)
    return (present * present_cost + (1 - present) * weights.focal * negative).sum(dim=-2)


def match(cost: np.ndarray, fixed: Sequence[int] | None = None, blocked: Sequence[int] = ()) -> np.ndarray:
    """The assignment of least total cost.

    Args:
        cost: costs (N, instances).
        fixed: per instance, the tracklet that it belongs to already, or -1 (correspondence learning).
        blocked: tracklets that may not be given to an instance that is not fixed.

    Returns:
        Each instance's tracklet, or -1: where there are more instances than free tracklets, those that fit worst get none.
    """
    tracklets, instances = cost.shape
    assignment = np.full(instances, -1, dtype=np.int64) if fixed is None else np.array(fixed, dtype=np.int64)
    taken = set(assignment[assignment >= 0].tolist()) | set(blocked)
    free = [n for n in range(tracklets) if n not in taken]
    unmatched = np.flatnonzero(assignment < 0)
    if free and len(unmatched):
        # Diverged training must stop at the loss with a clear message, not here.
        values = np.nan_to_num(np.asarray(cost), nan=1e6, posinf=1e6, neginf=-1e6)
        rows, columns = linear_sum_assignment(values[np.ix_(free, unmatched)])
        assignment[unmatched[columns]] = np.array(free)[rows]
    return assignment


@dataclass(frozen=True)
class Matches:
    """The R matched (tracklet, instance, frame) triples of M stages where the instance is present, stage by stage.

    Attributes:
        select_MBK: the tracklet of each instance; tracklet 0 for an instance that has none.
        stage_R, clip_R, tracklet_R, instance_R, frame_R: where each triple is.
        rows_M: how many triples each stage has.
        share_MB: factors by which the losses of each stage and clip are multiplied.
        whole_rows_M, whole_clips: numbers of triples of each stage, and of clips, in the whole batch of the B clips.
    """

    select_MBK: Tensor
    stage_R: Tensor
    clip_R: Tensor
    tracklet_R: Tensor
    instance_R: Tensor
    frame_R: Tensor
    rows_M: list[int]
    share_MB: Tensor
    whole_rows_M: list[int]
    whole_clips: int


def find_matches(
    assignment_MBK: np.ndarray, present_BKT: np.ndarray, groups: int, device: torch.device, whole: Whole = itself
) -> Matches:
    """The matched triples of an assignment.

    Args:
        assignment_MBK: per stage, clip and instance its tracklet or -1.
        groups: number of equal groups that the clips form, one after the other; the losses of a group are normalised by the
            number of its triples, at least one, and averaged over the groups.
        whole: called once with this part's counts. The losses of a batch's parts, each normalised by the triples of all,
            sum to the batch's.
    """
    matched_MBKT = (assignment_MBK >= 0)[..., None] & present_BKT
    stage_R, clip_R, instance_R, frame_R = np.nonzero(matched_MBKT)
    triples_MG = np.stack([part.sum(axis=(1, 2, 3)) for part in np.split(matched_MBKT, groups, axis=1)], axis=1)
    clips = matched_MBKT.shape[1]
    whole_MG, whole_clips = np.split(whole(np.insert(triples_MG, groups, clips, axis=1)), [groups], axis=1)
    share_MB = np.repeat(1 / (groups * np.maximum(whole_MG, 1)), clips // groups, axis=1)

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Matches(
        select_MBK=on_device(np.maximum(assignment_MBK, 0)), stage_R=on_device(stage_R), clip_R=on_device(clip_R),
        tracklet_R=on_device(assignment_MBK[stage_R, clip_R, instance_R]), instance_R=on_device(instance_R),
        frame_R=on_device(frame_R), rows_M=triples_MG.sum(axis=1).tolist(),
        share_MB=on_device(share_MB.astype(np.float32)), whole_rows_M=whole_MG.sum(axis=1).tolist(),
        whole_clips=int(whole_clips[0, 0]))


def _focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability = logits.sigmoid()
    log_p, log_not_p = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    positive = -FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * log_p
    negative = -(1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * log_not_p
    return positive, negative
