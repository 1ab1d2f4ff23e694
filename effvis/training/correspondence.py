"""Correspondence learning (Sec. 3.3): the second clip of a pair starts from the output queries of the first one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from effvis.config import LossWeights, MatchingConfig
from effvis.data.targets import ClipPairBatch, ClipTargets, Counts, followed_by, stack_targets
from effvis.model.boxes import at_least_fp32
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features, join_outputs
from effvis.training.losses import interaction_losses
from effvis.training.matching import find_matches, mask_ious, match, matching_cost

PAPERS_MATCHING = MatchingConfig()


def pair_losses(
    model: EfficientVIS, batch: ClipPairBatch, weights: LossWeights, correspondence: bool,
    matching: MatchingConfig = PAPERS_MATCHING, counts: Counts | None = None,
) -> dict[str, Tensor]:
    """Losses of B clip pairs, summed over the M interactions and divided by the number of entries of both clips (Eq. 5).

    With correspondence learning, the first clip's output queries are the second clip's initial ones, and the assignment of
    the first clip holds for the second one too: to instances that are gone there as well. The paper leaves open what happens
    to instances that only the second clip shows; they are matched among the tracklets that are free. Without correspondence
    learning, the two clips are independent.

    Entries are what Eq. 5 sums over: the (instance, frame) pairs of the instances that are assigned, in real frames,
    whether the instance is visible there or not.

    Args:
        counts: what the whole batch holds, where the pairs are a part of it.
    """
    counts = counts or batch.counts()
    device = model.query_NTC.device
    clips = [clip for clips in batch.targets for clip in clips]
    first = len(clips)
    if correspondence and len(batch.targets) == 2:
        first = len(batch.videos)
        clips[first:] = [followed_by(*pair) for pair in zip(*batch.targets, strict=True)]
    # Joined in their memory layout, channels last: as decoded, and as the backbone takes them.
    frames = torch.cat([frames.to(device).movedim(2, -1) for frames in batch.frames]).movedim(-1, 2)
    features = model.features(frames, [clip.size for clip in clips])
    outputs = _outputs(model, features, first)
    stacked = stack_targets(clips)
    targets = stacked.to(device)

    ious = torch.stack([mask_ious(model, features, output, targets) for output in outputs]) if matching.mask else None
    logits_MBNTK, boxes_MBNT4 = (
        at_least_fp32(torch.stack([getattr(output, name) for output in outputs])) for name in ("logits_BNTK", "boxes_BNT4"))
    cost_MBNK = matching_cost(logits_MBNTK, boxes_MBNT4, targets, features.size_B4, matching, ious)
    assignment_MBK = _assign(cost_MBNK.float().cpu().numpy(), clips, first)
    matches = find_matches(assignment_MBK, stacked.real_BT[:, None].numpy(), device)
    entries = max(counts.entries + (counts.gone if correspondence else 0), 1)
    return interaction_losses(model, features, outputs, targets, matches, weights, entries)


def _outputs(model: EfficientVIS, features: Features, first: int) -> list[ClipOutput]:
    """The outputs of ``first`` clips, and of those that follow them from their output queries."""
    if first == features.clips:
        return model(features)
    before = model(features.select(slice(0, first)))
    after = model(features.select(slice(first, features.clips)), before[-1].query_BNTC)
    return [join_outputs(pair) for pair in zip(before, after, strict=True)]


def _assign(cost_MBNK: np.ndarray, clips: Sequence[ClipTargets], first: int) -> np.ndarray:
    """The tracklet of each instance of each clip (M, B, K), assigned anew for every interaction; -1 for none.

    Args:
        cost_MBNK: matching costs of clips padded to K instances.
        first: number of clips that start without known tracklets. Each of the others follows the clip ``first`` places
            before it, and keeps what the last interaction found for that one.
    """
    assignment_MBK = np.full((*cost_MBNK.shape[:2], cost_MBNK.shape[-1]), -1)
    for b, clip in enumerate(clips):
        known = None
        if b >= first:
            before = clips[b - first]
            owner = dict(zip(before.track_ids_K.tolist(), assignment_MBK[-1, b - first].tolist(), strict=False))
            known = [owner.get(track, -1) for track in clip.track_ids_K.tolist()]
        for stage, cost_NK in enumerate(cost_MBNK[:, b]):
            assignment_MBK[stage, b, : len(clip)] = match(cost_NK[:, : len(clip)], known)
    return assignment_MBK
