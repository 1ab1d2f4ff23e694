"""The losses of MaskTrack R-CNN on pairs of frames: the first is segmented, the second is where its objects were seen before.
A still picture has no second frame: it is learned as by Mask R-CNN.

Each loss is a mean over a frame, as on the authors' GPUs with one frame each, and then over the frames of the whole batch.

Dimensions in names: F pairs, A anchors, N sampled regions of a frame (positive ones first), R positive regions of all frames,
K true objects, S side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from effvis.data.targets import ClipPairBatch, ClipTargets, Counts
from effvis.masktrack_rcnn.anchors import IGNORED, assign, sample
from effvis.masktrack_rcnn.boxes import BOX_WEIGHTS, PROPOSAL_WEIGHTS, encode
from effvis.masktrack_rcnn.config import MaskTrackTrainConfig
from effvis.masktrack_rcnn.model import Anchored, FrameFeatures, MaskTrackRCNN, Proposals
from effvis.model.boxes import area, at_least_fp32
from effvis.model.roi_align import pool, pooling_weights
from effvis.tracking.head import identity_logits, identity_targets, tracking_loss

# The IoU of a positive anchor, of a negative one, and the least of an object's best anchor; those of regions are all the same.
ANCHOR_IOU = {"positive": 0.7, "negative": 0.3, "least": 0.3}
REGION_IOU = {"positive": 0.5, "negative": 0.5, "least": 0.5}
POSITIVE_ANCHORS, POSITIVE_REGIONS = 0.5, 0.25
# Where the smooth L1 loss of boxes turns from a square into a line: of proposals, and of detections.
PROPOSAL_BETA, BOX_BETA = 1 / 9, 1.0


@dataclass(frozen=True)
class Objects:
    """The K objects of a frame: identities, classes, boxes (K, 4), and masks (K, H, W) bool at input size."""

    ids_K: Tensor
    labels_K: Tensor
    boxes_K4: Tensor
    masks_KHW: Tensor

    @classmethod
    def of(cls, clip: ClipTargets, device: torch.device) -> Objects:
        """The objects of a clip of one frame; a box without an area can be no region, and is left out."""
        seen = clip.present_KT[:, 0] & (area(clip.boxes_KT4[:, 0]) > 0)
        parts = clip.track_ids_K, clip.labels_K, clip.boxes_KT4[:, 0], clip.masks_KTHW[:, 0]
        return cls(*(part[seen].to(device) for part in parts))


@dataclass(frozen=True)
class Sampled:
    """N regions of each frame.

    Attributes:
        boxes_FN4: the regions.
        objects_FN: the object that each learns, ``anchors.BACKGROUND``, or ``IGNORED`` where a frame has fewer regions.
    """

    boxes_FN4: Tensor
    objects_FN: Tensor


def pair_losses(
    model: MaskTrackRCNN, batch: ClipPairBatch, train: MaskTrackTrainConfig, counts: Counts | None = None
) -> dict[str, Tensor]:
    """Weighted losses of B pairs of frames or of B pictures, each a scalar. Without an object, and the tracking of pictures,
    they are zeros that still reach every parameter.

    Args:
        counts: what the whole batch holds, where the pairs are a part of it.
    """
    pairs = (counts or batch.counts()).clips // len(batch.frames)
    places_of: dict[tuple[int, int], list[int]] = {}
    for place, clip in enumerate(batch.targets[0]):
        places_of.setdefault(clip.size, []).append(place)
    # Nothing is padded: pairs of each size pass through the network by themselves.
    of_sizes = [
        _of_one_size(model, [frames[places, 0, :, :height, :width] for frames in batch.frames],
                     [[clips[place] for place in places] for clips in batch.targets], train)
        for (height, width), places in places_of.items()]
    return {name: getattr(train.loss, name) * torch.stack([losses[name] for losses in of_sizes]).sum() / pairs
            for name in of_sizes[0]}


def _of_one_size(
    model: MaskTrackRCNN, frames: Sequence[Tensor], targets: Sequence[Sequence[ClipTargets]], train: MaskTrackTrainConfig
) -> dict[str, Tensor]:
    """The losses of F pairs of frames of one size, summed over the pairs.

    Args:
        frames: key frames and, unless they are pictures, reference frames, each (F, 3, H, W).
    """
    device = model.pixel_mean.device
    both = model.features(torch.cat(tuple(frames)).to(device))
    key, *references = (FrameFeatures(list(levels), both.size)
                        for levels in zip(*(level.chunk(len(frames)) for level in both.pyramid), strict=True))
    objects, *before = ([Objects.of(clip, device) for clip in clips] for clips in targets)
    anchored = model.anchored(key)
    losses = proposal_losses(anchored, objects, train.anchor_samples)
    sampled = sample_regions(model.propose(anchored, key.size), objects, train.region_samples)
    regions_FNCPP = model.regions(key, sampled.boxes_FN4, model.config.roi_size)
    # At least one, so that a frame without objects reaches the heads.
    positives = max(1, int((sampled.objects_FN >= 0).sum(dim=1).max()))
    embedding_FND = model.embeddings(regions_FNCPP[:, :positives])
    tracking = (_tracking_loss(model, embedding_FND, sampled, references[0], objects, before[0]) if references
                else 0 * embedding_FND.sum())
    return (losses | box_losses(*model.box_head(regions_FNCPP), sampled, objects)
            | {"mask": _mask_loss(model, key, sampled, objects, positives), "tracking": tracking})


def proposal_losses(anchored: Anchored, objects: Sequence[Objects], samples: int) -> dict[str, Tensor]:
    """Cross-entropy of sampled anchors, and smooth L1 of the positive ones' boxes, both over the number of sampled ones."""
    objectness, boxes = [], []
    for logits_A, deltas_A4, of_frame in zip(anchored.objectness_FA, anchored.deltas_FA4, objects, strict=True):
        assigned_A = assign(anchored.anchors_A4, of_frame.boxes_K4, **ANCHOR_IOU)
        chosen = sample(assigned_A, samples, POSITIVE_ANCHORS)
        shows = assigned_A[chosen] >= 0
        count = max(1, len(chosen))
        entropy = F.binary_cross_entropy_with_logits(logits_A[chosen], shows.to(logits_A.dtype), reduction="sum")
        objectness.append(entropy / count)
        positive = chosen[shows]
        wanted = encode(anchored.anchors_A4[positive], of_frame.boxes_K4[assigned_A[positive]], PROPOSAL_WEIGHTS)
        boxes.append(F.smooth_l1_loss(deltas_A4[positive], wanted, reduction="sum", beta=PROPOSAL_BETA) / count)
    return {"objectness": torch.stack(objectness).sum(), "proposal_box": torch.stack(boxes).sum()}


