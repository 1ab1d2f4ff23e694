"""Run-length encodings: exact both ways, and foreign ones are not trusted."""

import numpy as np
import pytest

from effvis.data import masks

HEIGHT, WIDTH = 7, 11


@pytest.fixture
def mask_HW():
    return np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.4


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 96)])
def test_encoding_round_trip(shape, density):
    mask_HW = np.random.default_rng(1).random(shape) < density
    rle = masks.encode(mask_HW)
    assert rle["size"] == list(shape) and isinstance(rle["counts"], str)
    np.testing.assert_array_equal(masks.decode(rle), mask_HW)
    column_major = mask_HW.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], column_major))))
    expected = np.diff(np.concatenate(([0], edges, [column_major.size])))
    np.testing.assert_array_equal(masks.run_lengths(rle["counts"]), expected)


def test_many_agree_with_one_by_one():
    masks_NHW = np.random.default_rng(2).random((5, HEIGHT, WIDTH)) < 0.3
    assert masks.encode_many(masks_NHW) == [masks.encode(mask) for mask in masks_NHW]
    assert masks.encode_many(masks_NHW[:0]) == []


def test_box_and_area_of_known_pixels():
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[2:5, 3:9] = True
    rle = masks.encode(mask_HW)
    assert masks.area(rle) == 18
    np.testing.assert_array_equal(masks.bbox_xyxy(rle), [3, 2, 9, 5])


def test_every_form_becomes_the_same_rle(mask_HW):
    compressed = masks.encode(mask_HW)
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": masks.run_lengths(compressed["counts"]).tolist()}
    assert masks.to_compressed(compressed, HEIGHT, WIDTH) == compressed
    assert masks.to_compressed(uncompressed, HEIGHT, WIDTH) == compressed


def test_polygons_are_filled_and_joined():
    polygons = [[1, 1, 5, 1, 5, 4, 1, 4], [7, 2, 10, 2, 10, 6, 7, 6]]
    mask_HW = masks.decode(masks.to_compressed(polygons, HEIGHT, WIDTH))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:4, 1:5] = expected[2:6, 7:10] = True
    np.testing.assert_array_equal(mask_HW, expected)


@pytest.mark.parametrize(("segmentation", "reason"), [
    ({"size": [WIDTH, HEIGHT], "counts": [77]}, "wrong size"),
    ({"size": [HEIGHT, WIDTH], "counts": [70]}, "cover 70 pixels"),
    ({"size": [HEIGHT, WIDTH], "counts": [80, -3]}, "wrong size"),
    ({"size": [HEIGHT, WIDTH], "counts": []}, "whole numbers"),
    ({"size": [HEIGHT, WIDTH], "counts": [76.0, 1.0]}, "whole numbers"),
    ({"size": [HEIGHT, WIDTH], "counts": ""}, "run-length string"),
    ({"size": [HEIGHT, WIDTH], "counts": "zö"}, "run-length string"),
    ({"size": [HEIGHT, WIDTH], "counts": "P"}, "middle of a number"),
    ({"size": [HEIGHT, WIDTH], "counts": "P" * 20 + "1"}, "too large"),
    ({"counts": [77]}, "neither"),
    ("77", "neither"),
    ([], "empty"),
    ([[0, 0, 1, 1]], "at least three points"),
    ([[0, 0, 1, 1, 2]], "at least three points"),
    ([[0, 0, 1, 1, "2", 3]], "flat list"),
    ([[0, 0, 1, 1, float("nan"), 3]], "not finite"),
    ([[0, 0, 1, 1, 1e12, 3]], "far outside"),
])
def test_foreign_segmentations_are_refused(segmentation, reason):
    with pytest.raises(ValueError, match=reason):
        masks.to_compressed(segmentation, HEIGHT, WIDTH)


def test_a_compressed_rle_of_another_frame_is_refused(mask_HW):
    larger = masks.encode(np.zeros((HEIGHT + 1, WIDTH), bool))
    with pytest.raises(ValueError, match="wrong size"):
        masks.to_compressed(larger | {"size": [HEIGHT, WIDTH]}, HEIGHT, WIDTH)


def test_more_masks_than_fit_a_byte():
    """An instance of a long video has as many; with NumPy 2, pycocotools' area fails for more than 255 masks."""
    rles = [masks.encode(np.tri(4, 6, k % 5 - 1, dtype=bool)) for k in range(600)]
    assert masks.areas(rles).tolist() == [masks.area(rle) for rle in rles]
    assert masks.boxes_xyxy(rles).shape == (600, 4)
