"""One-to-one assignment of tracklets to instances over a whole clip (Eq. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from effvis.config import MatchingConfig
from effvis.data.targets import StackedTargets
from effvis.model.boxes import at_least_fp32, generalized_iou
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features
from effvis.model.paste import paste_masks

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
# Masks are pasted into whole frames to be compared there: no more than this many pixels, or one frame's masks, are held.
PASTED_PIXELS_AT_ONCE = 2**24


@torch.no_grad()
def matching_cost(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, targets: StackedTargets, size_B4: Tensor, config: MatchingConfig,
    mask_iou_BNKT: Tensor | None = None,
) -> Tensor:
    """Cost of giving each tracklet to each instance (Eq. 4): (..., B, N, instances), summed over the clip's real frames.

    Where the instance is present, a frame adds the cost of its class, the L1 distance of the boxes as shares of the frame,
    1 - their GIoU, and 1 - the IoU of the masks; where it is absent, the cost of being absent.

    With sigmoid classes no output is the background's. The paper leaves open what its probability is then; here it is
    what the most probable class leaves.

    Args:
        logits_BNTK, boxes_BNT4: predictions of B clips; several interactions add dimensions before B.
        size_B4: (width, height, width, height) of each clip's frames.
        mask_iou_BNKT: as ``mask_ious`` gives it, with the same further dimensions; may be None where masks weigh nothing.
    """
    own, true = boxes_BNT4.unsqueeze(-2), targets.boxes_BKT4.transpose(1, 2).unsqueeze(1)  # (B, N or 1, T, 1 or K, 4)
    label = targets.labels_BK[:, None, None].expand(*own.shape[:-2], -1)
    class_cost, absent_cost = _class_costs(logits_BNTK, label, config.class_cost)  # (..., B, N, T, instances)
    l1 = ((own - true) / size_B4[:, None, None, None]).abs().sum(dim=-1)
    cost = config.category * class_cost + config.l1 * l1 + config.giou * (1 - generalized_iou(own, true))
    if config.mask:
        cost = cost + config.mask * (1 - mask_iou_BNKT.transpose(-1, -2))
    present = targets.present_BKT.transpose(1, 2).unsqueeze(1)
    cost = torch.where(present, cost, config.category * absent_cost)
    return (cost * targets.real_BT[:, None, :, None]).sum(dim=-2)


def _class_costs(logits_BNTK: Tensor, label: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """The costs of a class and of being absent."""
    if kind == "focal":
        positive, negative = _focal_terms(logits_BNTK.gather(-1, label))
        return positive - negative, negative
    probability = logits_BNTK.sigmoid()
    return -probability.gather(-1, label), probability.amax(dim=-1, keepdim=True) - 1


@torch.no_grad()
def mask_ious(model: EfficientVIS, features: Features, output: ClipOutput, targets: StackedTargets) -> Tensor:
    """IoU of each tracklet's mask with each instance's, in the frame at input size: (B, N, instances, T).

    A mask ends where the frame does, even where the batch is padded. What of an instance lies outside the predicted box counts in the union. Where both masks are empty it is 0.
    """
    clips, tracklets, frames = output.boxes_BNT4.shape[:3]
    instances = targets.labels_BK.shape[1]
    if model.config.mask_classes == "agnostic":
        return _ious_in_frame(model.mask_logits(features, output), output.boxes_BNT4, targets.masks_BKTHW, features.size_B4)
    # The mask depends on the class, so that each instance is compared with the mask of its own.
    found = output.boxes_BNT4.new_empty(clips, tracklets, instances, frames)
    for k in range(instances):
        label_BN = targets.labels_BK[:, k, None].expand(-1, tracklets)
        logits = model.mask_logits(features, output, label_BK=label_BN)
        truth_B1THW = targets.masks_BKTHW[:, k, None]
        found[:, :, k] = _ious_in_frame(logits, output.boxes_BNT4, truth_B1THW, features.size_B4)[:, :, 0]
    return found


def _ious_in_frame(logits_BNTSS: Tensor, boxes_BNT4: Tensor, masks_BKTHW: Tensor, size_B4: Tensor) -> Tensor:
    """IoU of pasted masks with true ones: (B, N, K, T)."""
    height, width = masks_BKTHW.shape[-2:]
    tracklets, frames, side = *logits_BNTSS.shape[1:3], logits_BNTSS.shape[-1]
    rows, columns = (torch.arange(length, device=size_B4.device) for length in (height, width))
    frame_BHW = (rows[:, None] < size_B4[:, 1, None, None]) & (columns < size_B4[:, 0, None, None])
    frame = frame_BHW.repeat_interleave(frames, dim=0)[:, None]
    inside = at_least_fp32(logits_BNTSS).sigmoid().transpose(1, 2).flatten(0, 1)  # (B * T, N, S, S), as all that follow
    boxes, true = boxes_BNT4.transpose(1, 2).flatten(0, 1), masks_BKTHW.transpose(1, 2).flatten(0, 1)
    found = []
    at_once = max(1, PASTED_PIXELS_AT_ONCE // (tracklets * height * width))
    for own, box, truth, shown in zip(*(x.split(at_once) for x in (inside, boxes, true, frame)), strict=True):
        pasted = paste_masks(own.reshape(-1, side, side), box.reshape(-1, 4), (height, width)) >= 0.5
        pasted = pasted.view(len(own), tracklets, height, width) & shown
        # Sums of ones are exact, whatever their order.
        own_pixels, true_pixels = pasted.flatten(2).float(), truth.flatten(2).float()
        overlap = own_pixels @ true_pixels.transpose(1, 2)
        union = own_pixels.sum(dim=-1)[:, :, None] + true_pixels.sum(dim=-1)[:, None] - overlap
        found.append(overlap / union.clamp(min=1))
    return torch.cat(found).unflatten(0, (len(masks_BKTHW), -1)).permute(0, 2, 3, 1).to(boxes_BNT4.dtype)


def match(cost: np.ndarray, fixed: Sequence[int] | None = None) -> np.ndarray:
    """The assignment of least total cost.

    Args:
        cost: costs (N, instances).
        fixed: per instance, the tracklet that it belongs to already, or -1 (correspondence learning).

    Returns:
        Each instance's tracklet, or -1: where there are more instances than free tracklets, those that fit worst get none.
    """
    tracklets, instances = cost.shape
    assignment = np.full(instances, -1, dtype=np.int64) if fixed is None else np.array(fixed, dtype=np.int64)
    taken = set(assignment[assignment >= 0].tolist())
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
    """The R matched (tracklet, instance, frame) triples of M stages, stage by stage.

    Attributes:
        select_MBK: the tracklet of each instance; tracklet 0 for an instance that has none.
        stage_R, clip_R, tracklet_R, instance_R, frame_R: where each triple is.
        rows_M: how many triples each stage has.
    """

    select_MBK: Tensor
    stage_R: Tensor
    clip_R: Tensor
    tracklet_R: Tensor
    instance_R: Tensor
    frame_R: Tensor
    rows_M: list[int]


def find_matches(assignment_MBK: np.ndarray, pairs_BKT: np.ndarray, device: torch.device) -> Matches:
    """The matched triples of an assignment.

    Args:
        assignment_MBK: per stage, clip and instance its tracklet or -1.
        pairs_BKT: the (instance, frame) pairs that are asked for; K may be one that stands for all.
    """
    matched_MBKT = (assignment_MBK >= 0)[..., None] & pairs_BKT
    stage_R, clip_R, instance_R, frame_R = np.nonzero(matched_MBKT)

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(device)

    return Matches(
        select_MBK=on_device(np.maximum(assignment_MBK, 0)), stage_R=on_device(stage_R), clip_R=on_device(clip_R),
        tracklet_R=on_device(assignment_MBK[stage_R, clip_R, instance_R]), instance_R=on_device(instance_R),
        frame_R=on_device(frame_R), rows_M=matched_MBKT.sum(axis=(1, 2, 3)).tolist())


def _focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    probability = logits.sigmoid()
    log_p, log_not_p = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
    positive = -FOCAL_ALPHA * (1 - probability) ** FOCAL_GAMMA * log_p
    negative = -(1 - FOCAL_ALPHA) * probability**FOCAL_GAMMA * log_not_p
    return positive, negative
