"""Matching (Eq. 4) and losses (Eq. 5) against literal transcriptions: loops over tracklets, instances, frames and pixels."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.builders import pair_batch, tiny_model

from effvis.config import LossWeights
from effvis.training.correspondence import pair_losses

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


def _cost(logits_NTK, boxes_NT4, clip):
    """Eq. 4 frame by frame: class, L1 and GIoU where the instance is present, background where it is absent."""
    cost = np.zeros((len(logits_NTK), len(clip)))
    for n, k, t in np.ndindex(*cost.shape, len(logits_NTK[0])):
        logit, box, true = logits_NTK[n][t][clip.labels_K[k]], boxes_NT4[n][t], clip.boxes_KT4[k, t].tolist()
        cost[n, k] += WEIGHTS.focal * _focal(logit, False)
        if clip.present_KT[k, t]:
            cost[n, k] += WEIGHTS.focal * (_focal(logit, True) - 2 * _focal(logit, False))
            cost[n, k] += WEIGHTS.l1 * _l1(box, true) - WEIGHTS.giou * _giou(box, true)
    return cost


def _best(cost, known=None, blocked=()):
    """The tracklet of each instance (None: none), in the cheapest of all assignments that keep the known ones."""
    tracklets, instances = cost.shape
    known = known or [None] * instances
    taken = {n for n in known if n is not None} | set(blocked)
    free = [n for n in range(tracklets) if n not in taken]
    new = [k for k in range(instances) if known[k] is None]
    few, many = sorted((free, new), key=len)
    pairings = ([(n, k) if few is free else (k, n) for n, k in zip(few, chosen, strict=True)]
                for chosen in itertools.permutations(many, len(few)))
    pairs = min(pairings, key=lambda pairs: sum(cost[n, k] for n, k in pairs))
    best = list(known)
    for n, k in pairs:
        best[k] = n
    return best


def _losses(logits_NTK, boxes_NT4, masks_NTSS, clip, owner):
    """Eq. 5 of one interaction and clip, not yet divided by the number of present (instance, frame) pairs."""
    total = dict.fromkeys(("focal", "l1", "giou", "dice", "bce"), 0.0)
    for n, t in np.ndindex(len(logits_NTK), len(logits_NTK[0])):
        k = owner.index(n) if n in owner else None
        visible = k is not None and bool(clip.present_KT[k, t])
        for label, logit in enumerate(logits_NTK[n][t]):
            total["focal"] += WEIGHTS.focal * _focal(logit, visible and label == clip.labels_K[k])
        if not visible:
            continue
        box, true = boxes_NT4[n][t], clip.boxes_KT4[k, t].tolist()
        total["l1"] += WEIGHTS.l1 * _l1(box, true)
        total["giou"] += WEIGHTS.giou * (1 - _giou(box, true))
        mask, side = masks_NTSS[n, t], masks_NTSS.shape[-1]
        inside = _cropped(clip.masks_KTHW[k, t].numpy(), box, side)
        overlap = area = entropy = 0.0
        for i, j in np.ndindex(side, side):
            p, is_object = _sigmoid(mask[i, j]), inside[i, j]
            overlap += p * is_object
            area += p + is_object
            entropy -= math.log(p if is_object else 1 - p) / side**2
        total["dice"] += WEIGHTS.dice * (1 - (2 * overlap + 1) / (area + 1))
        total["bce"] += WEIGHTS.bce * entropy
    return total


def _literally(model, batch, correspondence):
    """The losses of a batch of one pair, or of two clips that know nothing of each other."""
    first, second = (clips[0] for clips in batch.targets)
    features = [model.features(frames) for frames in batch.frames]
    outputs = [model(features[0])]
    outputs.append(model(features[1], outputs[0][-1].query_BNTC if correspondence else None))
    sums = []
    before = None
    for c, clip in enumerate((first, second)):
        owner_of = {} if before is None or not correspondence else dict(zip(first.track_ids_K.tolist(), before, strict=True))
        known = [owner_of.get(track) for track in clip.track_ids_K.tolist()]
        blocked = [n for n in owner_of.values() if n is not None]
        clip_sums = []
        for output in outputs[c]:
            logits, boxes = output.logits_BNTK[0].tolist(), output.boxes_BNT4[0].tolist()
            owner = _best(_cost(logits, boxes, clip), known, blocked)
            masks = model.mask_logits(features[c], output)[0].double().numpy()
            matched = sum(int(clip.present_KT[k].sum()) for k, n in enumerate(owner) if n is not None)
            clip_sums.append((_losses(logits, boxes, masks, clip, owner), matched))
        before = owner
        sums.append(clip_sums)
    expected = dict.fromkeys(("focal", "l1", "giou", "dice", "bce"), 0.0)
    for (one, one_pairs), (two, two_pairs) in zip(*sums, strict=True):
        for name in expected:
            if correspondence:  # Each clip is normalised by itself, and the two are averaged.
                expected[name] += (one[name] / max(one_pairs, 1) + two[name] / max(two_pairs, 1)) / 2
            else:
                expected[name] += (one[name] + two[name]) / max(one_pairs + two_pairs, 1)
    return expected


@pytest.mark.parametrize("correspondence", [True, False], ids=["CL", "no CL"])
@pytest.mark.parametrize("pair, frames", [
    (([], []), 2), (([0, 1], [1, 2]), 2), (([0], [0]), 1), (([1, 2], [2, 1]), 1), (([0, 1, 2, 3, 4], [4, 0]), 2),
    (([0, 1], []), 3),
], ids=["empty", "one new, one gone", "one frame, absent throughout", "one frame", "more instances than queries", "all gone"])
@torch.no_grad()
def test_losses_are_equation_5_under_the_best_assignment_of_equation_4(pair, frames, correspondence):
    """The first instance of a clip is absent in its first frame. Masks and boxes are moved away from their initial places."""
    model = tiny_model(frames, seed=3).double()
    for name, parameter in model.named_parameters():
        if ".box_deltas.weight" in name or "mask_heads" in name and ".logits.weight" in name:
            parameter.normal_(std=0.3)
    batch = pair_batch([pair], frames, seed=1, absent=True)
    found = pair_losses(model, batch, WEIGHTS, correspondence)
    expected = _literally(model, batch, correspondence)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-6, abs=1e-9)
    if any(len(clip) and clip.present_KT.any() for clips in batch.targets for clip in clips):
        assert min(expected.values()) > 0
    else:
        assert expected["focal"] > 0 and expected["l1"] == expected["bce"] == 0
