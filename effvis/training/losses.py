"""The losses of all interactions (Eq. 5): focal class, box L1 and GIoU, mask dice and cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.config import LossWeights
from effvis.data.targets import StackedTargets
from effvis.model.boxes import at_least_fp32, generalized_iou
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features
from effvis.training.matching import FOCAL_ALPHA, FOCAL_GAMMA, Matches

# Keeps masks without a pixel from a division by zero. QueryInst's code adds 1e-3 to the sum of either mask's squares.
DICE_EPSILON = 2e-3


def interaction_losses(
    model: EfficientVIS,
    features: Features,
    outputs: Sequence[ClipOutput],
    targets: StackedTargets,
    matches: Matches,
    weights: LossWeights,
    entries: int,
) -> dict[str, Tensor]:
    """Weighted losses of B clips (Eq. 5), summed over the M interactions and divided by ``entries``, each a scalar.

    In every real frame of a matched tracklet its class is learned, background where the instance is absent, and the
    cross-entropy of its mask, whose target is zero there. Box and dice losses need the instance. A tracklet without an
    instance is background: only the focal loss counts it. With no instance at all the box and mask losses are zeros that still
    reach every parameter.

    Args:
        matches: of the instances' entries, absent frames included.
    """
    instance_R = matches.clip_R, matches.instance_R
    true_R = *instance_R, matches.frame_R
    present_R = targets.present_BKT[true_R]
    where_R = matches.stage_R, matches.clip_R, matches.tracklet_R, matches.frame_R
    where_X = tuple(index[present_R] for index in where_R)

    logits_MBNTK = at_least_fp32(torch.stack([output.logits_BNTK for output in outputs]))
    labels = torch.zeros_like(logits_MBNTK)
    labels[*where_X, targets.labels_BK[instance_R][present_R]] = 1
    focal_MBT = focal(logits_MBNTK, labels).sum(dim=(-3, -1))

    size_R4 = features.size_B4[matches.clip_R]
    boxes_R4 = at_least_fp32(torch.stack([output.boxes_BNT4 for output in outputs]))[where_R]
    boxes_X4, true_X4 = boxes_R4[present_R], targets.boxes_BKT4[true_R][present_R]
    l1_X = ((boxes_X4 - true_X4) / size_R4[present_R]).abs().sum(dim=-1)
    giou_X = 1 - generalized_iou(boxes_X4, true_X4)

    logits_RSS = _mask_logits(model, features, outputs, targets, matches)
    image_R = (matches.clip_R * targets.masks_BKTHW.shape[1] + matches.instance_R) * features.frames + matches.frame_R
    truth_RSS = crop_masks(targets.masks_BKTHW.flatten(0, 2), image_R, boxes_R4.detach(), logits_RSS.shape[-1], size_R4)
    dice_X = _dice(logits_RSS[present_R], truth_RSS[present_R])
    bce_R = F.binary_cross_entropy_with_logits(logits_RSS, truth_RSS, reduction="none").mean(dim=(-2, -1))
    return {
        "focal": weights.focal * (focal_MBT * targets.real_BT).sum() / entries,
        "l1": weights.l1 * l1_X.sum() / entries,
        "giou": weights.giou * giou_X.sum() / entries,
        "dice": weights.dice * dice_X.sum() / entries,
        "bce": weights.bce * bce_R.sum() / entries,
    }


def _mask_logits(
    model: EfficientVIS, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets, matches: Matches
) -> Tensor:
    """Mask logits (R, S, S) of the matched triples, of their class and inside the boxes of their own interaction."""
    place_R = matches.clip_R, matches.instance_R, matches.frame_R
    logits = []
    for output, select_BK, *place in zip(
            outputs, matches.select_MBK, *(of_R.split(matches.rows_M) for of_R in place_R), strict=True):
        # Eq. 3 looks at neighbouring frames, so that the masks of whole tracklets are made.
        logits.append(model.mask_logits(features, output, select_BK, targets.labels_BK)[tuple(place)])
    return at_least_fp32(torch.cat(logits))


@torch.no_grad()
def crop_masks(masks_IHW: Tensor, image_R: Tensor, boxes_R4: Tensor, side: int, size_R4: Tensor | None = None) -> Tensor:
    """Crops ground-truth masks to boxes: (R, side, side), one where a pixel's bilinear sample is at least one half, else zero.

    The result is that of RoIAlign with one sample per bin, but only the four mask pixels around each sample are read.

    Args:
        masks_IHW: boolean masks.
        image_R: which of the masks each box crops.
        boxes_R4: xyxy in mask pixels.
        size_R4: (width, height, width, height) of each mask without padding, where that is less than the whole mask.
    """
    height, width = masks_IHW.shape[-2:]
    if size_R4 is None:
        size_R4 = boxes_R4.new_tensor([[width, height] * 2])
    above, below, downward, in_rows = _samples(boxes_R4[:, 1], boxes_R4[:, 3], side, size_R4[:, 1:2])
    left, right, rightward, in_columns = _samples(boxes_R4[:, 0], boxes_R4[:, 2], side, size_R4[:, :1])
    pixels = masks_IHW.flatten()

    def row_of_samples(y_RS: Tensor) -> Tensor:
        row = ((image_R[:, None] * height + y_RS) * width)[:, :, None]
        here, next_ = (pixels[row + x_RS[:, None]].to(boxes_R4.dtype) for x_RS in (left, right))
        return here + rightward[:, None] * (next_ - here)

    upper, lower = row_of_samples(above), row_of_samples(below)
    inside = in_rows[:, :, None] & in_columns[:, None]
    return ((upper + downward[:, :, None] * (lower - upper) >= 0.5) & inside).to(boxes_R4.dtype)


def _samples(low_R: Tensor, high_R: Tensor, side: int, length_R1: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels before and after each sample (R, side) of an axis, how far it is between them, and whether it counts."""
    # Pixel centres are at whole numbers. Positions are computed in double precision, as in RoIAlign.
    low, extent = low_R.double() - 0.5, (high_R - low_R).double()
    step = (torch.arange(side, device=low_R.device, dtype=torch.float64) + 0.5) / side
    position = low[:, None] + step * extent[:, None]
    counts = (position >= -1.0) & (position <= length_R1)
    last_R1 = length_R1 - 1
    # Diverged training must stop at the loss with a clear message, not here.
    position = position.nan_to_num().clamp(min=0).minimum(last_R1).to(low_R.dtype)
    before = position.long()
    return before, (before + 1).minimum(last_R1.long()), position - before, counts


def focal(logits: Tensor, truth: Tensor) -> Tensor:
    """The focal loss of every entry (Lin et al., ICCV 2017)."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    miss = probability * (1 - truth) + (1 - probability) * truth
    alpha = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
    return alpha * miss**FOCAL_GAMMA * entropy


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    """The dice loss that the paper cites (V-Net: Milletari et al., 3DV 2016) of each mask (..., S, S): squares below."""
    probability = logits.sigmoid()
    overlap = (probability * truth).sum(dim=(-2, -1))
    squares = probability.square().sum(dim=(-2, -1)) + truth.square().sum(dim=(-2, -1))
    return 1 - 2 * overlap / (squares + DICE_EPSILON)
