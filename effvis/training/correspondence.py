"""Correspondence learning (Sec. 3.3): the second clip of a pair starts from what the first one knew."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from effvis.config import LossWeights
from effvis.model.efficientvis import BaseFeatures, ClipOutput, EfficientVIS
from effvis.training.losses import stage_losses
from effvis.training.matching import match, matching_cost
from effvis.training.targets import ClipPairBatch, ClipTargets


def pair_losses(
    model: EfficientVIS, batch: ClipPairBatch, weights: LossWeights, correspondence: bool
) -> dict[str, Tensor]:
    """Losses of B clip pairs, summed over the M interactions and averaged over the two clips (Eq. 5).

    With correspondence learning, the first clip's output queries are the second clip's initial ones, and an instance
    seen in both clips stays with its tracklet. Without, the two clips are two independent clips.
    """
    pairs = len(batch.videos)
    device = model.query_NTC.device
    features = model.features(torch.cat([frames.to(device) for frames in batch.frames]))
    targets = [clip.to(device) for clips in batch.targets for clip in clips]
    if not correspondence:
        outputs = model(features)
        assignments = [_match_clips(output, targets, features, weights) for output in outputs]
        return _sum_stages(model, features, outputs, targets, assignments, weights)

    first, second = features.select(slice(0, pairs)), features.select(slice(pairs, 2 * pairs))
    first_outputs = model(first)
    first_assignments = [_match_clips(output, targets[:pairs], first, weights) for output in first_outputs]
    second_outputs = model(second, first_outputs[-1].query_BNTC)
    known = [_carry(a, before, after) for a, before, after in
             zip(first_assignments[-1], targets[:pairs], targets[pairs:], strict=True)]
    second_assignments = [_match_clips(output, targets[pairs:], second, weights, known) for output in second_outputs]
    one = _sum_stages(model, first, first_outputs, targets[:pairs], first_assignments, weights)
    two = _sum_stages(model, second, second_outputs, targets[pairs:], second_assignments, weights)
    return {name: (one[name] + two[name]) / 2 for name in one}


def _carry(assignment: np.ndarray, before: ClipTargets, after: ClipTargets) -> tuple[list[int], list[int]]:
    """Which tracklet each instance of the second clip belongs to (-1: new), and which tracklets are not for new ones.

    A tracklet whose instance has left the view is background in the second clip: it keeps its identity.
    """
    owner = dict(zip(before.track_ids_K.tolist(), assignment.tolist(), strict=True))
    fixed = [owner.get(track, -1) for track in after.track_ids_K.tolist()]
    return fixed, [tracklet for tracklet in owner.values() if tracklet >= 0]


def _match_clips(
    output: ClipOutput,
    targets: Sequence[ClipTargets],
    features: BaseFeatures,
    weights: LossWeights,
    known: Sequence[tuple[list[int], list[int]]] | None = None,
) -> list[np.ndarray]:
    """The assignment of each clip, made anew for every interaction."""
    size = output.boxes_BNT4.new_tensor([features.width, features.height] * 2)
    assignments = []
    for b, clip in enumerate(targets):
        cost = matching_cost(output.logits_BNTK[b], output.boxes_BNT4[b], clip, size, weights)
        fixed, blocked = known[b] if known is not None else (None, ())
        assignments.append(match(cost, fixed, blocked))
    return assignments


def _sum_stages(model, features, outputs, targets, assignments, weights) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for output, assignment in zip(outputs, assignments, strict=True):
        for name, value in stage_losses(model, features, output, targets, assignment, weights).items():
            total[name] = total[name] + value if name in total else value
    return total
