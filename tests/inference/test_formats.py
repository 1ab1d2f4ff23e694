"""effvis.formats: tracklets as MOTS text and as COCO, from the descriptions of the formats."""

import numpy as np
import pytest
from pycocotools import mask as cocotools

from effvis import formats
from effvis.data.dataset import Category
from effvis.data.masks import encode
from effvis.errors import UserError
from effvis.predictor import TrackedVideo, Tracklet

HEIGHT, WIDTH = 48, 64
PERSON, LIGHT, DOG = Category(1, "person"), Category(10, "traffic light"), Category(18, "dog")
CATEGORIES = (PERSON, LIGHT, DOG)


def square(top, left, side):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top:top + side, left:left + side] = True
    return mask


def tracklet(number, category, score, masks):
    rles = {frame: encode(mask) for frame, mask in masks.items()}
    return Tracklet(number, number, category, score, rles, {frame: np.zeros(4) for frame in rles},
                    dict.fromkeys(rles, score))


def video(*tracklets, length=3):
    return TrackedVideo(HEIGHT, WIDTH, length, tracklets)


def read_mots(lines):
    """{(frame, object): (class, mask)} of MOTS text, by the format's description and its reference decoder."""
    found = {}
    for line in lines:
        frame, number, class_number, height, width, rle = line.split(" ")
        key = int(frame), int(number)
        assert key not in found
        mask = cocotools.decode({"size": [int(height), int(width)], "counts": rle.encode()})
        found[key] = int(class_number), mask.astype(bool)
    return found


def test_a_mots_line_has_frame_object_class_size_and_mask():
    one = tracklet(1, PERSON, 0.9, {0: square(2, 3, 10), 2: square(4, 3, 10)})
    two = tracklet(2, DOG, 0.8, {1: square(30, 40, 8)})
    found = read_mots(formats.mots_lines(video(one, two), formats.mots_classes(CATEGORIES), [5, 6, 9]))
    assert list(found) == [(5, 1001), (6, 18002), (9, 1001)]
    assert [class_number for class_number, _ in found.values()] == [1, 18, 1]
    for (_, mask), expected in zip(found.values(), (square(2, 3, 10), square(30, 40, 8), square(4, 3, 10)), strict=True):
        np.testing.assert_array_equal(mask, expected)


def test_no_masks_overlap_and_the_higher_score_wins_a_pixel():
    low, high = square(0, 0, 20), square(10, 10, 20)
    hidden = square(12, 12, 4)
    given = (tracklet(1, PERSON, 0.5, {0: low}), tracklet(2, PERSON, 0.7, {0: high}), tracklet(3, DOG, 0.6, {0: hidden}))
    found = read_mots(formats.mots_lines(video(*given), formats.mots_classes(CATEGORIES), [0, 1, 2]))
    assert sum(mask.astype(int) for _, mask in found.values()).max() == 1
    np.testing.assert_array_equal(found[0, 1002][1], high)
    np.testing.assert_array_equal(found[0, 1001][1], low & ~high)
    assert list(found) == [(0, 1001), (0, 1002)], "nothing is left of the third"


def test_of_equal_scores_the_first_wins():
    both = tracklet(1, PERSON, 0.5, {0: square(0, 0, 9)}), tracklet(2, PERSON, 0.5, {0: square(0, 0, 9)})
    assert list(read_mots(formats.mots_lines(video(*both), formats.mots_classes(CATEGORIES), [0, 1, 2]))) == [(0, 1001)]


def test_no_class_has_the_number_of_ignored_regions():
    classes = formats.mots_classes(CATEGORIES)
    assert classes == {1: PERSON, 19: LIGHT, 18: DOG}
    (line,) = formats.mots_lines(video(tracklet(1, LIGHT, 0.5, {0: square(0, 0, 9)})), classes, [0, 1, 2])
    assert line.startswith("0 19001 19 48 64 ")


def test_more_objects_than_the_format_has_numbers_for_are_refused():
    many = [tracklet(number, PERSON, 0.5, {0: square(0, 0, 9)}) for number in range(1, 1001)]
    assert len(list(formats.mots_lines(video(many[998]), {1: PERSON}, [0, 1, 2]))) == 1
    with pytest.raises(UserError, match="999 objects, and there are 1000"):
        list(formats.mots_lines(video(*many), {1: PERSON}, [0, 1, 2]))


@pytest.mark.parametrize("names, numbers", [
    (["000007.png", "000008.png"], [7, 8]),  # KITTI's and MOTSChallenge's frames are called by their number
    (["clip_1.jpg", "clip_2.jpg"], [1, 2]),
    (["a.jpg", "b.jpg"], [0, 1]),
    (["1.jpg", "b.jpg"], [0, 1]),
    (["x1.jpg", "y1.jpg"], [0, 1]),
])
def test_frames_have_the_numbers_of_their_files(names, numbers):
    assert formats.frame_numbers(names) == numbers


def test_coco_has_what_cocotools_and_tao_ask_for():
    one = tracklet(1, PERSON, 0.9, {0: square(2, 3, 10), 2: square(4, 3, 10)})
    two = tracklet(2, DOG, 0.25, {0: np.zeros((HEIGHT, WIDTH), bool), 2: square(30, 40, 8)})
    content = formats.coco(video(one, two), CATEGORIES, name="clip", files=["a.png", "b.png", "c.png"], fps=6.0)
    assert [(v["id"], v["name"]) for v in content["videos"]] == [(1, "clip")]
    assert [(i["id"], i["file_name"], i["height"], i["width"], i["video_id"], i["frame_id"]) for i in content["images"]] == [
        (1, "a.png", 48, 64, 1, 0), (2, "b.png", 48, 64, 1, 1), (3, "c.png", 48, 64, 1, 2)]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(1, "person"), (10, "traffic light"), (18, "dog")]
    annotations = content["annotations"]
    assert [(a["id"], a["image_id"], a["video_id"], a["track_id"], a["category_id"], a["score"], a["iscrowd"])
            for a in annotations] == [(1, 1, 1, 1, 1, 0.9, 0), (2, 3, 1, 1, 1, 0.9, 0), (3, 3, 1, 2, 18, 0.25, 0)]
    assert [a["bbox"] for a in annotations] == [[3, 2, 10, 10], [3, 4, 10, 10], [40, 30, 8, 8]]
    assert [a["area"] for a in annotations] == [100, 100, 64]
    for annotation in annotations:
        assert cocotools.area(annotation["segmentation"]) == annotation["area"]
