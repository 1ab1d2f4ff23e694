"""Objects of frames become tracklets: what counts as alike, who may return, and that no frame costs more than another."""

import numpy as np
import pytest
from pydantic import ValidationError
from support.models import noise, put
from support.queryinst import tiny_queryinst

import effvis
from effvis.data.masks import encode
from effvis.queryinst.config import FrameLinking
from effvis.queryinst.link import Linker, Objects, similarity

HEIGHT, WIDTH = 24, 64
NEAR = np.ones(1, dtype=int)


def things(*described):
    """Objects, each from (direction of its query, left edge of its 8x8 box, class)."""
    queries, boxes, rles, probabilities = [], [], [], []
    for direction, left, label in described:
        queries.append(np.eye(4, dtype=np.float32)[direction] * (1 + direction))
        boxes.append(np.array([left, 4, left + 8, 12], dtype=np.float32))
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[4:12, max(left, 0): left + 8] = True
        rles.append(encode(mask))
        probabilities.append(np.where(np.arange(3) == label, 0.6, 0.0).astype(np.float32))
    return Objects(np.array(queries, dtype=np.float32).reshape(-1, 4), np.array(boxes, dtype=np.float32).reshape(-1, 4), rles,
                   np.array(probabilities, dtype=np.float32).reshape(-1, 3))


def only(**weights):
    return FrameLinking(**(dict(query=0, box_iou=0, mask_iou=0, category=0) | weights))


@pytest.mark.parametrize("weight, alike, other", [
    ("query", (0, 40, 1), (1, 0, 0)), ("box_iou", (1, 0, 1), (0, 40, 0)), ("mask_iou", (1, 0, 1), (0, 40, 0)),
    ("category", (1, 40, 0), (0, 0, 1)),
])
def test_each_weight_looks_at_its_own_similarity(weight, alike, other):
    known = things((0, 0, 0))
    np.testing.assert_allclose(similarity(known, things(alike, other), NEAR, only(**{weight: 2})), [[1, 0]], atol=1e-6)


def test_the_similarity_is_a_weighted_mean():
    """Half of a box's width is a third of the union; the query is another, the class the same."""
    known, seen = things((0, 0, 0)), things((1, 4, 0))
    found = similarity(known, seen, NEAR, FrameLinking(query=1, box_iou=2, mask_iou=3, category=4))
    np.testing.assert_allclose(found, [[(0 + 2 / 3 + 3 / 3 + 4) / 10]], rtol=1e-6)


def test_the_place_of_an_object_that_is_away_counts_less():
    known, seen = things((0, 0, 0)), things((0, 40, 0))
    near, away = (similarity(known, seen, np.array([frames]), FrameLinking())[0, 0] for frames in (1, 10))
    assert near == pytest.approx(2 / 4) and away == pytest.approx(2 / 2.2)


def test_objects_keep_their_numbers_in_any_order():
    linker = Linker(FrameLinking())
    assert linker.add(things((0, 0, 0), (1, 20, 1))).tolist() == [0, 1]
    assert linker.add(things((1, 21, 1), (2, 40, 2), (0, 1, 0))).tolist() == [1, 2, 0]


def test_the_largest_similarity_of_all_pairs_together_decides():
    """The first object is nearest to the second's new place, but then the second would have none."""
    linker = Linker(only(box_iou=1, new_tracklet_below=0.05))
    linker.add(things((0, 0, 0), (0, 6, 0)))
    assert linker.add(things((0, 4, 0), (0, 10, 0))).tolist() == [0, 1]


def test_a_pair_that_is_not_linked_takes_no_partner():
    """Two pairs of 0.45 are more than one of 0.6, but neither may be linked."""
    linker = Linker(only(box_iou=1, new_tracklet_below=0.5))
    linker.add(things((0, 3, 0), (0, 8, 0)))
    assert linker.add(things((0, 5, 0), (0, 0, 0))).tolist() == [0, 2]


def test_an_object_may_be_away_and_return_elsewhere():
    linker = Linker(FrameLinking(forget_after=5))
    linker.add(things((0, 0, 0), (1, 20, 1)))
    for _ in range(4):
        assert linker.add(things((1, 20, 1))).tolist() == [1]
    assert linker.add(things((1, 20, 1), (0, 50, 0))).tolist() == [1, 0]


@pytest.mark.parametrize("frames, number", [(5, 0), (6, 1)])
def test_it_is_forgotten_afterwards(frames, number):
    linker = Linker(FrameLinking(forget_after=5))
    linker.add(things((0, 0, 0)))
    for _ in range(frames):
        linker.add(things())
    assert linker.add(things((0, 0, 0))).tolist() == [number]


def test_what_is_remembered_does_not_grow():
    """Of more objects than fit, those that were seen last are kept."""
    linker = Linker(FrameLinking(new_tracklet_below=1, remembered=3))
    sizes = []
    for frame in range(50):
        assert linker.add(things((frame % 4, frame, frame % 3))).tolist() == [frame]
        sizes.append(len(linker))
    assert sizes[:4] == [1, 2, 3, 3] and set(sizes[3:]) == {3}


def test_frames_without_objects_change_nothing():
    linker = Linker(FrameLinking())
    assert linker.add(things()).tolist() == []
    assert linker.add(things((0, 0, 0))).tolist() == [0]
    assert linker.add(things()).tolist() == []
    assert linker.add(things((0, 0, 0))).tolist() == [0]


def test_something_has_to_count():
    with pytest.raises(ValidationError, match="one of the weights"):
        only()


def tracked(folder, frames, **linking):
    """How many frames each tracklet of a small model has, all its queries being present."""
    put(folder, tiny_queryinst(), inference={"presence_threshold": 0.0, "frames": linking})
    return [len(tracklet.rles) for tracklet in effvis.load(folder).track(frames, minimum_score=0).tracklets]


def test_a_model_follows_what_stays(tmp_path):
    frame = noise(1)[0]
    assert tracked(tmp_path / "model", [frame] * 3, new_tracklet_below=0.99) == [3] * 4


def test_a_model_takes_the_settings_of_its_folder(tmp_path):
    assert tracked(tmp_path / "model", list(noise(3)), new_tracklet_below=1.0) == [1] * 12