def sample_regions(proposals: Proposals, objects: Sequence[Objects], samples: int) -> Sampled:
    """Regions of each frame to learn from: some of its proposals and of its objects' own boxes."""
    boxes, learned = [], []
    for boxes_P4, real_P, of_frame in zip(proposals.boxes_FP4, proposals.real_FP, objects, strict=True):
        own_K, proposed_P4 = torch.arange(len(of_frame.boxes_K4), device=boxes_P4.device), boxes_P4[real_P]
        assigned = torch.cat((own_K, assign(proposed_P4, of_frame.boxes_K4, **REGION_IOU)))
        chosen = sample(assigned, samples, POSITIVE_REGIONS)
        boxes.append(torch.cat((of_frame.boxes_K4, proposed_P4))[chosen])
        learned.append(assigned[chosen])
    return Sampled(pad_sequence(boxes, batch_first=True), pad_sequence(learned, batch_first=True, padding_value=IGNORED))


def box_losses(logits_FNK: Tensor, deltas_FNK4: Tensor, sampled: Sampled, objects: Sequence[Objects]) -> dict[str, Tensor]:
    """Cross-entropy of the regions' classes, and smooth L1 of the positive ones' boxes, both over the number of regions."""
    category, boxes = [], []
    background = logits_FNK.shape[-1] - 1
    for f, of_frame in enumerate(objects):
        real_N, object_N = sampled.objects_FN[f] != IGNORED, sampled.objects_FN[f]
        positive_N = object_N >= 0
        label_N = torch.full_like(object_N, background)
        label_N[positive_N] = of_frame.labels_K[object_N[positive_N]]
        count = real_N.sum().clamp(min=1)
        category.append(F.cross_entropy(at_least_fp32(logits_FNK[f, real_N]), label_N[real_N], reduction="sum") / count)
        wanted = encode(sampled.boxes_FN4[f, positive_N], of_frame.boxes_K4[object_N[positive_N]], BOX_WEIGHTS)
        found = at_least_fp32(deltas_FNK4[f, positive_N, label_N[positive_N]])
        boxes.append(F.smooth_l1_loss(found, wanted, reduction="sum", beta=BOX_BETA) / count)
    return {"category": torch.stack(category).sum(), "box": torch.stack(boxes).sum()}


