"""From clips to the tracklets of a video."""

import numpy as np
import pytest
import torch
from builders import tiny_model

from effvis.config import HandcraftConfig, InferenceConfig
from effvis.data.clips import clip_frames
from effvis.inference import end_to_end, handcraft
from effvis.inference.clip import TrackletPredictions, paste_masks, predict_clip
from effvis.inference.predictor import _propagate, kept_frames
from effvis.inference.tracklets import VideoTracklet, best_results
from effvis.model.efficientvis import ClipOutput

SIZE = (32, 48)
EVERYTHING = InferenceConfig(presence_threshold=0.0)


def _clips(length: int, clip_length: int):
    """Padded clips of a random video, as the predictor makes them."""
    video = torch.randint(0, 255, (length, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for start in range(0, length, clip_length):
        yield (list(range(start, min(start + clip_length, length))), video[clip_frames(start, clip_length, length)])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])  # 1, T-1, T, T+1, 3T+2 at T = 3
def test_every_frame_of_a_video_gets_one_prediction(length):
    model = tiny_model(3).eval()
    tracklets = end_to_end.track(model, _clips(length, 3), SIZE, EVERYTHING)
    assert len(tracklets) == 4
    for tracklet in tracklets:
        assert sorted(tracklet.rles) == list(range(length))
        assert len(tracklet.probabilities) == length
    results = best_results(tracklets, video_id=7, category_ids=[1, 2, 3], length=length, most=10)
    assert len(results) == 10 and all(len(r["segmentations"]) == length for r in results)
    assert [r["score"] for r in results] == sorted((r["score"] for r in results), reverse=True)


def test_queries_are_carried_from_clip_to_clip():
    model = tiny_model(2).eval()
    clips = list(_clips(4, 2))
    _, carried = predict_clip(model, clips[0][1], None, SIZE, EVERYTHING)
    expected, _ = predict_clip(model, clips[1][1], carried, SIZE, EVERYTHING)
    tracklets = end_to_end.track(model, clips, SIZE, EVERYTHING)
    for n, tracklet in enumerate(tracklets):
        np.testing.assert_array_equal(tracklet.boxes[2], expected.boxes_NT4[n, 0])


class _Scripted(torch.nn.Module):
    """A network whose presence is told by the brightness of the clip; it counts how far each query has been carried."""

    def __init__(self):
        super().__init__()
        self.query_NTC = torch.nn.Parameter(torch.zeros(1, 1, 1))

    def initial_query(self, clips):
        return self.query_NTC.expand(clips, -1, -1, -1)

    def features(self, frames):
        class Features:
            height, width = SIZE
            brightness = frames.float().mean()
        return Features()

    def forward(self, features, query=None):
        query = self.initial_query(1) if query is None else query
        logit = 5.0 if features.brightness > 128 else -5.0
        return [ClipOutput(0, torch.full((1, 1, 1, 2), logit), torch.tensor([[[[0.0, 0, 48, 32]]]]), query + 1)]

    def mask_logits(self, features, output, select):
        # The query's count decides how much of the box is mask, so that the test can read it.
        mask = torch.full((1, 1, 1, 8, 8), -9.0)
        mask[..., : int(output.query_BNTC.item())] = 9.0
        return mask


def test_a_query_that_stays_background_is_reinitialised_and_becomes_a_new_tracklet():
    seen = [True, True, False, True, False, False, True]
    clips = [([f], torch.full((1, 3, *SIZE), 255 if s else 0, dtype=torch.uint8)) for f, s in enumerate(seen)]
    tracklets = end_to_end.track(_Scripted(), clips, SIZE, InferenceConfig(reinit_after=2))
    assert [sorted(t.rles) for t in tracklets] == [[0, 1, 3], [6]]
    one, four = (sum(_area(t.rles[f]) for f in frames) for t, frames in ((tracklets[1], [6]), (tracklets[0], [3])))
    assert four > 3 * one  # frame 3's query had been carried through four clips, frame 6's starts anew


def _area(rle):
    from pycocotools import mask
    return int(mask.area(rle))


def test_paste_fills_the_box_and_nothing_else():
    masks = torch.ones(2, 8, 8)
    boxes = torch.tensor([[8.0, 4.0, 24.0, 12.0], [-10.0, 20.0, 10.0, 60.0]])
    pasted = paste_masks(masks, boxes, SIZE)
    assert pasted[0].sum() == 16 * 8 and pasted[0, 4:12, 8:24].eq(1).all()
    assert pasted[1].sum() == 10 * 12 and pasted[1, 20:, :10].eq(1).all()


def _rle(x0, x1):
    from effvis.data.masks import encode
    mask = np.zeros(SIZE, dtype=bool)
    mask[5:15, x0:x1] = True
    return encode(mask)


def _clip(places, scores):
    """A one-frame clip of tracklets at horizontal places."""
    boxes = np.array([[[x, 5, x + 10, 15]] for x in places], dtype=np.float32)
    return TrackletPredictions(np.array(scores, dtype=np.float32)[:, None], np.ones((len(places), 1), dtype=bool), boxes,
                          [[_rle(x, x + 10)] for x in places])


def test_handcraft_links_what_overlaps_and_begins_anew_where_nothing_does():
    clips = [([0], _clip([0, 30], [[0.9, 0.1], [0.1, 0.8]])),
             ([1], _clip([31, 1], [[0.1, 0.8], [0.9, 0.1]])),
             ([2], _clip([2, 16], [[0.9, 0.1], [0.01, 0.02]]))]
    video = handcraft.link(clips, SIZE, HandcraftConfig(), threshold=0.05)
    assert [sorted(t.rles) for t in video] == [[0, 1, 2], [0, 1]]
    assert video[0].boxes[1][0] == 1 and video[1].boxes[1][0] == 31
    everything = handcraft.link(clips, SIZE, HandcraftConfig(), threshold=0.0)
    assert [sorted(t.rles) for t in everything] == [[0, 1, 2], [0, 1], [2]]


def test_lower_frame_rates():
    class Video:
        fps, length = 6.0, 10
    assert kept_frames(Video, None) == list(range(10))
    assert kept_frames(Video, 1.5) == [0, 4, 8]
    assert kept_frames(Video, 4.0) == [0, 1, 3, 4, 6, 7, 9]
    assert kept_frames(Video, 60.0) == list(range(10))
    assert _propagate(["a", None, "c"], [0, 4, 8], 10) == ["a"] * 4 + [None] * 4 + ["c"] * 2


def test_score_is_the_mean_over_present_frames():
    tracklet = VideoTracklet(probabilities=[np.array([0.2, 0.6]), np.array([0.4, 0.2])], rles={1: {}, 3: {}})
    np.testing.assert_allclose(tracklet.score_K(), [0.3, 0.4])
