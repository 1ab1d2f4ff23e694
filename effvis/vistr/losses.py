"""VisTR's instance-sequence matching and losses: tracklets against instances over a whole clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.data.targets import ClipPairBatch, ClipTargets, Counts, StackedTargets, counted, stack_targets
from effvis.model.boxes import at_least_fp32
from effvis.training.matching import FOCAL_ALPHA, FOCAL_GAMMA, Matches, find_matches, match
from effvis.vistr.config import VisTRConfig, VisTRLossWeights
from effvis.vistr.model import VisTR, VisTROutput, resize_masks

# The authors' code adds this to the areas of boxes, as shares of the frame.
AREA_EPSILON = 1e-6


@torch.no_grad()
def matching_costs(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, targets: StackedTargets, size_4: Tensor, absent_row: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The three unweighted costs of giving each tracklet to each instance, each (..., B, N, instances): minus the probability
    of the true class, the L1 distance of the boxes and minus their IoU. They are means over all frames of the clip.

    Where an instance is absent, its class is that of absence (no-object, if the network has no such row) and its box is zero.

    Args:
        logits_BNTK: class logits of B clips, no-object last; several layers add dimensions before B, as for the boxes.
        size_4: (width, height, width, height) of the input.
    """
    own, true = (boxes / size_4 for boxes in (boxes_BNT4.unsqueeze(-2), targets.boxes_BKT4.transpose(1, 2).unsqueeze(1)))
    probability = logits_BNTK.softmax(dim=-1)
    absent = 0 if absent_row else logits_BNTK.shape[-1] - 1
    label_BKT = torch.where(targets.present_BKT, targets.labels_BK[..., None] + int(absent_row), absent)
    label = label_BKT.transpose(1, 2).unsqueeze(1).expand(*own.shape[:-2], -1)
    category = -probability.gather(-1, label)
    l1 = centre_size_distance(own, true).mean(dim=-1)
    iou, _, _ = _overlap(own, true)
    return category.mean(dim=-2), l1.mean(dim=-2), -iou.mean(dim=-2)


def matching_cost(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, targets: StackedTargets, size_4: Tensor, weights: VisTRLossWeights,
    absent_row: bool = False,
) -> Tensor:
    """The weighted sum of ``matching_costs``: (..., B, N, instances)."""
    category, l1, iou = matching_costs(logits_BNTK, boxes_BNT4, targets, size_4, absent_row)
    return weights.category * category + weights.l1 * l1 + weights.giou * iou


def centre_size_distance(own_4: Tensor, true_4: Tensor) -> Tensor:
    """The absolute differences of xyxy boxes (..., 4) in centre x, centre y, width and height."""
    first, last = (own_4 - true_4).split(2, dim=-1)
    return torch.cat(((first + last) / 2, last - first), dim=-1).abs()


def giou_loss(own_4: Tensor, true_4: Tensor) -> Tensor:
    """1 - GIoU of xyxy boxes (..., 4) as shares of the frame."""
    iou, union, hull = _overlap(own_4, true_4)
    return 1 - (iou - (hull - union + AREA_EPSILON) / (hull + AREA_EPSILON))


