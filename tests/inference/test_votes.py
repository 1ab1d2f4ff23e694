"""The one category of a tracklet by vote (``InferenceConfig.category``), on frames whose best classes are known."""

import numpy as np
import pytest
import torch
from support.builders import small_vistr

from effvis.config import InferenceConfig
from effvis.data.dataset import Category
from effvis.data.masks import encode
from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet, best_results
from effvis.predictor import Predictor

MASK = encode(np.ones((4, 6), dtype=bool))


def tracklet(frames, absence=None, present=None, first=None):
    """One tracklet of one clip with these class probabilities in each frame; of its frames, the ``first`` are no padding."""
    present = np.ones(len(frames), dtype=bool) if present is None else np.array(present)
    clip = TrackletPredictions(
        np.array([frames]), present[None], np.zeros((1, len(frames), 4)), [[MASK if here else None for here in present]],
        None if absence is None else np.array([absence]))
    found = VideoTracklet()
    found.add(clip, 0, list(range(len(frames) if first is None else first)))
    return found


def results(tracklets, category):
    return [(one["category_id"], one["score"]) for one in best_results(
        tracklets, video_id=1, category_ids=[10, 20], length=3, most=10, category=category)]


def test_the_class_that_is_best_in_most_frames_wins_and_every_frame_counts():
    one = tracklet([(0.5, 0.1), (0.2, 0.3), (0.0, 0.1)], present=[True, True, False])
    assert one.vote() == (1, pytest.approx(0.9 / 3))
    assert results([one], "vote") == [(20, pytest.approx(0.3))]
    # As means over the two frames where it is present, it is two results.
    assert results([one], "mean") == [(10, pytest.approx(0.35)), (20, pytest.approx(0.2))]
    assert one.best_class("vote")[0] == 1 and one.best_class("mean")[0] == 0


def test_of_equal_counts_the_first_class_wins():
    assert tracklet([(0.1, 0.4), (0.4, 0.1)]).vote() == (0, pytest.approx(0.4))


def test_absence_votes_and_is_no_result():
    frames = [(0.1, 0.3), (0.1, 0.2), (0.3, 0.1)]
    assert tracklet(frames, absence=[0.0, 0.6, 0.5]).vote() == (-1, pytest.approx(1.4 / 3))
    assert results([tracklet(frames, absence=[0.0, 0.6, 0.5]), tracklet(frames)], "vote") == [(20, pytest.approx(0.8 / 3))]
    assert tracklet(frames, absence=[0.3, 0.1, 0.1]).vote()[0] == -1, "of equal ones it is the first"


def test_padding_has_no_vote():
    assert tracklet([(0.1, 0.3), (0.5, 0.1), (0.5, 0.1)], first=1).vote() == (1, pytest.approx(0.3))


def test_a_predictor_names_a_tracklet_by_vote():
    model = small_vistr(2, num_classes=2, absent_row=True).eval()
    frames = torch.randint(0, 255, (2, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()

    def named(bias):
        with torch.no_grad():
            model.class_logits.weight.zero_()
            model.class_logits.bias.copy_(torch.tensor(bias))
        config = InferenceConfig(linking="hand-craft", presence_threshold=0.0, category="vote",
                                 handcraft={"score_threshold": 0.0})
        predictor = Predictor(model, input_size=(32, 48), inference=config,
                              categories=(Category(1, "cat"), Category(2, "dog")))
        return {(one.category.name, round(one.score, 4)) for one in predictor.track(frames).tracklets}

    assert named([0.0, 1.0, 2.0, 0.0]) == {("dog", round(float(torch.tensor([0.0, 1, 2, 0]).softmax(0)[2]), 4))}
    assert named([3.0, 1.0, 2.0, 0.0]) == set()
