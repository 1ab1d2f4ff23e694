"""VisTR's instance-sequence matching and losses: tracklets against instances over a whole clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.model.boxes import generalized_iou
from effvis.model.vistr import VisTR, VisTROutput, masks_at_input_size
from effvis.training.matching import FOCAL_ALPHA, FOCAL_GAMMA, match
from effvis.training.targets import ClipPairBatch, ClipTargets
from effvis.vistr_config import VisTRLossWeights


@torch.no_grad()
def matching_cost(
    logits_NTK: Tensor, boxes_NT4: Tensor, targets: ClipTargets, size_4: Tensor, weights: VisTRLossWeights
) -> Tensor:
    """Cost of giving each tracklet to each instance: (N, instances), summed over the frames of the clip.

    A frame adds minus the probability of its true class, which is no-object where the instance is absent; where it is
    present also the L1 distance of the boxes as shares of the frame and minus their GIoU.

    Args:
        logits_NTK: no-object last.
        size_4: (width, height, width, height) of the input.
    """
    probability = logits_NTK.softmax(dim=-1)
    present = targets.present_KT.T.to(probability.dtype)  # (T, instances)
    category = present * probability[..., targets.labels_K] + (1 - present) * probability[..., -1:]
    own, true = boxes_NT4.unsqueeze(2), targets.boxes_KT4.transpose(0, 1)  # (N, T, 1, 4), (T, instances, 4)
    l1 = ((own - true) / size_4).abs().sum(dim=-1)
    box = present * (weights.l1 * l1 - weights.giou * generalized_iou(own, true))
    return (box - weights.category * category).sum(dim=1)


def clip_losses(
    model: VisTR, frames_BTCHW: Tensor, targets: Sequence[ClipTargets], weights: VisTRLossWeights
) -> dict[str, Tensor]:
    """Weighted losses of B clips, each a scalar: class and box summed over the decoder layers, masks of the last layer.

    Every layer is matched anew. The class loss is the mean over tracklets and frames, weighted by class; the others are
    normalised by the number of matched (instance, frame) pairs where the instance is present, at least one. Of more
    instances than queries those that fit worst have no tracklet. Without any instance the box and mask losses are zeros
    that still touch every parameter.
    """
    device = model.query_NTC.device
    targets = [clip.to(device) for clip in targets]
    output = model(frames_BTCHW.to(device))
    size = output.boxes_DBNT4.new_tensor([output.width, output.height] * 2)
    total: dict[str, Tensor] = {}
    for logits, boxes in zip(output.logits_DBNTK, output.boxes_DBNT4, strict=True):
        pairs = _MatchedPairs(targets, [
            match(matching_cost(logits[b], boxes[b], clip, size, weights)) for b, clip in enumerate(targets)])
        for name, value in _layer_losses(logits, boxes, pairs, size, weights).items():
            total[name] = total[name] + value if name in total else value
    return total | _mask_losses(model, output, pairs, weights)


def pair_losses(model: VisTR, batch: ClipPairBatch, weights: VisTRLossWeights) -> dict[str, Tensor]:
    """Losses of B clip pairs; VisTR carries nothing from clip to clip, so that they are 2B clips (or B, with one of each)."""
    return clip_losses(model, torch.cat(batch.frames), [clip for clips in batch.targets for clip in clips], weights)


class _MatchedPairs:
    """The X matched (tracklet, instance) pairs of B clips, with the instances' ground truth stacked.

    Attributes:
        clip_X, tracklet_X: where the tracklet of each pair is.
        select_BK, slot_X: matched tracklets of each clip, padded with tracklet 0; pair x is at [clip_X[x], slot_X[x]].
        frames: present (pair, frame) combinations, at least one.
    """

    def __init__(self, targets: Sequence[ClipTargets], assignments: Sequence[np.ndarray]):
        matched = [np.flatnonzero(assignment >= 0) for assignment in assignments]
        device = targets[0].labels_K.device
        # At least one column, so that the mask heads take part in every step (and in every collective).
        select = np.zeros((len(targets), max([len(instances) for instances in matched] + [1])), dtype=np.int64)
        for b, instances in enumerate(matched):
            select[b, : len(instances)] = assignments[b][instances]
        self.select_BK = torch.from_numpy(select).to(device)
        self.clip_X = torch.from_numpy(np.repeat(np.arange(len(targets)), [len(m) for m in matched])).to(device)
        self.slot_X = torch.from_numpy(np.concatenate([np.arange(len(m)) for m in matched])).to(device)
        self.tracklet_X = self.select_BK[self.clip_X, self.slot_X]

        def stack(name: str) -> Tensor:
            return torch.cat([getattr(t, name)[torch.from_numpy(m).to(device)] for t, m in zip(targets, matched, strict=True)])

        self.labels_X, self.present_XT = stack("labels_K"), stack("present_KT")
        self.boxes_XT4, self.masks_XTHW = stack("boxes_KT4"), stack("masks_KTHW")
        self.frames = max(int(self.present_XT.sum()), 1)


def _layer_losses(
    logits_BNTK: Tensor, boxes_BNT4: Tensor, pairs: _MatchedPairs, size_4: Tensor, weights: VisTRLossWeights
) -> dict[str, Tensor]:
    no_object = logits_BNTK.shape[-1] - 1
    truth = torch.full(logits_BNTK.shape[:-1], no_object, dtype=torch.int64, device=logits_BNTK.device)
    truth[pairs.clip_X, pairs.tracklet_X] = torch.where(pairs.present_XT, pairs.labels_X[:, None], no_object)
    class_weight = torch.ones(no_object + 1, device=logits_BNTK.device)
    class_weight[no_object] = weights.no_object
    category = F.cross_entropy(logits_BNTK.flatten(0, 2).float(), truth.flatten(), class_weight)

    present = pairs.present_XT.to(boxes_BNT4.dtype)
    boxes = boxes_BNT4[pairs.clip_X, pairs.tracklet_X]
    l1 = ((boxes - pairs.boxes_XT4) / size_4).abs().sum(dim=-1)
    giou = 1 - generalized_iou(boxes, pairs.boxes_XT4)
    return {"category": weights.category * category,
            "l1": weights.l1 * (l1 * present).sum() / pairs.frames,
            "giou": weights.giou * (giou * present).sum() / pairs.frames}


def _mask_losses(
    model: VisTR, output: VisTROutput, pairs: _MatchedPairs, weights: VisTRLossWeights
) -> dict[str, Tensor]:
    logits = model.mask_logits(output, pairs.select_BK)[pairs.clip_X, pairs.slot_X]
    logits = masks_at_input_size(logits, output.height, output.width, model.mask_stride).float()
    truth = pairs.masks_XTHW.to(logits.dtype)
    present = pairs.present_XT.to(logits.dtype)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    miss = probability * (1 - truth) + (1 - probability) * truth
    alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    focal = (alpha * miss**FOCAL_GAMMA * entropy).mean(dim=(-2, -1))
    overlap = (probability * truth).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)
    return {"focal": weights.focal * (focal * present).sum() / pairs.frames,
            "dice": weights.dice * (dice * present).sum() / pairs.frames}