def _mask_loss(
    model: MaskTrackRCNN, key: FrameFeatures, sampled: Sampled, objects: Sequence[Objects], positives: int
) -> Tensor:
    """Cross-entropy of the masks of positive regions, each of its true class: a mean over a frame's regions."""
    object_FN = sampled.objects_FN[:, :positives]
    boxes_FN4, positive_FN = sampled.boxes_FN4[:, :positives], object_FN >= 0
    label_FN = torch.zeros_like(object_FN)
    for f, of_frame in enumerate(objects):
        label_FN[f, positive_FN[f]] = of_frame.labels_K[object_FN[f, positive_FN[f]]]
    logits_FNSS = at_least_fp32(model.mask_logits(key, boxes_FN4, label_FN))
    wanted_FNSS = torch.zeros_like(logits_FNSS)
    for f, of_frame in enumerate(objects):
        masks_RHW = of_frame.masks_KHW[object_FN[f, positive_FN[f]]]
        wanted_FNSS[f, positive_FN[f]] = mask_targets(masks_RHW, boxes_FN4[f, positive_FN[f]], logits_FNSS.shape[-1])
    entropy_FN = F.binary_cross_entropy_with_logits(logits_FNSS, wanted_FNSS, reduction="none").mean(dim=(-2, -1))
    return ((entropy_FN * positive_FN).sum(dim=1) / positive_FN.sum(dim=1).clamp(min=1)).sum()


def mask_targets(masks_RHW: Tensor, boxes_R4: Tensor, side: int) -> Tensor:
    """What masks bool show inside boxes: (R, side, side) of 0 and 1, a cell is 1 if at least half of it is."""
    rows_RSH, columns_RSW = pooling_weights(boxes_R4, masks_RHW.shape[-2:], (side, side), 1.0, 0, True)
    shares = pool(masks_RHW[:, None].to(boxes_R4.dtype), rows_RSH[:, None], columns_RSW[:, None])[:, 0, ..., 0]
    return (shares >= 0.5).to(boxes_R4.dtype)


def _tracking_loss(
    model: MaskTrackRCNN, embedding_FND: Tensor, sampled: Sampled, reference: FrameFeatures, objects: Sequence[Objects],
    before: Sequence[Objects],
) -> Tensor:
    """Of positive regions of the key frame, by their embeddings, matched with the true objects of the reference frame."""
    object_FN = sampled.objects_FN[:, : embedding_FND.shape[1]]
    boxes_FM4 = pad_sequence([of_frame.boxes_K4 for of_frame in before], batch_first=True)
    known_FMD = model.embeddings(model.regions(reference, boxes_FM4, model.config.roi_size))
    losses = []
    for f, (of_frame, known) in enumerate(zip(objects, before, strict=True)):
        positive_N = object_FN[f] >= 0
        logits = identity_logits(embedding_FND[f, positive_N], known_FMD[f, : len(known.ids_K)])
        targets = identity_targets(of_frame.ids_K[object_FN[f, positive_N]], known.ids_K)
        losses.append(tracking_loss(logits, targets))
    return torch.stack(losses).sum()
