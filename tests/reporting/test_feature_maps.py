"""Figure 4: the tracklet that it shows, the drift of its proposals, and the part of its regions that is the target."""

import numpy as np
import pytest
import torch
from support.builders import tiny_model

from effvis.data.clips import FrameReader
from pipeline.reporting.feature_maps import _inside, target

T, SIDE = 2, 4


@pytest.fixture(scope="module")
def model():
    return tiny_model(clip_length=T).eval()


def box_iou(a, b):
    overlap = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return overlap / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap)


def test_it_is_the_tracklet_that_fits_an_instance_best(drawn_index, model):
    reader = FrameReader(drawn_index, (32, 48))
    seen = 0
    for v in range(len(drawn_index.videos)):
        whole = [track for track in drawn_index.tracks_of(v) if all(track.rles[:T])]
        found = target(model, reader, v)
        assert (found is None) == (not whole)
        if found is None:
            continue
        seen += 1
        with torch.inference_mode():
            boxes_NT4 = model(model.features(reader.clip(v, list(range(T))).unsqueeze(0)))[-1].boxes_BNT4[0].numpy()
        fits = [max(np.mean([box_iou(boxes_T4[t], track.boxes_L4[t]) for t in range(T)]) for track in whole)
                for boxes_T4 in boxes_NT4]
        np.testing.assert_allclose(found.own.boxes_T4, boxes_NT4[int(np.argmax(fits))], rtol=1e-5)
        for one in (found.own, found.drifted):
            assert [likeness.shape for likeness in one.likeness] == [(T, SIDE, SIDE)] * 2
            assert all(-1.001 <= likeness.min() <= likeness.max() <= 1.001 for likeness in one.likeness)
            assert all(0 <= share <= 1 for share in one.separation)
    assert seen, "some video shows an instance from the start"


def test_proposals_drift_by_half_their_width_to_where_there_is_more_room(drawn_index, model):
    reader = FrameReader(drawn_index, (32, 48))
    found = [one for v in range(len(drawn_index.videos)) if (one := target(model, reader, v))]
    for one in found:
        left, _, right, _ = one.own.boxes_T4[0]
        half = (one.own.boxes_T4[:, 2] - one.own.boxes_T4[:, 0]) / 2
        expected = half if (left + right) / 2 < 24 else -half
        np.testing.assert_allclose(one.drifted.boxes_T4 - one.own.boxes_T4, expected[:, None] * [1, 0, 1, 0], atol=1e-4)


def test_the_share_of_the_target_adds_up_to_its_area(drawn_index):
    track = next(track for track in drawn_index.tracks if all(track.rles[:T]))
    boxes_T4 = track.boxes_L4[:T]
    inside_TSS = _inside(track, range(T), boxes_T4, 8)
    boxes_area_T = np.prod(boxes_T4[:, 2:] - boxes_T4[:, :2], axis=1)
    np.testing.assert_allclose(inside_TSS.mean(axis=(1, 2)), track.areas_L[:T] / boxes_area_T, atol=0.05)
    beside_T4 = boxes_T4 + np.array([200, 0, 200, 0])
    assert not _inside(track, range(T), beside_T4, 8).any()
