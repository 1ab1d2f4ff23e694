"""The colours of tracklets, and the videos in which a run fails."""

import numpy as np
import pytest

from effvis.data.masks import encode
from pipeline.reporting.tracklets import DrawnTracklet, followed, mean_best_iou, video_ious

FRAMES = [0, 2, 4, 6]


def following(*columns, frames=FRAMES):
    """An object 4 pixels wide and 10 high at these columns; None means absent."""
    rles = {}
    for frame, column in zip(frames, columns, strict=True):
        if column is not None:
            mask = np.zeros((10, 40), dtype=bool)
            mask[:, column: column + 4] = True
            rles[frame] = encode(mask)
    return DrawnTracklet(rles, "a square")


def test_video_iou_adds_up_over_the_frames():
    instance = following(0, 4, 8, None)
    ious = video_ious([following(0, 4, 8, None), following(2, 6, None, None), following(30, 30, 30, 30)], [instance], FRAMES)
    # Half of each mask is shared in two frames: 2 x 20 pixels of 3 x 40 + 2 x 40 - 40 in all.
    assert ious.tolist() == [[1.0], [pytest.approx(40 / 160)], [0.0]]
    assert video_ious([instance], [instance], FRAMES[:0]).tolist() == [[0.0]]


def test_a_tracklet_keeps_the_number_of_the_instance_that_it_follows_longest():
    left, right = following(0, 0, 0, 0), following(20, 20, 20, 20)
    switched = following(20, 0, 0, 0)
    assert followed([switched, right], [left, right], FRAMES) == [0, 1]
    assert followed([right, following(10, 10, 10, 10), switched], [left, right], FRAMES) == [1, 2, 0]
    assert followed([left, left], [left, right], FRAMES) in ([0, 2], [2, 0]), "one tracklet for each instance"
    assert followed([], [left], FRAMES) == [] and followed([left], [], FRAMES) == [0]


def test_only_the_given_frames_count():
    left, right = following(0, 0, 0, 0), following(20, 20, 20, 20)
    switched = following(20, 0, 0, 0)
    assert followed([switched], [left, right], FRAMES) == [0]
    assert followed([switched], [left, right], FRAMES[:1]) == [1]


def test_a_video_is_as_good_as_the_best_tracklet_of_each_instance():
    left, right = following(0, 0, 0, 0), following(20, 20, 20, 20)
    half = following(20, 20, None, None)
    assert mean_best_iou([left, following(0, None, None, None), half], [left, right], FRAMES) == pytest.approx(0.75)
    assert mean_best_iou([left], [left, right], FRAMES) == pytest.approx(0.5)
    assert mean_best_iou([], [left], FRAMES) == 0
