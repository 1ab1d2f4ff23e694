"""Correspondence learning (Sec. 3.3): the second clip of a pair starts from the output queries of the first one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from effvis.config import LossWeights
from effvis.data.targets import ClipPairBatch, ClipTargets, stack_targets
from effvis.model.efficientvis import EfficientVIS, Features
from effvis.training.losses import Predictions, interaction_losses, stack_outputs
from effvis.training.matching import Whole, find_matches, itself, match, matching_cost


def pair_losses(
    model: EfficientVIS, batch: ClipPairBatch, weights: LossWeights, correspondence: bool, whole: Whole = itself
) -> dict[str, Tensor]:
    """Losses of B clip pairs, summed over the M interactions and averaged over the two clips (Eq. 5).

    With correspondence learning, the first clip's output queries are the second clip's initial ones, and an instance
    seen in both clips stays with its tracklet. Without it, the two clips are independent.

    Args:
        whole: needed where the pairs are a part of a batch; see ``find_matches``.
    """
    pairs = len(batch.videos)
    device = model.query_NTC.device
    clips = [clip for clips in batch.targets for clip in clips]
    # Joined in their memory layout, channels last: as decoded, and as the backbone takes them.
    frames = torch.cat([frames.to(device).movedim(2, -1) for frames in batch.frames]).movedim(-1, 2)
    features = model.features(frames, [clip.size for clip in clips])
    predictions = _predict(model, features, correspondence)
    stacked = stack_targets(clips)
    targets = stacked.to(device)

    size_4 = features.size_B4[:, None, None, None]  # before N, T and instances
    cost_MBNK = matching_cost(predictions.logits_MBNTK, predictions.boxes_MBNT4, targets, size_4, weights)
    assignment_MBK = _assign(cost_MBNK.float().cpu().numpy(), clips, pairs if correspondence else len(clips))
    groups = 2 if correspondence else 1
    matches = find_matches(assignment_MBK, stacked.present_BKT.numpy(), groups=groups, device=device, whole=whole)
    return interaction_losses(model, features, predictions, targets, matches, weights)


def _predict(model: EfficientVIS, features: Features, correspondence: bool) -> Predictions:
    """Predictions of all first clips, then of all second ones."""
    if not correspondence:
        return stack_outputs([model(features)])
    pairs = features.clips // 2
    first = model(features.select(slice(0, pairs)))
    second = model(features.select(slice(pairs, 2 * pairs)), first[-1].query_BNTC)
    return stack_outputs([first, second])


def _assign(cost_MBNK: np.ndarray, clips: Sequence[ClipTargets], first: int) -> np.ndarray:
    """The tracklet of each instance of each clip (M, B, K), assigned anew for every interaction; -1 for none.

    Args:
        cost_MBNK: matching costs of clips padded to K instances.
        first: number of clips that start without known tracklets. Each of the others follows the clip ``first`` places
            before it, and keeps what the last interaction found for that one.
    """
    assignment_MBK = np.full((*cost_MBNK.shape[:2], cost_MBNK.shape[-1]), -1)
    for b, clip in enumerate(clips):
        known = ()
        if b >= first:
            before = clips[b - first]
            known = _carry(assignment_MBK[-1, b - first, : len(before)], before, clip)
        for stage, cost_NK in enumerate(cost_MBNK[:, b]):
            assignment_MBK[stage, b, : len(clip)] = match(cost_NK[:, : len(clip)], *known)
    return assignment_MBK


def _carry(assignment: np.ndarray, before: ClipTargets, after: ClipTargets) -> tuple[list[int], list[int]]:
    """Which tracklet each instance of the second clip belongs to (-1: new), and which tracklets new ones may not take.

    A tracklet whose instance has left the view is background in the second clip: it keeps its identity.
    """
    owner = dict(zip(before.track_ids_K.tolist(), assignment.tolist(), strict=True))
    fixed = [owner.get(track, -1) for track in after.track_ids_K.tolist()]
    return fixed, [tracklet for tracklet in owner.values() if tracklet >= 0]
