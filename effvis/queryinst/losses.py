"""The losses of a QueryInst with a tracking head: a key frame's, and that of knowing its objects again in a reference frame.

The head learns as MaskTrack R-CNN's does (Sec. 4.2): the key frame's objects are candidates, those of another frame of the
video are known. QueryInst's authors take a known object's region from its true box and filter it by the query that Hungarian
matching gives it, and only the key frame has the losses of detection (docs/queryinst.md).

Dimensions in names: B pairs of frames, M interactions, N proposals, K instances of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from effvis.data.targets import ClipPairBatch, ClipTargets, Counts, StackedTargets, stack_targets
from effvis.model.efficientvis import ClipOutput, Features
from effvis.model.heads import gather_tracklets
from effvis.queryinst.config import QueryInstTrainConfig
from effvis.queryinst.model import QueryInst, embeddings
from effvis.tracking.head import identity_logits, identity_targets, tracking_loss
from effvis.training.correspondence import assign, clip_costs
from effvis.training.losses import interaction_losses
from effvis.training.matching import find_matches


def pair_losses(
    model: QueryInst, batch: ClipPairBatch, train: QueryInstTrainConfig, counts: Counts | None = None
) -> dict[str, Tensor]:
    """Weighted losses of B pairs of a key frame and a reference frame, by name.

    Those of the key frames are EfficientVIS's without correspondence (Eq. 5), divided by half the instances of both frames:
    either frame may be the key, and ``Counts`` knows them together. ``tracking`` is a mean over the pairs.

    Args:
        counts: what the whole batch holds, where the pairs are a part of it.
    """
    counts = counts or batch.counts()
    device = model.query_NTC.device
    keys, references = batch.targets
    pairs = len(keys)
    # Joined in their memory layout, channels last: as decoded, and as the backbone takes them.
    frames = torch.cat([frames.to(device).movedim(2, -1) for frames in batch.frames]).movedim(-1, 2)
    features = model.features(frames, [frame.size for frame in (*keys, *references)])
    key_features, reference_features = features.select(slice(0, pairs)), features.select(slice(pairs, 2 * pairs))
    outputs = model(key_features)
    stacked = stack_targets(keys)
    targets = stacked.to(device)
    assignment_MBK = _assigned(model, key_features, outputs, targets, keys, train)
    matches = find_matches(assignment_MBK, stacked.real_BT[:, None].numpy(), device)
    losses = interaction_losses(model, key_features, outputs, targets, matches, train.loss, max(counts.entries / 2, 1))

    key_BKD = _embedded(model, key_features, outputs[-1], outputs[-1].boxes_BNT4, assignment_MBK[-1])
    known_BKD, known_BK = _known(model, reference_features, references, train)
    identity = torch.stack([
        _identity_loss(key_KD[: len(key)], key, assigned_K[: len(key)], other_KD[: len(reference)], reference,
                       other_K[: len(reference)])
        for key_KD, key, assigned_K, other_KD, reference, other_K in zip(
            key_BKD, keys, assignment_MBK[-1], known_BKD, references, known_BK, strict=True)])
    return losses | {"tracking": train.tracking_loss * identity.sum() / (counts.clips / 2)}


def _known(
    model: QueryInst, features: Features, references: Sequence[ClipTargets], train: QueryInstTrainConfig
) -> tuple[Tensor, np.ndarray]:
    """The embeddings (B, K, D) of the reference frames' instances, and the proposal of each (B, K), or -1.

    The frame is only looked at: its predictions have no gradient, the head and the features do.
    """
    targets = stack_targets(references).to(features.size_B4.device)
    with torch.no_grad():
        output = model(features)[-1]
        assigned_BK = _assigned(model, features, [output], targets, references, train)[0]
    return _embedded(model, features, output, targets.boxes_BKT4, assigned_BK, of_instances=True), assigned_BK


def _assigned(
    model: QueryInst, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets,
    frames: Sequence[ClipTargets], train: QueryInstTrainConfig,
) -> np.ndarray:
    """The proposal of each instance (M, B, K) after each of these interactions, or -1."""
    cost_MBNK = clip_costs(model, features, outputs, targets, train.matching)
    return assign(lambda part: cost_MBNK[:, part], [frame.track_ids_K.tolist() for frame in frames], len(frames), len(outputs))


def _embedded(
    model: QueryInst, features: Features, output: ClipOutput, boxes_BXT4: Tensor, assigned_BK: np.ndarray,
    of_instances: bool = False,
) -> Tensor:
    """The embedding (B, K, D) of each instance's proposal; without one it means nothing.

    Args:
        boxes_BXT4: of the proposals or, ``of_instances``, of the instances themselves.
    """
    chosen_BK = torch.from_numpy(assigned_BK.clip(min=0)).to(boxes_BXT4.device)
    boxes = boxes_BXT4 if of_instances else gather_tracklets(boxes_BXT4, chosen_BK)
    return embeddings(model, features, boxes, gather_tracklets(output.mask_query_BNTC, chosen_BK))


def _identity_loss(
    key_KD: Tensor, key: ClipTargets, key_assigned_K: np.ndarray, known_KD: Tensor, reference: ClipTargets,
    known_assigned_K: np.ndarray,
) -> Tensor:
    """Eq. 2 of MaskTrack R-CNN for one pair of frames. Instances without a proposal are left out."""
    seen_N, known_M = (torch.from_numpy(np.flatnonzero(assigned_K >= 0)) for assigned_K in (key_assigned_K, known_assigned_K))
    logits = identity_logits(key_KD[seen_N.to(key_KD.device)], known_KD[known_M.to(key_KD.device)])
    targets = identity_targets(key.track_ids_K[seen_N], reference.track_ids_K[known_M])
    return tracking_loss(logits, targets.to(logits.device))
