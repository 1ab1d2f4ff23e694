"""The parts of Mask R-CNN against literal transcriptions: loops over boxes, as its sources describe them.

Sources: mmdetection's AnchorGenerator (a pixel's anchors are centred at its number times the stride; a ratio is height to
width), MaxIoUAssigner (the four steps of its docstring) and DeltaXYWHBBoxCoder; R-CNN's greedy non-maximum suppression.
"""

import math

import pytest
import torch

from effvis.masktrack_rcnn.anchors import BACKGROUND, IGNORED, anchors_of_level, assign, sample
from effvis.masktrack_rcnn.boxes import BOX_WEIGHTS, decode, encode, suppress
from effvis.masktrack_rcnn.losses import mask_targets


def random_boxes(count, seed, side=60.0):
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * side
    return torch.cat((corner, corner + torch.rand(count, 2, generator=draw) * side / 2 + 4), dim=1)


def overlap(a, b):
    width, height = (max(0.0, min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis])) for axis in (0, 1))
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area_a + area_b - width * height)


def test_anchors_of_a_level():
    found = anchors_of_level((2, 3), 8, (2.0, 3.0), (0.5, 1.0, 2.0), torch.zeros(1))
    expected = []
    for row in range(2):
        for column in range(3):
            for ratio in (0.5, 1.0, 2.0):
                for scale in (2.0, 3.0):
                    width, height = 8 * scale / math.sqrt(ratio), 8 * scale * math.sqrt(ratio)
                    x, y = column * 8, row * 8
                    expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert torch.allclose(found, torch.tensor(expected), atol=1e-5)


def assigned_step_by_step(boxes, objects, positive, negative, least):
    """1. all are ignored; 2. background below ``negative``; 3. the best object from ``positive`` on; 4. each object has its
    best boxes, from ``least`` on."""
    overlaps = [[overlap(box, one) for box in boxes] for one in objects]
    assigned = []
    for x in range(len(boxes)):
        best = max(range(len(objects)), key=lambda k: overlaps[k][x]) if objects else None
        value = overlaps[best][x] if objects else 0.0
        assigned.append(BACKGROUND if value < negative else best if value >= positive else IGNORED)
    for k, of_object in enumerate(overlaps):
        if max(of_object) >= least:
            for x, value in enumerate(of_object):
                if value == max(of_object):
                    assigned[x] = k
    return assigned


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("thresholds", [(0.7, 0.3, 0.3), (0.5, 0.5, 0.5), (0.6, 0.2, 0.0)])
def test_boxes_learn_objects_as_the_assigner_says(seed, thresholds):
    objects = random_boxes(4, seed)
    # Boxes near the objects, far boxes, and one box twice: both are an object's best.
    boxes = torch.cat((objects.repeat(6, 1) + torch.randn(24, 4, generator=torch.Generator().manual_seed(seed)) * 4,
                       random_boxes(30, seed + 50), objects[:1] + 1, objects[:1] + 1))
    # An object that no box overlaps well: its best IoU is 225 / 704.
    objects = torch.cat((objects, torch.tensor([[200.0, 200.0, 220.0, 220.0]])))
    boxes = torch.cat((boxes, torch.tensor([[205.0, 205.0, 228.0, 228.0]])))
    positive, negative, least = thresholds
    found = assign(boxes, objects, positive=positive, negative=negative, least=least)
    # In the same precision: which of two equal boxes is better depends on the last bit.
    expected = assigned_step_by_step(boxes.double().tolist(), objects.double().tolist(), *thresholds)
    assert found.tolist() == expected
    kinds = {min(max(place, IGNORED), 0) for place in found.tolist()}
    assert kinds == ({BACKGROUND, 0} if positive == negative else {BACKGROUND, IGNORED, 0})


def test_without_objects_all_is_background_and_without_boxes_there_is_nothing():
    limits = dict(positive=0.7, negative=0.3, least=0.3)
    assert assign(random_boxes(3, 0), torch.zeros(0, 4), **limits).tolist() == [BACKGROUND] * 3
    assert assign(torch.zeros(0, 4), random_boxes(3, 0), **limits).tolist() == []


