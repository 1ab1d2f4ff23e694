"""The losses of one interaction (Eq. 5): focal class, box L1 and GIoU, mask dice and cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.config import LossWeights
from effvis.model.boxes import generalized_iou
from effvis.model.efficientvis import BaseFeatures, ClipOutput, EfficientVIS
from effvis.model.heads import gather_tracklets
from effvis.model.roi_align import pooling_weights
from effvis.training.matching import FOCAL_ALPHA, FOCAL_GAMMA
from effvis.training.targets import ClipTargets


def stage_losses(
    model: EfficientVIS,
    features: BaseFeatures,
    output: ClipOutput,
    targets: Sequence[ClipTargets],
    assignments: Sequence[np.ndarray],
    weights: LossWeights,
) -> dict[str, Tensor]:
    """Weighted losses of one interaction over B clips, each a scalar.

    All are normalised by the number of matched (instance, frame) pairs where the instance is present, at least one. A
    tracklet without an instance, and one whose instance is absent in a frame, is background there: the focal loss alone
    sees it. With no instance at all the box and mask losses are zeros that still touch every parameter.
    """
    batch = _MatchedTracklets(targets, assignments, output)
    frames = max(int(batch.present_XT.sum()), 1)
    losses = {"focal": weights.focal * _focal(output.logits_BNTK, batch) / frames}

    size = output.boxes_BNT4.new_tensor([features.width, features.height] * 2)
    present = batch.present_XT.to(size.dtype)
    boxes = gather_tracklets(output.boxes_BNT4, batch.select_BK)[batch.clip_X, batch.slot_X]
    l1 = ((boxes - batch.boxes_XT4) / size).abs().sum(dim=-1)
    losses["l1"] = weights.l1 * (l1 * present).sum() / frames
    losses["giou"] = weights.giou * ((1 - generalized_iou(boxes, batch.boxes_XT4)) * present).sum() / frames

    logits = model.mask_logits(features, output, batch.select_BK)[batch.clip_X, batch.slot_X]
    truth = crop_masks(batch.masks_XTHW, boxes.detach(), logits.shape[-1])
    losses["dice"] = weights.dice * (_dice(logits, truth) * present).sum() / frames
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(-2, -1))
    losses["bce"] = weights.bce * (bce * present).sum() / frames
    return losses


@torch.no_grad()
def crop_masks(masks_XTHW: Tensor, boxes_XT4: Tensor, side: int) -> Tensor:
    """Cuts ground-truth masks to boxes: (X, T, side, side) of zeros and ones, by RoIAlign and a threshold of one half."""
    height, width = masks_XTHW.shape[-2:]
    rows, columns = pooling_weights(boxes_XT4, (height, width), (side, side), 1.0, 1, True)
    return (rows @ masks_XTHW.to(rows.dtype) @ columns.transpose(-2, -1) >= 0.5).to(rows.dtype)


class _MatchedTracklets:
    """The X matched (tracklet, instance) pairs of a batch, with the instances' ground truth stacked.

    ``select_BK`` holds each clip's matched tracklets, padded with tracklet 0; pair x is at [clip_X[x], slot_X[x]] of it.
    """

    def __init__(self, targets: Sequence[ClipTargets], assignments: Sequence[np.ndarray], output: ClipOutput):
        device = output.logits_BNTK.device
        matched = [np.flatnonzero(assignment >= 0) for assignment in assignments]
        # At least one column, so that the mask head takes part in every step (and in every collective).
        width = max([len(instances) for instances in matched] + [1])
        select = np.zeros((len(targets), width), dtype=np.int64)
        for b, instances in enumerate(matched):
            select[b, : len(instances)] = assignments[b][instances]
        self.select_BK = torch.from_numpy(select).to(device)
        self.clip_X = torch.from_numpy(np.repeat(np.arange(len(targets)), [len(m) for m in matched])).to(device)
        self.slot_X = torch.from_numpy(np.concatenate([np.arange(len(m)) for m in matched])).to(device)

        def stack(name: str) -> Tensor:
            return torch.cat([getattr(t, name)[m] for t, m in zip(targets, matched, strict=True)]).to(device)

        self.tracklet_X = self.select_BK[self.clip_X, self.slot_X]
        self.labels_X, self.present_XT = stack("labels_K"), stack("present_KT")
        self.boxes_XT4, self.masks_XTHW = stack("boxes_KT4"), stack("masks_KTHW")


def _focal(logits_BNTK: Tensor, batch: _MatchedTracklets) -> Tensor:
    truth = torch.zeros_like(logits_BNTK)
    truth[batch.clip_X, batch.tracklet_X, :, batch.labels_X] = batch.present_XT.to(truth.dtype)
    probability = logits_BNTK.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits_BNTK, truth, reduction="none")
    miss = probability * (1 - truth) + (1 - probability) * truth
    alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    return (alpha * miss**FOCAL_GAMMA * entropy).sum()


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """One minus the dice coefficient of each mask (..., S, S), with 1 added above and below so that empty is defined."""
    probability = logits.sigmoid()
    overlap = (probability * truth).sum(dim=(-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)
