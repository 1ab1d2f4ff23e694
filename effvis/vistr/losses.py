"""VisTR's instance-sequence matching and losses: tracklets against instances over a whole clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.data.targets import ClipPairBatch, ClipTargets, StackedTargets, stack_targets
from effvis.model.boxes import generalized_iou
from effvis.training.matching import FOCAL_ALPHA, FOCAL_GAMMA, Matches, Whole, find_matches, itself, match
from effvis.vistr.config import VisTRLossWeights
from effvis.vistr.model import VisTR, VisTROutput, masks_at_input_size


@torch.no_grad()
def matching_cost(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, targets: StackedTargets, size_4: Tensor, weights: VisTRLossWeights
) -> Tensor:
    """Cost of giving each tracklet to each instance: (..., B, N, instances), summed over the frames of the clip.

    A frame adds minus the probability of its true class, which is no-object where the instance is absent; where it is
    present, the frame also adds the L1 distance of the boxes as shares of the frame and minus their GIoU.

    Args:
        logits_BNTK: class logits of B clips, no-object last; several layers add dimensions before B, as for the boxes.
        size_4: (width, height, width, height) of the input.
    """
    own, true = boxes_BNT4.unsqueeze(-2), targets.boxes_BKT4.transpose(1, 2).unsqueeze(1)  # (B, N or 1, T, 1 or K, 4)
    probability = logits_BNTK.softmax(dim=-1)
    label = targets.labels_BK[:, None, None].expand(*own.shape[:-2], -1)
    present = targets.present_BKT.transpose(1, 2).unsqueeze(1).to(probability.dtype)
    category = present * probability.gather(-1, label) + (1 - present) * probability[..., -1:]
    l1 = ((own - true) / size_4).abs().sum(dim=-1)
    box = present * (weights.l1 * l1 - weights.giou * generalized_iou(own, true))
    return (box - weights.category * category).sum(dim=-2)


def clip_losses(
    model: VisTR, frames_BTCHW: Tensor, targets: Sequence[ClipTargets], weights: VisTRLossWeights, whole: Whole = itself
) -> dict[str, Tensor]:
    """Weighted losses of B clips, each a scalar: class and box summed over the decoder layers, masks of the last layer.

    Every layer is matched anew. The class loss is the mean over tracklets and frames, weighted by class; the others are
    normalised by the number of matched (instance, frame) pairs where the instance is present, at least one. Where
    there are more instances than queries, those that fit worst have no tracklet. Without any instance the box and mask
    losses are zeros that still reach every parameter.

    Args:
        whole: needed where the clips are a part of a batch; see ``find_matches``.
    """
    device = model.query_NTC.device
    output = model(frames_BTCHW.to(device))
    stacked = stack_targets(targets)
    truth = stacked.to(device)

    size = output.boxes_DBNT4.new_tensor([output.width, output.height] * 2)
    cost_DBNK = matching_cost(output.logits_DBNTK, output.boxes_DBNT4, truth, size, weights).float().cpu().numpy()
    assignment_DBK = np.full((*cost_DBNK.shape[:2], cost_DBNK.shape[-1]), -1)
    for layer, cost_BNK in enumerate(cost_DBNK):
        for b, clip in enumerate(targets):
            assignment_DBK[layer, b, : len(clip)] = match(cost_BNK[b, :, : len(clip)])
    matches = find_matches(assignment_DBK, stacked.present_BKT.numpy(), groups=1, device=device, whole=whole)
    return _class_and_box_losses(output, truth, matches, size, weights) | _mask_losses(model, output, truth, matches, weights)


def pair_losses(
    model: VisTR, batch: ClipPairBatch, weights: VisTRLossWeights, whole: Whole = itself
) -> dict[str, Tensor]:
    """Losses of B clip pairs; VisTR carries nothing from clip to clip, so they are 2B clips (or B, with one of each)."""
    return clip_losses(model, torch.cat(batch.frames), [clip for clips in batch.targets for clip in clips], weights, whole)


def _class_and_box_losses(
    output: VisTROutput, targets: StackedTargets, matches: Matches, size_4: Tensor, weights: VisTRLossWeights
) -> dict[str, Tensor]:
    where_R = matches.stage_R, matches.clip_R, matches.tracklet_R, matches.frame_R
    no_object = output.logits_DBNTK.shape[-1] - 1
    labels = torch.full(output.logits_DBNTK.shape[:-1], no_object, device=size_4.device)
    labels[where_R] = targets.labels_BK[matches.clip_R, matches.instance_R]
    class_weight = torch.ones(no_object + 1, device=size_4.device)
    class_weight[no_object] = weights.no_object
    queries = labels[0, 0].numel()

    def weight(triples: int, clips: int) -> float:
        return triples + weights.no_object * (clips * queries - triples)

    category = sum(
        F.cross_entropy(logits.flatten(0, 2).float(), truth.flatten(), class_weight)
        * (weight(triples, len(truth)) / weight(whole_triples, matches.whole_clips))
        for logits, truth, triples, whole_triples in zip(
            output.logits_DBNTK, labels, matches.rows_M, matches.whole_rows_M, strict=True))

    boxes_R4 = output.boxes_DBNT4[where_R]
    true_R4 = targets.boxes_BKT4[matches.clip_R, matches.instance_R, matches.frame_R]
    share_R = matches.share_MB[matches.stage_R, matches.clip_R]
    l1_R = ((boxes_R4 - true_R4) / size_4).abs().sum(dim=-1)
    giou_R = 1 - generalized_iou(boxes_R4, true_R4)
    return {"category": weights.category * category, "l1": weights.l1 * (l1_R * share_R).sum(),
            "giou": weights.giou * (giou_R * share_R).sum()}


def _mask_losses(
    model: VisTR, output: VisTROutput, targets: StackedTargets, matches: Matches, weights: VisTRLossWeights
) -> dict[str, Tensor]:
    """Mask losses of the last layer, in the frames where the instance is present: other masks are not upsampled."""
    last = slice(len(matches.stage_R) - matches.rows_M[-1], None)
    instance_R = matches.clip_R[last], matches.instance_R[last], matches.frame_R[last]
    logits_R1HW = model.mask_logits(output, matches.select_MBK[-1])[instance_R].unsqueeze(1)
    logits_RHW = masks_at_input_size(logits_R1HW, output.height, output.width, model.mask_stride).squeeze(1).float()
    truth_RHW = targets.masks_BKTHW[instance_R].to(logits_RHW.dtype)
    share_R = matches.share_MB[-1, instance_R[0]]
    probability = logits_RHW.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits_RHW, truth_RHW, reduction="none")
    miss = probability * (1 - truth_RHW) + (1 - probability) * truth_RHW
    alpha = FOCAL_ALPHA * truth_RHW + (1 - FOCAL_ALPHA) * (1 - truth_RHW)
    focal_R = (alpha * miss**FOCAL_GAMMA * entropy).mean(dim=(-2, -1))
    overlap = (probability * truth_RHW).sum(dim=(-2, -1))
    dice_R = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + truth_RHW.sum(dim=(-2, -1)) + 1)
    return {"focal": weights.focal * (focal_R * share_R).sum(), "dice": weights.dice * (dice_R * share_R).sum()}
