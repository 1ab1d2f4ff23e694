"""Hand-crafted linking as table 1d's caption describes it, on tracklets whose similarities are known."""

import numpy as np
import pytest

from effvis.config import HandcraftConfig
from effvis.data.masks import encode
from effvis.inference.clip import TrackletPredictions
from effvis.inference.handcraft import link

SIZE = (40, 100)
NOTHING = {"box_iou": 0, "box_l1": 0, "mask_iou": 0, "category": 0, "score_threshold": 0.0}


def clip(*tracklets):
    """One frame with tracklets of (box from x0 to x1, mask from x0 to x1, class probabilities); all are 10 pixels high."""
    masks = []
    for _, (x0, x1), _ in tracklets:
        mask = np.zeros(SIZE, dtype=bool)
        mask[10:20, x0:x1] = True
        masks.append([encode(mask)])
    boxes = np.array([[[x0, 10, x1, 20]] for (x0, x1), _, _ in tracklets], dtype=np.float32)
    scores = np.array([[score] for *_, score in tracklets], dtype=np.float32)
    return TrackletPredictions(scores, np.ones((len(tracklets), 1), dtype=bool), boxes, masks)


def linked(old, new, **config):
    """Whether the only tracklet of one clip goes on as the only one of the next."""
    return len(link([([0], clip(old)), ([1], clip(new))], SIZE, HandcraftConfig(**NOTHING | config))) == 1


OLD = ((0, 20), (0, 10), (0.5, 0.25))
NEW = ((10, 30), (0, 20), (0.3, 0.2))
# Box IoU: 10 of 30 columns. L1: two sides move by 10 of 100 pixels. Mask IoU: 10 of 20 columns. The same class.
TERMS = {"box_iou": 1 / 3, "box_l1": -0.2, "mask_iou": 1 / 2, "category": 1.0}


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_each_term_counts_with_its_weight(term, weight):
    similarity = weight * TERMS[term]
    assert linked(OLD, NEW, **{term: weight}, new_tracklet_below=similarity - 1e-3)
    assert not linked(OLD, NEW, **{term: weight}, new_tracklet_below=similarity + 1e-3)


def test_the_matching_threshold_is_compared_with_the_sum_of_the_terms():
    weights, similarity = dict.fromkeys(TERMS, 1.0), sum(TERMS.values())
    assert linked(OLD, NEW, **weights, new_tracklet_below=similarity - 1e-3)
    assert not linked(OLD, NEW, **weights, new_tracklet_below=similarity + 1e-3)


@pytest.mark.parametrize("new, same", [((0.9, 0.1), True), ((0.06, 0.05), True), ((0.49, 0.5), False), ((0.1, 0.9), False)])
def test_class_labels_are_matched_whatever_their_probabilities(new, same):
    """Sec. 4.2: the affinity takes "class label matching" into account: two labels are the same, or they are not."""
    old = ((0, 20), (0, 20), (0.5, 0.49))
    assert linked(old, ((60, 80), (60, 80), new), category=1.0, new_tracklet_below=0.99) == same
    assert linked(old, ((60, 80), (60, 80), new), category=1.0, new_tracklet_below=0.01) == same


def test_the_matching_has_the_largest_total_not_the_best_first_pair():
    """Old a is nearest to new c, but a-d and b-c are better together, as b overlaps c alone."""
    a, b = ((20, 40), (20, 40), (1.0,)), ((34, 54), (34, 54), (1.0,))
    c, d = ((26, 46), (26, 46), (1.0,)), ((12, 32), (12, 32), (1.0,))
    config = HandcraftConfig(**NOTHING | {"box_iou": 1.0}, new_tracklet_below=0.01)
    first, second = link([([0], clip(a, b)), ([1], clip(c, d))], SIZE, config)
    assert first.boxes[1][0] == 12 and second.boxes[1][0] == 26


def test_tracklets_that_score_too_little_are_not_linked():
    weights = {"box_iou": 1.0, "new_tracklet_below": 0.0}
    (only,) = link([([0], clip(OLD)), ([1], clip(((10, 30), (0, 20), (0.04, 0.03))))], SIZE,
                   HandcraftConfig(**NOTHING | weights | {"score_threshold": 0.05}))
    assert sorted(only.rles) == [0]
