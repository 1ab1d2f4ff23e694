"""CrossVIS's parts against loops over locations, pixels and instances, written from FCOS (Tian et al., ICCV 2019), CondInst
(Tian et al., ECCV 2020) and hustvl/CrossVIS (adet/modeling: fcos/fcos_outputs.py, condinst/dynamic_mask_head.py, crossvis.py).
"""

import math

import numpy as np
import pytest
import torch
from support.crossvis import PAIRS, pairs_of, tiny_crossvis

from effvis.crossvis import losses
from effvis.crossvis.detect import suppress
from effvis.crossvis.dynamic_masks import mask_logits, number_of_weights
from effvis.crossvis.locations import assign, locations_of
from effvis.crossvis.sampling import aligned_weights, stretching_weights


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def literal_focal(logits, right):
    """Equations 4 and 5 of the focal loss's paper, summed over the classes; ``right`` is None without an object."""
    total = 0.0
    for k, logit in enumerate(logits):
        p, alpha = (sigmoid(logit), 0.25) if k == right else (1 - sigmoid(logit), 0.75)
        total -= alpha * (1 - p) ** 2 * math.log(p)
    return total


def literal_dice(probabilities, truth):
    both, squares = 0.0, 1e-5
    for p, t in zip(probabilities.flatten().tolist(), truth.flatten().tolist(), strict=True):
        both += p * t
        squares += p * p + t * t
    return 1 - 2 * both / squares


def literal_assignment(shapes, strides, boxes, masks, size_per_stride):
    """FCOS's rules, one location and instance after the other."""
    found = []
    for level, ((height, width), stride) in enumerate(zip(shapes, strides, strict=True)):
        low = -1 if level == 0 else strides[level - 1] * size_per_stride
        high = math.inf if level == len(shapes) - 1 else stride * size_per_stride
        for row in range(height):
            for column in range(width):
                x, y = column * stride + stride // 2, row * stride + stride // 2
                best = (math.inf, -1)
                for number, ((x0, y0, x1, y1), mask) in enumerate(zip(boxes.tolist(), masks, strict=True)):
                    rows, columns = np.nonzero(mask)
                    cx, cy, r = columns.mean(), rows.mean(), 1.5 * stride
                    central = (max(cx - r, x0) < x < min(cx + r, x1)) and (max(cy - r, y0) < y < min(cy + r, y1))
                    if central and low <= max(x - x0, y - y0, x1 - x, y1 - y) <= high:
                        best = min(best, ((x1 - x0) * (y1 - y0), number))
                found.append(best[1])
    return found


