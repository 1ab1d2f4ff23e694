"""Correspondence learning (Sec. 3.3): the second clip of a pair starts from the output queries of the first one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from effvis.config import LossWeights, MatchingConfig
from effvis.data.targets import ClipPairBatch, Counts, StackedTargets, followed_by, stack_targets
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

    def cost_MBNK(part: slice) -> np.ndarray:
        of_part = [output.select(part) for output in outputs]
        return clip_costs(model, features.select(part), of_part, targets.select(part), matching)

    assignment_MBK = assign(cost_MBNK, [clip.track_ids_K.tolist() for clip in clips], first, len(outputs))
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


def clip_costs(
    model: EfficientVIS, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets, matching: MatchingConfig
) -> np.ndarray:
    """The matching costs of clips after each interaction: (M, B, N, instances)."""
    ious = torch.stack([mask_ious(model, features, output, targets) for output in outputs]) if matching.mask else None
    logits_MBNTK, boxes_MBNT4 = (
        at_least_fp32(torch.stack([getattr(output, name) for output in outputs])) for name in ("logits_BNTK", "boxes_BNT4"))
    return matching_cost(logits_MBNTK, boxes_MBNT4, targets, features.size_B4, matching, ious).float().cpu().numpy()


def assign(
    cost_MBNK: Callable[[slice], np.ndarray], tracks: Sequence[Sequence[int]], first: int, interactions: int
) -> np.ndarray:
    """The tracklet of each instance of each clip (M, B, K), assigned anew for every interaction; -1 for none.

    Args:
        cost_MBNK: gives the matching costs of some of the clips, padded to any number of instances. Not asked for second clips
            whose instances are all known from the first: there is nothing to choose.
        tracks: the identities of each clip's instances.
        first: number of clips that start without known tracklets. Each of the others follows the clip ``first`` places
            before it, and keeps what the last interaction found for that one.
        interactions: M.
    """
    assignment_MBK = np.full((interactions, len(tracks), max(1, *map(len, tracks))), -1)

    def settle(part: slice) -> None:
        for b, cost_MNK in zip(range(part.start, part.stop), cost_MBNK(part).swapaxes(0, 1), strict=True):
            known_MK = assignment_MBK[:, b, : len(tracks[b])]
            known_MK[:] = [match(cost_NK[:, : len(tracks[b])], known_K) for cost_NK, known_K in
                           zip(cost_MNK, known_MK, strict=True)]

    settle(slice(0, first))
    for b in range(first, len(tracks)):
        owner = dict(zip(tracks[b - first], assignment_MBK[-1, b - first].tolist(), strict=False))
        assignment_MBK[:, b, : len(tracks[b])] = [owner.get(track, -1) for track in tracks[b]]
    undecided = [b for b in range(first, len(tracks)) if (assignment_MBK[0, b, : len(tracks[b])] < 0).any()]
    for b in undecided:
        settle(slice(b, b + 1))
    return assignment_MBK