def _overlap(own_4: Tensor, true_4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU, union and the area of the smallest box around both."""
    def area(first: Tensor, last: Tensor) -> Tensor:
        return (last - first).clamp(min=0).prod(dim=-1)

    (own_first, own_last), (true_first, true_last) = own_4.split(2, dim=-1), true_4.split(2, dim=-1)
    shared = area(torch.maximum(own_first, true_first), torch.minimum(own_last, true_last))
    union = area(own_first, own_last) + area(true_first, true_last) - shared
    hull = area(torch.minimum(own_first, true_first), torch.maximum(own_last, true_last))
    return (shared + AREA_EPSILON) / (union + AREA_EPSILON), union, hull


@dataclass(frozen=True)
class Normalisers:
    """What losses are divided by. The targets alone give it, so it is known before the forward pass.

    Attributes:
        pairs: all (instance, frame) pairs, absent ones included, at least one.
        class_weight: the sum of the weights of all queries in the class loss of a layer.
    """

    pairs: int
    class_weight: float


def normalisers(counts: Counts, config: VisTRConfig, weights: VisTRLossWeights) -> Normalisers:
    """Normalisers of a batch."""
    queries = counts.clips * config.queries * config.clip_length
    # More instances than queries cannot all be matched.
    present = min(counts.present, queries)
    return Normalisers(max(counts.pairs, 1), present + weights.no_object * (queries - present))


def clip_losses(
    model: VisTR, frames_BTCHW: Tensor, targets: Sequence[ClipTargets], weights: VisTRLossWeights,
    counts: Counts | None = None,
) -> dict[str, Tensor]:
    """Weighted losses of B clips, each a scalar: class and box summed over the decoder layers, masks of the last layer.

    Every layer is matched anew. The class loss is the mean over tracklets and frames, weighted by class; the others are
    summed where the instance is present, and divided by the number of all (instance, frame) pairs, at least one. Where there
    are more instances than queries, those that fit worst have no tracklet. Without any instance the box and mask losses are
    zeros that still reach every parameter.

    Args:
        counts: what the whole batch holds, where the clips are a part of it.
    """
    divisors = normalisers(counts or counted([targets]), model.config, weights)
    clips_of: dict[tuple[int, int], list[int]] = {}
    for b, clip in enumerate(targets):
        clips_of.setdefault(clip.size, []).append(b)
    if len(clips_of) == 1:
        return _of_one_size(model, frames_BTCHW, targets, weights, divisors)
    # Nothing is padded: clips of each size pass through the network by themselves.
    of_sizes = [
        _of_one_size(model, frames_BTCHW[clips, ..., :height, :width], [targets[b] for b in clips], weights, divisors)
        for (height, width), clips in clips_of.items()]
    return {name: torch.stack([losses[name] for losses in of_sizes]).sum() for name in of_sizes[0]}


def _of_one_size(
    model: VisTR, frames_BTCHW: Tensor, targets: Sequence[ClipTargets], weights: VisTRLossWeights, divisors: Normalisers
) -> dict[str, Tensor]:
    device = model.query_NTC.device
    output = model(frames_BTCHW.to(device))
    stacked = stack_targets(targets)
    truth = stacked.to(device)

    size = output.boxes_DBNT4.new_tensor([output.width, output.height] * 2)
    absent_row = model.config.absent_row
    cost_DBNK = matching_cost(output.logits_DBNTK, output.boxes_DBNT4, truth, size, weights, absent_row).float().cpu().numpy()
    assignment_DBK = np.full((*cost_DBNK.shape[:2], cost_DBNK.shape[-1]), -1)
    for layer, cost_BNK in enumerate(cost_DBNK):
        for b, clip in enumerate(targets):
            assignment_DBK[layer, b, : len(clip)] = match(cost_BNK[b, :, : len(clip)])
    matches = find_matches(assignment_DBK, stacked.present_BKT.numpy(), device)
    return (_class_and_box_losses(output, truth, matches, size, weights, divisors, int(absent_row))
            | _mask_losses(model, output, truth, matches, weights, divisors))


def pair_losses(
    model: VisTR, batch: ClipPairBatch, weights: VisTRLossWeights, counts: Counts | None = None
) -> dict[str, Tensor]:
    """Losses of B clip pairs; VisTR carries nothing from clip to clip, so they are 2B clips (or B, with one of each)."""
    return clip_losses(model, torch.cat(batch.frames), [clip for clips in batch.targets for clip in clips], weights, counts)


def _class_and_box_losses(
    output: VisTROutput, targets: StackedTargets, matches: Matches, size_4: Tensor, weights: VisTRLossWeights,
    divisors: Normalisers, first_category: int,
) -> dict[str, Tensor]:
    where_R = matches.stage_R, matches.clip_R, matches.tracklet_R, matches.frame_R
    no_object = output.logits_DBNTK.shape[-1] - 1
    labels = torch.full(output.logits_DBNTK.shape[:-1], no_object, device=size_4.device)
    labels[where_R] = targets.labels_BK[matches.clip_R, matches.instance_R] + first_category
    class_weight = at_least_fp32(output.logits_DBNTK).new_ones(no_object + 1)
    class_weight[no_object] = weights.no_object
    category = sum(
        F.cross_entropy(at_least_fp32(logits.flatten(0, 2)), truth.flatten(), class_weight, reduction="sum")
        for logits, truth in zip(output.logits_DBNTK, labels, strict=True)) / divisors.class_weight

    boxes_R4 = output.boxes_DBNT4[where_R]
    true_R4 = targets.boxes_BKT4[matches.clip_R, matches.instance_R, matches.frame_R]
    boxes_R4, true_R4 = boxes_R4 / size_4, true_R4 / size_4
    l1 = centre_size_distance(boxes_R4, true_R4).sum() / divisors.pairs
    giou = giou_loss(boxes_R4, true_R4).sum() / divisors.pairs
    return {"category": weights.category * category, "l1": weights.l1 * l1, "giou": weights.giou * giou}


def _mask_losses(
    model: VisTR, output: VisTROutput, targets: StackedTargets, matches: Matches, weights: VisTRLossWeights,
    divisors: Normalisers,
) -> dict[str, Tensor]:
    """Mask losses of the last layer, in the frames where the instance is present: other masks are not upsampled."""
    last = slice(len(matches.stage_R) - matches.rows_M[-1], None)
    instance_R = matches.clip_R[last], matches.instance_R[last], matches.frame_R[last]
    logits_R1HW = model.mask_logits(output, matches.select_MBK[-1])[instance_R].unsqueeze(1)
    logits_RHW = at_least_fp32(resize_masks(logits_R1HW, (output.height, output.width)).squeeze(1))
    truth_RHW = targets.masks_BKTHW[instance_R].to(logits_RHW.dtype)
    probability = logits_RHW.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits_RHW, truth_RHW, reduction="none")
    miss = probability * (1 - truth_RHW) + (1 - probability) * truth_RHW
    alpha = FOCAL_ALPHA * truth_RHW + (1 - FOCAL_ALPHA) * (1 - truth_RHW)
    focal_R = (alpha * miss**FOCAL_GAMMA * entropy).mean(dim=(-2, -1))
    overlap = (probability * truth_RHW).sum(dim=(-2, -1))
    dice_R = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + truth_RHW.sum(dim=(-2, -1)) + 1)
    return {"focal": weights.focal * focal_R.sum() / divisors.pairs,
            "dice": weights.dice * dice_R.sum() / divisors.pairs}
