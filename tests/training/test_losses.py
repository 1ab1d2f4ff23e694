"""Matching (Eq. 4) and losses (Eq. 5) against literal transcriptions: loops over tracklets, instances, frames and pixels."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import equations
from support.builders import pair_batch, rectangles, tiny_model

from effvis.config import LossWeights, MatchingConfig
from effvis.data.targets import ClipTargets, Counts, stack_targets
from effvis.training.correspondence import assign, pair_losses
from effvis.training.matching import mask_ious, matching_cost

WEIGHTS = LossWeights(focal=2, l1=5, giou=2, dice=8, bce=3)
SIZE = (48.0, 32.0, 48.0, 32.0)


def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


def _focal(logit, is_class):
    p = _sigmoid(logit)
    return -0.25 * (1 - p) ** 2 * math.log(p) if is_class else -0.75 * p**2 * math.log(1 - p)


def _l1(box, true):
    return sum(abs(a - b) / side for a, b, side in zip(box, true, SIZE, strict=True))


def _giou(a, b):
    def area(box):
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    overlap = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    hull = area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = area(a) + area(b) - overlap
    return overlap / union - (hull - union) / hull


def _cropped(mask_HW, box, side):
    """The mask in a box: one bilinear sample in the middle of each of side x side bins, at least one half."""
    height, width = mask_HW.shape
    cropped = np.zeros((side, side))
    for row, column in itertools.product(range(side), range(side)):
        y = box[1] + (row + 0.5) / side * (box[3] - box[1]) - 0.5
        x = box[0] + (column + 0.5) / side * (box[2] - box[0]) - 0.5
        if not (-1 <= y <= height and -1 <= x <= width):
            continue
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        value = 0.0
        for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if i < height and j < width:
                value += (1 - abs(y - i)) * (1 - abs(x - j)) * mask_HW[i, j]
        cropped[row, column] = value >= 0.5
    return cropped


def _sees(model, features, output, clip, b):
    """IoU of tracklet n's mask with instance k's in frame t, pixel by pixel of the frame: (N, K, T)."""
    boxes, logits = output.boxes_BNT4[b], model.mask_logits(features, output)[b]
    height, width = clip.masks_KTHW.shape[-2:]
    y, x = (torch.arange(side, dtype=torch.float64) + 0.5 for side in (height, width))
    iou = np.zeros((len(boxes), *clip.present_KT.shape))
    for n, k, t in np.ndindex(*iou.shape):
        x0, y0, x1, y1 = boxes[n, t]
        grid = torch.stack(torch.meshgrid((y - y0) / (y1 - y0), (x - x0) / (x1 - x0), indexing="ij")[::-1], dim=-1)
        pasted = torch.nn.functional.grid_sample(  # beyond the box is zero, as where QueryInst's masks are pasted
            logits[n, t].sigmoid()[None, None], 2 * grid[None] - 1, align_corners=False)[0, 0] >= 0.5
        true = clip.masks_KTHW[k, t]
        iou[n, k, t] = (pasted & true).sum() / max(int((pasted | true).sum()), 1)
    return iou


def _cost(logits_NTK, boxes_NT4, iou_NKT, clip, matching):
    """Eq. 4: class, box and mask where the instance is present, absence where it is not; copies of frames do not count."""
    real = clip.real().tolist()

    def seen(n, k, t):
        logit = logits_NTK[n][t][clip.labels_K[k]]
        box, true = boxes_NT4[n][t], clip.boxes_KT4[k, t].tolist()
        kind = -_sigmoid(logit) if matching.class_cost == "probability" else _focal(logit, True) - _focal(logit, False)
        return real[t] * (matching.category * kind + matching.l1 * _l1(box, true) + matching.giou * (1 - _giou(box, true))
                          + matching.mask * (1 - iou_NKT[n, k, t]))

    def absent(n, k, t):
        if matching.class_cost == "focal":
            return real[t] * matching.category * _focal(logits_NTK[n][t][clip.labels_K[k]], False)
        return -real[t] * matching.category * (1 - max(map(_sigmoid, logits_NTK[n][t])))

    return equations.matching_cost(clip.present_KT.numpy(), len(logits_NTK), seen, absent)


def _losses(logits_NTK, boxes_NT4, masks_NTSS, clip, owner):
    """Eq. 5 of one interaction and clip, not yet divided by the number of entries."""
    side, real = masks_NTSS.shape[-1], clip.real().tolist()

    def entropy(n, t, k):
        mask = _cropped(clip.masks_KTHW[k, t].numpy(), boxes_NT4[n][t], side) if k is not None else np.zeros((side, side))
        terms = [math.log(p if is_object else 1 - p) for p, is_object in (
            (_sigmoid(masks_NTSS[n, t, i, j]), mask[i, j]) for i, j in np.ndindex(side, side))]
        return {"bce": -real[t] * WEIGHTS.bce * sum(terms) / side**2}

    def box_and_dice(n, t, k):
        box, true = boxes_NT4[n][t], clip.boxes_KT4[k, t].tolist()
        mask = _cropped(clip.masks_KTHW[k, t].numpy(), box, side)
        p = np.vectorize(_sigmoid)(masks_NTSS[n, t])
        # Sec. 3.2 cites V-Net for it, whose denominator sums squares; QueryInst adds 1e-3 for either mask.
        dice = 1 - 2 * (p * mask).sum() / ((p**2).sum() + 1e-3 + (mask**2).sum() + 1e-3)
        return {"l1": real[t] * WEIGHTS.l1 * _l1(box, true), "giou": real[t] * WEIGHTS.giou * (1 - _giou(box, true)),
                "dice": real[t] * WEIGHTS.dice * dice}

    total = dict.fromkeys(("l1", "giou", "dice", "bce"), 0.0)
    total |= equations.clip_sums(owner, clip.present_KT.numpy(), entropy, box_and_dice)
    total["focal"] = 0.0
    for n, t in np.ndindex(len(logits_NTK), len(logits_NTK[0])):
        k = owner.index(n) if n in owner else None
        visible = k is not None and bool(clip.present_KT[k, t])
        for label, logit in enumerate(logits_NTK[n][t]):
            total["focal"] += real[t] * WEIGHTS.focal * _focal(logit, visible and label == clip.labels_K[k])
    return total


def _literally(model, batch, correspondence, matching):
    """The losses of a batch of one pair, or of two clips that know nothing of each other."""
    first, second = (clips[0] for clips in batch.targets)
    if correspondence:  # what has gone is absent, and still assigned
        gone = [k for k, track in enumerate(first.track_ids_K.tolist()) if track not in second.track_ids_K.tolist()]
        second = ClipTargets(*(torch.cat((getattr(second, name), torch.zeros_like(getattr(first, name)[gone])))
                               for name in ("track_ids_K", "labels_K", "present_KT", "boxes_KT4", "masks_KTHW")), second.real_T)
        second.track_ids_K[len(second) - len(gone):] = first.track_ids_K[gone]
        second.labels_K[len(second) - len(gone):] = first.labels_K[gone]
    features = [model.features(frames) for frames in batch.frames]
    outputs = [model(features[0])]
    outputs.append(model(features[1], outputs[0][-1].query_BNTC if correspondence else None))
    expected = dict.fromkeys(("focal", "l1", "giou", "dice", "bce"), 0.0)
    entries = 0
    known = None
    for c, clip in enumerate((first, second)):
        entries += len(clip) * int(clip.real().sum())
        for output in outputs[c]:
            logits, boxes = output.logits_BNTK[0].tolist(), output.boxes_BNT4[0].tolist()
            iou = _sees(model, features[c], output, clip, 0)
            owner = equations.assignment(_cost(logits, boxes, iou, clip, matching), known)
            masks = model.mask_logits(features[c], output)[0].double().numpy()
            for name, value in _losses(logits, boxes, masks, clip, owner).items():
                expected[name] += value
        if correspondence:
            owner_of = dict(zip(first.track_ids_K.tolist(), owner, strict=False))
            known = [owner_of.get(track) for track in second.track_ids_K.tolist()]
    return {name: value / max(entries, 1) for name, value in expected.items()}


@pytest.mark.parametrize("matching", [MatchingConfig(), MatchingConfig(class_cost="focal", category=2, mask=0)],
                         ids=["paper", "cited code"])
@pytest.mark.parametrize("correspondence", [True, False], ids=["CL", "no CL"])
@pytest.mark.parametrize("pair, frames", [
    (([], []), 2), (([0, 1], [1, 2]), 2), (([0], [0]), 1), (([1, 2], [2, 1]), 1), (([0, 1, 2, 3, 4], [4, 0]), 2),
    (([0, 1], []), 3),
], ids=["empty", "one new, one gone", "one frame, absent throughout", "one frame", "more instances than queries", "all gone"])
@torch.no_grad()
def test_losses_are_equation_5_under_the_best_assignment_of_equation_4(pair, frames, correspondence, matching):
    """The first instance of a clip is absent in its first frame, and the second clip ends in a copy. Masks and boxes are moved
    away from their initial places."""
    model = tiny_model(frames, seed=3).double()
    for name, parameter in model.named_parameters():
        if ".box_deltas.weight" in name or "mask_heads" in name and ".logits.weight" in name:
            parameter.normal_(std=0.3)
    batch = pair_batch([pair], frames, seed=1, absent=True)
    copied = torch.arange(frames) < max(frames - 1, 1)
    batch = replace(batch, targets=(batch.targets[0], [replace(clip, real_T=copied) for clip in batch.targets[1]]))
    found = pair_losses(model, batch, WEIGHTS, correspondence, matching)
    expected = _literally(model, batch, correspondence, matching)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if any(len(clip) and clip.present_KT.any() for clips in batch.targets for clip in clips):
        assert min(expected.values()) > 0
    elif any(len(clip) for clips in batch.targets for clip in clips):
        assert expected["bce"] > 0 and expected["l1"] == expected["dice"] == 0
    else:
        assert expected["focal"] > 0 and expected["l1"] == expected["bce"] == 0


@torch.no_grad()
def test_costs_are_asked_for_only_where_there_is_something_to_choose():
    asked = []

    def cost_MBNK(part):
        asked.append((part.start, part.stop))
        return np.zeros((2, part.stop - part.start, 3, 3))

    tracks = [[7, 8], [1], [7, 8], [2]]
    assignment_MBK = assign(cost_MBNK, tracks, first=2, interactions=2)
    assert asked == [(0, 2), (3, 4)]
    assert (assignment_MBK[:, 2, :2] == assignment_MBK[-1, 0, :2]).all()
    assert (assignment_MBK[:, 3, 0] >= 0).all()


def test_a_mask_decides_between_tracklets_that_differ_in_nothing_else():
    _, clip = rectangles([0], 2, np.random.default_rng(0))
    logits, boxes = torch.zeros(1, 2, 2, 3), clip.boxes_KT4.repeat(1, 2, 1, 1)
    iou = torch.tensor([[[[0.3, 0.4]], [[0.5, 0.4]]]])
    size = torch.tensor([SIZE])
    cost = matching_cost(logits, boxes, stack_targets([clip]), size, MatchingConfig(mask=2.0), iou)
    assert cost[0, 0, 0] - cost[0, 1, 0] == pytest.approx(0.4)
    equal = matching_cost(logits, boxes, stack_targets([clip]), size, MatchingConfig(mask=0.0))
    assert equal[0, 0, 0] == equal[0, 1, 0]


@torch.no_grad()
@pytest.mark.parametrize("classes", ["agnostic", "specific"])
def test_masks_are_compared_in_the_frame_and_class_specific_ones_by_the_class_of_the_instance(classes):
    """What of an instance lies outside the predicted box counts in the union."""
    model = tiny_model(2, seed=3, mask_classes=classes).double()
    for name, parameter in model.named_parameters():
        if ".box_deltas.weight" in name or "mask_heads" in name and ".logits.weight" in name:
            parameter.normal_(std=0.3)
    clips = [clip for clips in pair_batch([([0, 1, 2], [4])], 2, seed=1, absent=True).targets for clip in clips]
    frames = torch.randint(0, 255, (2, 2, 3, 32, 48), dtype=torch.uint8)
    features = model.features(frames)
    output = model(features)[-1]
    found = mask_ious(model, features, output, stack_targets(clips))
    assert found.shape == (2, 4, 3, 2) and 0 < float(found.max()) < 1
    for b, clip in enumerate(clips):
        for k, label in enumerate(clip.labels_K.tolist()):
            of_class = replace(output, logits_BNTK=torch.eye(3).double()[label].expand_as(output.logits_BNTK))
            expected = _sees(model, features, of_class, clip, b)[:, k]
            np.testing.assert_allclose(found[b, :, k].numpy(), expected, atol=1e-12)


@torch.no_grad()
def test_half_precision_counts_the_pixels_of_masks_as_well():
    model = tiny_model(2, seed=3)
    clips = [clip for clips in pair_batch([([0, 1], [4])], 2, seed=1).targets for clip in clips]
    frames = torch.randint(0, 255, (2, 2, 3, 32, 48), dtype=torch.uint8)
    features, targets = model.features(frames), stack_targets(clips)
    output = model(features)[-1]
    whole = mask_ious(model, features, output, targets)
    with torch.autocast("cpu", torch.bfloat16):
        half = mask_ious(model, features, output, targets)
    assert half.dtype == whole.dtype
    torch.testing.assert_close(half, whole, atol=0.02, rtol=0)


def test_entries_are_counted_in_the_targets():
    """Three instances in two frames; two in two of three frames, and one that has gone; nothing is trained for the count."""
    batch = pair_batch([([0, 1, 2], [1, 3])], 3, absent=True)
    real = torch.tensor([True, True, False])
    batch = replace(batch, targets=(batch.targets[0], [replace(batch.targets[1][0], real_T=real)]))
    assert batch.counts() == Counts(clips=2, pairs=9 + 6, entries=9 + 4, gone=2 * 2, present=8 + 5)


def test_copies_of_a_last_frame_change_nothing():
    """A clip whose last frame is a copy has the losses of any other content there."""
    model = tiny_model(3, attention="spatial", dynamic_conv="still")  # frames know nothing of each other
    batch = pair_batch([([0, 1], [1, 2])], 3, seed=2)
    real = torch.tensor([True, True, False])
    batch = replace(batch, targets=tuple([replace(clip, real_T=real) for clip in clips] for clips in batch.targets))
    other = replace(batch, frames=tuple(frames.clone() for frames in batch.frames))
    for frames in other.frames:
        frames[:, 2] = 255 - frames[:, 2]
    one, two = (pair_losses(model, b, LossWeights(), False) for b in (batch, other))
    for name, value in one.items():
        assert value.item() == pytest.approx(two[name].item(), rel=1e-6), name