def drawn(rng, number, size=(64, 96)):
    """Boxes, each with half of its pixels as a mask."""
    masks = np.zeros((number, *size), bool)
    boxes = np.zeros((number, 4), np.float32)
    for i in range(number):
        x0, y0 = rng.integers(0, size[1] - 8), rng.integers(0, size[0] - 8)
        x1, y1 = rng.integers(x0 + 5, size[1] + 1), rng.integers(y0 + 5, size[0] + 1)
        masks[i, y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.5
        masks[i, y0, x0] = True
        boxes[i] = x0, y0, x1, y1
    return boxes, masks


@pytest.mark.parametrize("seed", range(4))
def test_locations_predict_the_instances_that_fcos_gives_them(seed):
    boxes, masks = drawn(np.random.default_rng(seed), 6)
    shapes, strides = ((16, 24), (8, 12), (4, 6)), (4, 8, 16)
    own = assign(locations_of(shapes, strides, "cpu"), torch.from_numpy(boxes), torch.from_numpy(masks), 4.0)
    expected = literal_assignment(shapes, strides, boxes, masks, 4.0)
    assert own.tolist() == expected
    assert len(set(expected)) > 3


def test_an_instance_without_a_pixel_has_no_location():
    locations = locations_of(((16, 24),), (4,), "cpu")
    boxes, masks = drawn(np.random.default_rng(0), 2)
    masks[1] = False
    assert set(assign(locations, torch.from_numpy(boxes), torch.from_numpy(masks), 4.0).tolist()) == {-1, 0}
    assert set(assign(locations, torch.zeros(0, 4), torch.zeros(0, 64, 96), 4.0).tolist()) == {-1}


@pytest.mark.parametrize(("length", "factor"), [(3, 2), (5, 4), (1, 2)])
def test_upsampled_values_lie_where_locations_do(length, factor):
    """A location of a stride lies at half of it, rounded down, in its cell."""
    values = np.random.default_rng(0).random(length)
    expected = np.interp(np.arange(factor * length), np.arange(length) * factor + factor // 2, values)
    np.testing.assert_allclose(aligned_weights(length, factor, torch.zeros(1, dtype=torch.float64)).numpy() @ values, expected)


@pytest.mark.parametrize(("length", "wanted"), [(4, 10), (10, 4), (7, 7), (1, 3)])
def test_stretched_values_are_those_between_the_middles_of_pixels(length, wanted):
    values = np.random.default_rng(0).random(length)
    expected = np.interp((np.arange(wanted) + 0.5) / wanted, (np.arange(length) + 0.5) / length, values)
    own = stretching_weights(length, wanted, torch.zeros(1, dtype=torch.float64)).numpy() @ values
    np.testing.assert_allclose(own, expected)


def literal_mask(features, weights, xy, scale, stride):
    """The dynamic mask head of one instance, pixel by pixel, before upsampling."""
    channels, height, width = features.shape
    sizes = [channels * (channels + 2), channels * channels, channels, channels, channels, 1]
    w0, w1, w2, b0, b1, b2 = np.split(weights, np.cumsum(sizes)[:-1])
    logits = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            relative = [(xy[0] - (column * stride + stride // 2)) / scale, (xy[1] - (row * stride + stride // 2)) / scale]
            x = np.concatenate((relative, features[:, row, column]))
            x = np.maximum(w0.reshape(channels, channels + 2) @ x + b0, 0)
            x = np.maximum(w1.reshape(channels, channels) @ x + b1, 0)
            logits[row, column] = (w2 @ x + b2).item()
    return logits


def test_the_dynamic_mask_head_has_169_weights_and_three_layers():
    assert number_of_weights(8) == 169
    torch.manual_seed(0)
    features, weights = torch.randn(2, 8, 3, 5, dtype=torch.float64), torch.randn(2, 169, dtype=torch.float64)
    xy, scale = torch.tensor([[10.0, 6.0], [3.0, 20.0]]), torch.tensor([16.0, 64.0])
    own = mask_logits(features, weights, xy, scale, stride=4)
    assert own.shape == (2, 6, 10)
    for r in range(2):
        small = literal_mask(features[r].numpy(), weights[r].numpy(), xy[r].tolist(), scale[r].item(), 4)
        rows = np.stack([np.interp(np.arange(10), np.arange(5) * 2 + 1, row) for row in small])
        both = np.stack([np.interp(np.arange(6), np.arange(3) * 2 + 1, column) for column in rows.T], axis=1)
        np.testing.assert_allclose(own[r], both, rtol=1e-6, atol=1e-6)


class Literal:
    """The losses of ``PAIRS`` from the network's output, with a loop for everything; one image and instance at a time."""

    def __init__(self, model, batch):
        self.model, self.batch = model, batch
        frames = torch.cat([frames[:, 0] for frames in batch.frames])
        self.output = model(frames)
        self.targets = [clip for clips in batch.targets for clip in clips]
        self.positives = []  # of each frame: (place, instance)
        strides = model.backbone.strides
        shapes = [(-(-32 // stride), -(-48 // stride)) for stride in strides]
        for clip in self.targets:
            found = literal_assignment(shapes, strides, clip.boxes_KT4[:, 0].numpy(), clip.masks_KTHW[:, 0].numpy(), 4)
            self.positives.append([(place, k) for place, k in enumerate(found) if k >= 0])
        self.places = [(column * stride + stride // 2, row * stride + stride // 2, stride)
                       for (height, width), stride in zip(shapes, strides, strict=True)
                       for row in range(height) for column in range(width)]

    def detection(self, f):
        clip, positives = self.targets[f], self.positives[f]
        label_of = {place: clip.labels_K[k].item() for place, k in positives}
        category = sum(literal_focal(logits.tolist(), label_of.get(place))
                       for place, logits in enumerate(self.output.logits_FPK[f])) / len(positives)
        box = weight = entropy = 0.0
        for place, k in positives:
            x, y, stride = self.places[place]
            x0, y0, x1, y1 = clip.boxes_KT4[k, 0].tolist()
            true = [side / stride for side in (x - x0, y - y0, x1 - x, y1 - y)]
            own = self.output.reach_FP4[f, place].tolist()
            centreness = math.sqrt(math.prod(min(true[i], true[i + 2]) / max(true[i], true[i + 2]) for i in range(2)))
            shared = ((min(own[0], true[0]) + min(own[2], true[2])) * (min(own[1], true[1]) + min(own[3], true[3])))
            hull = ((max(own[0], true[0]) + max(own[2], true[2])) * (max(own[1], true[1]) + max(own[3], true[3])))
            union = (own[0] + own[2]) * (own[1] + own[3]) + (true[0] + true[2]) * (true[1] + true[3]) - shared
            box += centreness * (1 - ((shared + 1) / (union + 1) - (hull - union) / hull))
            weight += centreness
            p = sigmoid(self.output.centreness_FP[f, place].item())
            entropy -= centreness * math.log(p) + (1 - centreness) * math.log(1 - p)
        return category, box / weight, entropy / len(positives)

    def dice(self, f, filters, place, k):
        """Of the mask that some filters make in a frame, at a location, for its instance ``k``."""
        x, y, stride = self.places[place]
        probability = mask_logits(
            self.output.mask_features_FMHW[f: f + 1], filters[None], torch.tensor([[x, y]]).float(),
            torch.tensor([stride * 4.0]), 4).sigmoid()
        return literal_dice(probability[0], self.targets[f].masks_KTHW[k, 0, 1::2, 1::2].float())

    def masks(self, f):
        return np.mean([self.dice(f, self.output.filters_FPQ[f, place], place, k) for place, k in self.positives[f]])

    def crossover(self, source, into, choose):
        """The filters of frame ``source`` in frame ``into``; ``choose`` takes one of the locations of the instance there."""
        ids = self.targets[into].track_ids_K.tolist()
        found = []
        for place, k in self.positives[source]:
            number = self.targets[source].track_ids_K[k].item()
            if number in ids:
                there = [other for other, j in self.positives[into] if j == ids.index(number)]
                if there:
                    found.append(self.dice(into, self.output.filters_FPQ[source, place], choose(there), ids.index(number)))
        return np.mean(found)

    def embedding(self, first, second):
        identities, found = self.model.config.identities, []
        for f in (first, second):
            for place, k in self.positives[f]:
                embedding = self.output.embedding_FPE[f, place]
                scaled = embedding / embedding.norm() * math.sqrt(2) * math.log(identities - 1)
                logits = self.model.identity.weight @ scaled + self.model.identity.bias
                found.append(literal_focal(logits.tolist(), self.targets[f].track_ids_K[k].item() - 1))
        return np.mean(found)


@pytest.mark.parametrize("last", [False, True])
def test_the_losses_are_those_of_the_authors_code(last, monkeypatch):
    """Crossover chooses a location at random; here it is always the first one, or always the last."""
    monkeypatch.setattr(losses, "_random", lambda source, frames, seeds: torch.full((len(source),), 0.999 if last else 0.0))
    with torch.no_grad():
        model, batch = tiny_crossvis(), pairs_of(*PAIRS)
        literal = Literal(model, batch)
        own = losses.pair_losses(model, batch, losses.CrossVISLossWeights())
    detection = np.mean([literal.detection(f) for f in range(4)], axis=0)
    choose = (lambda there: there[-1]) if last else (lambda there: there[0])
    expected = {
        "category": detection[0], "box": detection[1], "centreness": detection[2],
        "mask": np.mean([literal.masks(f) for f in range(4)]),
        "crossover": np.mean([literal.crossover(*ways, choose) for ways in ((0, 2), (2, 0), (1, 3), (3, 1))]),
        "embedding": np.mean([literal.embedding(b, b + 2) for b in range(2)])}
    assert {name: value.item() for name, value in own.items()} == pytest.approx(expected, rel=2e-5)


def test_crossover_chooses_among_the_locations_that_predict_the_instance(monkeypatch):
    monkeypatch.undo()
    numbers = losses._random(torch.tensor([0, 2, 0, 1]), 4, [7, 8])
    assert len(set(numbers.tolist())) == 4 and ((numbers >= 0) & (numbers < 1)).all()
    torch.testing.assert_close(losses._random(torch.tensor([1]), 4, [9, 8]), numbers[3:])


def literal_suppression(boxes, scores, labels, most_iou):
    def overlap(a, b):
        width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0) * max(height, 0)
        return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)

    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(labels[i] != labels[j] or overlap(boxes[i], boxes[j]) <= most_iou for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_suppression_keeps_what_a_search_over_all_pairs_keeps(seed):
    rng = np.random.default_rng(seed)
    corners = rng.random((80, 2)) * 20
    boxes = np.concatenate((corners, corners + rng.random((80, 2)) * 20 + 3), axis=1).astype(np.float32)
    scores, labels = rng.permutation(80).astype(np.float32), rng.integers(0, 3, 80)
    own = suppress(*map(torch.from_numpy, (boxes, scores, labels)), 0.4, most=80)
    expected = literal_suppression(boxes.tolist(), scores, labels, 0.4)
    assert own.tolist() == expected and 10 < len(expected) < 70
    assert suppress(*map(torch.from_numpy, (boxes, scores, labels)), 0.4, most=5).tolist() == expected[:5]
    nothing = torch.zeros(0)
    assert suppress(torch.zeros(0, 4), nothing, nothing.long(), 0.4, most=5).tolist() == []