def test_samples_are_positive_boxes_first_at_most_their_share_and_then_background():
    assigned = torch.tensor([BACKGROUND] * 20 + [0, 1, 2, 0, 1] + [IGNORED] * 10)
    torch.manual_seed(0)
    chosen = sample(assigned, 8, 0.25)
    assert (assigned[chosen] >= 0).tolist() == [True] * 2 + [False] * 6 and len(set(chosen.tolist())) == 8
    assert (assigned[chosen[2:]] == BACKGROUND).all()
    torch.manual_seed(0)
    assert torch.equal(sample(assigned, 8, 0.25), chosen), "the seed decides"
    assert (assigned[sample(assigned, 40, 0.25)] >= 0).sum() == 5 and len(sample(assigned, 40, 0.25)) == 25, "all there are"


def test_deltas_by_hand_and_back():
    box, wanted = torch.tensor([[10.0, 20.0, 30.0, 60.0]]), torch.tensor([[14.0, 20.0, 54.0, 40.0]])
    # Centres (20, 40) and (34, 30), sizes (20, 40) and (40, 20).
    expected = [10 * 14 / 20, 10 * -10 / 40, 5 * math.log(2), 5 * math.log(0.5)]
    assert encode(box, wanted, BOX_WEIGHTS)[0].tolist() == pytest.approx(expected, rel=1e-5)
    boxes, others = random_boxes(20, 1), random_boxes(20, 2)
    assert torch.allclose(decode(boxes, encode(boxes, others, BOX_WEIGHTS), BOX_WEIGHTS, (200, 200)), others, atol=1e-3)


def test_boxes_end_at_the_frame_and_grow_by_no_more_than_a_factor():
    moved = decode(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[0.0, 50.0, 100.0, 0.0]]), BOX_WEIGHTS, (40, 5000))
    half = 5 * 1000 / 16  # of the width 10, at the largest factor 1000 / 16
    assert moved[0].tolist() == pytest.approx([0, 40, 5 + half, 40])


def greedy(boxes, scores, threshold):
    """Takes the best box that is left, and drops those that overlap it more than the threshold, until none is left."""
    left = sorted(range(len(boxes)), key=lambda x: (-scores[x], x))
    stays = []
    while left:
        best = left.pop(0)
        stays.append(best)
        left = [x for x in left if overlap(boxes[best], boxes[x]) <= threshold]
    return sorted(stays)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_suppression_is_the_greedy_one_in_each_group(threshold):
    boxes = torch.stack([random_boxes(60, seed, side=40.0) for seed in range(3)])
    boxes[:2, 30:] = boxes[:2, :30] + 1
    scores = torch.stack([torch.rand(60, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    scores[1] = (scores[1] * 4).round()  # many equals
    boxes[2] = torch.tensor([0.0, 0.0, 20.0, 20.0]) + torch.arange(60)[:, None] * 0.7  # a chain of neighbours
    found = suppress(boxes, scores, threshold)
    for group in range(3):
        expected = greedy(boxes[group].tolist(), scores[group].tolist(), threshold)
        assert found[group].nonzero()[:, 0].tolist() == expected and len(expected) < 60
    assert suppress(boxes[:, :0], scores[:, :0], threshold).shape == (3, 0)


def test_mask_targets_are_the_halves_of_cells_that_are_object():
    mask = torch.zeros(2, 8, 12, dtype=torch.bool)
    mask[0, 2:6, 3:9] = True
    mask[1, :, :6] = True
    found = mask_targets(mask, torch.tensor([[3.0, 2.0, 9.0, 6.0], [0.0, 0.0, 12.0, 8.0]]), 4)
    assert found[0].tolist() == [[1.0] * 4] * 4
    assert found[1].tolist() == [[1.0, 1.0, 0.0, 0.0]] * 4
