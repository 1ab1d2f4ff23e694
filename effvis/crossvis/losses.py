"""The losses of CrossVIS: FCOS's three, CondInst's masks, crossover, and embeddings that are balanced over all instances.
A still picture has no partner, and is learned as by CondInst.

Each frame's losses are divided by the frame's own numbers, and each pair's by the pair's, as if every pair were on a GPU of its
own: the mean over pairs is then the same in whatever parts a batch is computed.

Dimensions in names: F frames, the first frames of all pairs before the second ones; P locations; R (frame, location) rows at
which an instance is to be predicted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.crossvis.config import CrossVISLossWeights
from effvis.crossvis.dynamic_masks import UPSAMPLING
from effvis.crossvis.locations import reach_to
from effvis.crossvis.model import CrossVIS, FrameOutput
from effvis.crossvis.truth import FrameTruth, frame_truth
from effvis.data.targets import ClipPairBatch, ClipTargets, Counts
from effvis.model.boxes import at_least_fp32
from effvis.training.losses import focal

DICE_EPSILON = 1e-5


def pair_losses(
    model: CrossVIS, batch: ClipPairBatch, weights: CrossVISLossWeights, counts: Counts | None = None
) -> dict[str, Tensor]:
    """Weighted losses of pairs of single frames or of pictures, each a scalar: means over pairs or pictures.

    Args:
        counts: what the whole batch holds, where the pairs are a part of it.

    Raises:
        UserError: the id of an instance is beyond the network's identities.
    """
    pairs_of: dict[tuple[int, int], list[int]] = {}
    for b, clip in enumerate(batch.targets[0]):
        pairs_of.setdefault(clip.size, []).append(b)
    sums: dict[str, Tensor | float] = {}
    for (height, width), pairs in pairs_of.items():
        # Nothing is padded to another pair: pairs of each size pass through the network by themselves.
        frames_FCHW = torch.cat([frames[pairs, 0, :, :height, :width] for frames in batch.frames])
        targets = tuple([clips[b] for b in pairs] for clips in batch.targets)
        for name, loss_F in frame_losses(model, frames_FCHW, targets).items():
            sums[name] = sums.get(name, 0.0) + loss_F.sum()
    frames = (counts or batch.counts()).clips
    return {name: getattr(weights, name) * total / frames for name, total in sums.items()}


def frame_losses(
    model: CrossVIS, frames_FCHW: Tensor, targets: tuple[list[ClipTargets], ...]
) -> dict[str, Tensor]:
    """The unweighted losses (F,) of each frame of pairs, or of each picture, of one size.

    For those that need a pair, a picture has zeros, which still reach every parameter.
    """
    output = model(frames_FCHW.to(model.device))
    height, width = (side * model.mask_stride for side in output.mask_features_FMHW.shape[-2:])
    truth = frame_truth(
        targets, output.locations, size=(height, width), mask_stride=model.mask_stride // UPSAMPLING,
        size_per_stride=model.config.size_per_stride, identities=model.config.identities if len(targets) > 1 else None)
    frame_R, place_R = (truth.instance_FP >= 0).nonzero(as_tuple=True)
    instance_R = truth.instance_FP[frame_R, place_R]
    filters_RQ = output.filters_FPQ[frame_R, place_R]
    alone = {
        **_detection_losses(output, truth, frame_R, place_R, instance_R),
        "mask": _mean_of_frames(
            _dice(model, output, truth, frame_R, filters_RQ, place_R, instance_R), frame_R, len(truth.instance_FP))}
    if len(targets) == 1:
        unread = sum(weight.sum() for weight in model.identity.parameters())
        return alone | {"crossover": torch.zeros_like(alone["mask"]),
                        "embedding": 0 * (output.embedding_FPE.sum(dim=(1, 2)) + unread)}
    return alone | {
        "crossover": crossover_loss(
            model, output, truth, frame_R, place_R, instance_R, filters_RQ, seeds=_seeds(frames_FCHW)),
        "embedding": embedding_loss(model, output.embedding_FPE[frame_R, place_R], truth.identity_I[instance_R], frame_R,
                                    len(truth.instance_FP))}


def _detection_losses(
    output: FrameOutput, truth: FrameTruth, frame_R: Tensor, place_R: Tensor, instance_R: Tensor
) -> dict[str, Tensor]:
    logits_FPK = at_least_fp32(output.logits_FPK)
    frames = len(logits_FPK)
    rows_F = torch.bincount(frame_R, minlength=frames).clamp(min=1)

    wanted_FPK = torch.zeros_like(logits_FPK)
    wanted_FPK[frame_R, place_R, truth.labels_I[instance_R]] = 1
    category_F = focal(logits_FPK, wanted_FPK).sum(dim=(1, 2)) / rows_F

    stride_R = output.locations.stride_P[place_R]
    wanted_R4 = reach_to(output.locations.xy_P2[place_R], truth.boxes_I4[instance_R]) / stride_R[:, None]
    centreness_R = centreness_of(wanted_R4)
    box_R = centreness_R * (1 - giou_of_reaches(at_least_fp32(output.reach_FP4[frame_R, place_R]), wanted_R4))
    total_F = centreness_R.new_zeros(frames).index_add(0, frame_R, centreness_R).clamp(min=1e-6)
    box_F = box_R.new_zeros(frames).index_add(0, frame_R, box_R) / total_F

    entropy_R = F.binary_cross_entropy_with_logits(
        at_least_fp32(output.centreness_FP[frame_R, place_R]), centreness_R, reduction="none")
    return {"category": category_F, "box": box_F, "centreness": _mean_of_frames(entropy_R, frame_R, frames)}


def centreness_of(reach_R4: Tensor) -> Tensor:
    """1 in the middle of a box, 0 at its sides (FCOS), from the distances to the sides."""
    near, far = torch.minimum(reach_R4[:, :2], reach_R4[:, 2:]), torch.maximum(reach_R4[:, :2], reach_R4[:, 2:])
    return (near / far).prod(dim=1).sqrt()


def giou_of_reaches(own_R4: Tensor, true_R4: Tensor) -> Tensor:
    """GIoU of boxes around the same location, given by the distances to their sides in strides.

    As in the authors' code, the IoU in it has one square stride added to both areas.
    """
    def area(reach_R4: Tensor) -> Tensor:
        return (reach_R4[:, :2] + reach_R4[:, 2:]).prod(dim=1)

    shared = area(torch.minimum(own_R4, true_R4))
    hull = area(torch.maximum(own_R4, true_R4))
    union = area(own_R4) + area(true_R4) - shared
    return (shared + 1) / (union + 1) - (hull - union) / hull


def dice_loss(logits_RHW: Tensor, wanted_RHW: Tensor) -> Tensor:
    """One loss per mask (R,); the areas below the fraction are sums of squares."""
    probability = logits_RHW.sigmoid()
    shared = (probability * wanted_RHW).sum(dim=(1, 2))
    areas = (probability**2).sum(dim=(1, 2)) + (wanted_RHW**2).sum(dim=(1, 2)) + DICE_EPSILON
    return 1 - 2 * shared / areas


def crossover_loss(
    model: CrossVIS, output: FrameOutput, truth: FrameTruth, frame_R: Tensor, place_R: Tensor, instance_R: Tensor,
    filters_RQ: Tensor, seeds: list[int],
) -> Tensor:
    """The filters of an instance in one frame segment the same instance in the pair's other frame: (F,) for the frames that
    are segmented.

    Coordinates are relative to a location of the instance in the frame that is segmented, chosen at random from those that
    predict it there, and divided by the size of objects on that location's level. An instance that the other frame does not
    show, or shows at no location, has no such loss.

    Args:
        seeds: one of each pair, from which its random choices follow.
    """
    frames = len(truth.instance_FP)
    partner_R = truth.partner_I[instance_R]
    rows_I = torch.bincount(instance_R, minlength=len(truth.labels_I))
    chosen = (partner_R >= 0) & (rows_I[partner_R.clamp(min=0)] > 0)
    partner_R, source_R, filters_RQ = partner_R[chosen], frame_R[chosen], filters_RQ[chosen]
    # Sorted by instance, a random row of an instance is its first one plus a random number below their count.
    by_instance = instance_R.argsort(stable=True)
    first_I = rows_I.cumsum(0) - rows_I
    row_R = by_instance[first_I[partner_R] + (_random(source_R, frames, seeds) * rows_I[partner_R]).long()]
    dice_R = _dice(model, output, truth, frame_R[row_R], filters_RQ, place_R[row_R], partner_R)
    return _mean_of_frames(dice_R, frame_R[row_R], frames)


def _random(source_R: Tensor, frames: int, seeds: list[int]) -> Tensor:
    """A number in [0, 1) for each row, which follows from its pair's seed and its place among the rows of its frame alone."""
    numbers = torch.zeros(len(source_R), device=source_R.device)
    for frame in range(frames):
        mine = source_R == frame
        generator = torch.Generator().manual_seed(seeds[frame % len(seeds)] * 2 + frame // len(seeds))
        numbers[mine] = torch.rand(int(mine.sum()), generator=generator, dtype=torch.float32).to(numbers)
    return numbers


def _seeds(frames_FCHW: Tensor) -> list[int]:
    """A number for each pair that follows from its pixels, so that a pair is the same in whatever part of a batch it is."""
    first, second = frames_FCHW.sum(dim=(1, 2, 3), dtype=torch.float64).long().tensor_split(2)
    return (3 * first + second).tolist()


def embedding_loss(model: CrossVIS, embedding_RE: Tensor, identity_R: Tensor, frame_R: Tensor, frames: int) -> Tensor:
    """Every instance of the training split is a class of its own, in a focal loss, which balances the one right class against
    the thousands of wrong ones: (F,), of which the two of a pair have the mean of the pair's rows as their mean."""
    identities = len(model.identity.weight)
    length = math.sqrt(2) * math.log(identities - 1)
    logits_RI = at_least_fp32(model.identity(length * F.normalize(at_least_fp32(embedding_RE), dim=1)))
    wanted_RI = torch.zeros_like(logits_RI)
    wanted_RI[torch.arange(len(identity_R), device=identity_R.device), identity_R] = 1
    pairs = frames // 2
    loss_B = _mean_of_frames(focal(logits_RI, wanted_RI).sum(dim=1), frame_R % pairs, pairs)
    return loss_B.repeat(2)


def _dice(
    model: CrossVIS, output: FrameOutput, truth: FrameTruth, frame_R: Tensor, filters_RQ: Tensor, place_R: Tensor,
    instance_R: Tensor,
) -> Tensor:
    logits_RHW = model.mask_logits(output, frame_R, filters_RQ, place_R)
    return dice_loss(at_least_fp32(logits_RHW), truth.masks_IHW[instance_R])


def _mean_of_frames(values_R: Tensor, frame_R: Tensor, frames: int) -> Tensor:
    """The mean of each frame's rows (F,); 0 where a frame has none."""
    sums_F = values_R.new_zeros(frames).index_add(0, frame_R, values_R)
    return sums_F / torch.bincount(frame_R, minlength=frames).clamp(min=1)
