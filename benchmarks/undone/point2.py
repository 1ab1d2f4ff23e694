"""Point 2, Eq. 4 undone: masks have no part in the matching, and the class costs what the cited code's focal cost says.

The paper has an IoU of masks, and minus the probability of the class, or of being absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from benchmarks.undone.replacing import replaced
from effvis.config import MatchingConfig
from effvis.data.targets import StackedTargets
from effvis.model.boxes import at_least_fp32, generalized_iou
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features
from effvis.training import correspondence
from effvis.training.losses import focal

WHAT = "the matching has no masks, and the focal class cost"
CLASS_WEIGHT = 2.0  # the cost had the weights of the losses; those of boxes are the same as Eq. 4's now


def patch() -> AbstractContextManager[None]:
    return replaced(correspondence, "clip_costs", _clip_costs)


@torch.no_grad()
def _clip_costs(
    model: EfficientVIS, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets, matching: MatchingConfig
) -> np.ndarray:
    """Called as ``effvis.training.correspondence.clip_costs``: (M, B, N, instances)."""
    logits = at_least_fp32(torch.stack([output.logits_BNTK for output in outputs]))
    boxes = at_least_fp32(torch.stack([output.boxes_BNT4 for output in outputs]))
    return cost(logits, boxes, targets, features.size_B4, matching).float().cpu().numpy()


def cost(
    logits_MBNTK: Tensor, boxes_MBNT4: Tensor, targets: StackedTargets, size_B4: Tensor, matching: MatchingConfig
) -> Tensor:
    """The cost of giving each tracklet to each instance (M, B, N, instances), summed over the clip's real frames.

    Where the instance is present: the focal loss of its class less that of any other, L1 and minus the GIoU of the boxes;
    where it is absent, the focal loss of any other class.
    """
    label = targets.labels_BK[:, None, None].expand(*logits_MBNTK.shape[:-1], -1)
    logit = logits_MBNTK.gather(-1, label)  # (M, B, N, T, instances)
    as_class, as_other = focal(logit, torch.ones_like(logit)), focal(logit, torch.zeros_like(logit))
    own, true = boxes_MBNT4.unsqueeze(-2), targets.boxes_BKT4.transpose(1, 2).unsqueeze(1)
    l1 = ((own - true) / size_B4[:, None, None, None]).abs().sum(dim=-1)
    present_cost = CLASS_WEIGHT * (as_class - as_other) + matching.l1 * l1 - matching.giou * generalized_iou(own, true)
    present = targets.present_BKT.transpose(1, 2).unsqueeze(1)
    frame_cost = torch.where(present, present_cost, CLASS_WEIGHT * as_other)
    return (frame_cost * targets.real_BT[:, None, :, None]).sum(dim=-2)
