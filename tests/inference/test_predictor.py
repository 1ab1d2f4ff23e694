"""The predictor of one video: the results of a data set's evaluation, from frames that come one by one."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from support.builders import tiny_model
from support.mixed import mixed_index
from support.models import noise, tiny_vistr

from effvis.config import InferenceConfig
from effvis.data.clips import read_frame
from effvis.data.dataset import Category
from effvis.data.sizes import KeptRatio
from effvis.errors import UserError
from effvis.inference.clip import predict_alone
from effvis.inference.predictor import predict_linked, predict_split
from effvis.predictor import Predictor
from effvis.vistr import clip as vistr_clip

SIZE = (32, 48)
FIVE = tuple(Category(number, f"shape{number}") for number in range(1, 6))
LINKED = {"new_tracklet_below": -100, "score_threshold": 0.0}


def predictor(model, input_size=SIZE, **inference):
    categories = FIVE[: model.config.num_classes]
    settings = InferenceConfig(**({"presence_threshold": 0.0, "handcraft": LINKED} | inference))
    return Predictor(model, input_size=input_size, inference=settings, categories=categories)


def _by_evaluation(name, model, index, input_size, inference):
    if name == "end-to-end":
        return predict_split(model, index, inference, input_size=input_size)
    predict = predict_alone if name == "hand-craft" else vistr_clip.predict_clip
    return predict_linked(model, index, inference, predict=predict, input_size=input_size)


@pytest.mark.parametrize("input_size", [SIZE, (24, 40)], ids=["as they are", "resized"])
@pytest.mark.parametrize("name", ["end-to-end", "hand-craft", "vistr"])
def test_a_video_gets_the_results_of_its_evaluation(drawn_index, name, input_size):
    _assert_same_results(drawn_index, drawn_index.videos[:2], name, input_size)


@pytest.mark.parametrize("name", ["end-to-end", "hand-craft", "vistr"])
def test_videos_of_any_ratio_keep_it(tmp_path, name):
    """A lying and an upright video: the network sees each at its own size, and its masks have the video's."""
    index = mixed_index(tmp_path)
    _assert_same_results(index, [index.videos[0], index.videos[2]], name, KeptRatio(shorter=40, longer=60))


def test_an_upright_video_of_the_paper_is_as_large_as_a_lying_one():
    seen = []
    model = tiny_model(1).eval()
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].size_B4[0, :2].tolist()))
    network = predictor(model, KeptRatio(shorter=360, longer=640))
    for height, width in ((720, 1280), (1280, 720), (480, 640), (30, 100)):
        found = network.track([np.zeros((height, width, 3), np.uint8)], minimum_score=0.0)
        assert found.tracklets and all(tracklet.mask(0).shape == (height, width) for tracklet in found.tracklets)
    assert seen == [[640, 360], [360, 640], [480, 360], [640, 192]]


def _assert_same_results(drawn_index, videos, name, input_size):
    model = tiny_vistr(3) if name == "vistr" else tiny_model(3, num_classes=5)
    network = predictor(model, input_size, linking="end-to-end" if name == "vistr" else name, max_tracklets=1000)
    evaluated = _by_evaluation(name, model, drawn_index, input_size, network.inference).results
    for video in videos:
        frames = (read_frame(drawn_index.images / file, (video.height, video.width)) for file in video.file_names)
        found = network.track(frames, minimum_score=0.0).results(video.id)
        own = [result for result in evaluated if result["video_id"] == video.id]
        assert found and all(result in own for result in found)
        assert all(rle["size"] == [video.height, video.width] for result in found for rle in result["segmentations"] if rle)
        assert len(own) == 5 * len(found), "evaluation has every tracklet under every category"
        assert max(result["score"] for result in found) == own[0]["score"]


def test_a_clip_of_frames_is_all_that_is_held():
    taken, dropped, held = [], [], []

    class Frame(np.ndarray):
        """An array that can be watched."""

    def coming():
        for number, frame in enumerate(noise(31)):
            watched = frame.copy().view(Frame)
            weakref.finalize(watched, dropped.append, number)
            taken.append(number)
            held.append(len(taken) - len(dropped))
            yield watched
            del watched

    tracked = predictor(tiny_model(3)).track(coming())
    assert tracked.length == 31 and max(held) <= 4, "a clip, and the one that is being taken"


def test_frames_are_taken_when_their_clip_is_looked_at():
    model, taken, seen = tiny_model(3), [], []
    model.register_forward_pre_hook(lambda *_: seen.append(len(taken)))
    predictor(model).track(taken.append(number) or frame for number, frame in enumerate(noise(7)))
    assert seen == [3, 6, 7]


def test_tracklets_are_numbered_as_they_appear_and_tell_where_they_are():
    tracked = predictor(tiny_model(2)).track(noise(5), minimum_score=0.0)
    assert [tracklet.id for tracklet in tracked.tracklets] == [1, 2, 3, 4]
    assert (tracked.height, tracked.width, tracked.length) == (32, 48, 5)
    for tracklet, result in zip(tracked.tracklets, tracked.results(9), strict=True):
        assert list(tracklet.rles) == list(tracklet.boxes) == list(tracklet.probabilities) == [0, 1, 2, 3, 4]
        assert tracklet.score == pytest.approx(np.mean(list(tracklet.probabilities.values())))
        assert tracklet.mask(0).shape == (32, 48) and tracklet.mask(5) is None
        assert (result["video_id"], result["category_id"]) == (9, tracklet.category.id)
        assert result["segmentations"] == list(tracklet.rles.values())
    half = sorted(tracklet.score for tracklet in tracked.tracklets)[2]
    assert len(predictor(tiny_model(2)).track(noise(5), minimum_score=half).tracklets) == 2


def test_classes_and_scores_leave_tracklets_out_and_change_no_rank():
    network = predictor(tiny_model(2))
    everything = network.track(noise(5), minimum_score=0.0).tracklets
    by_score = sorted(everything, key=lambda tracklet: -tracklet.score)
    assert [tracklet.rank for tracklet in by_score] == [1, 2, 3, 4]
    for least, classes in ((by_score[1].score, None), (0.0, {by_score[2].category.name}), (0.0, set())):
        expected = [tracklet for tracklet in everything
                    if tracklet.score >= least and (classes is None or tracklet.category.name in classes)]
        kept = network.track(noise(5), minimum_score=least, classes=classes).tracklets
        assert [(one.rank, one.score, one.rles) for one in kept] == [(one.rank, one.score, one.rles) for one in expected]
        assert [one.id for one in kept] == list(range(1, len(kept) + 1))


@pytest.mark.parametrize("name, near", [
    ("shap1", "Near it are shape1"), ("SHAPE2", "Near it are shape2"), ("zebra", "knows shape1, shape2, shape3$")])
def test_an_unknown_class_is_refused_before_any_frame_is_read(name, near):
    def frames():
        raise AssertionError("a frame was read")
        yield

    with pytest.raises(UserError, match=f"{name}.*{near}"):
        predictor(tiny_model(2)).track(frames(), classes=["shape1", name])


@pytest.mark.parametrize("height, width", [(37, 53), (1, 1), (301, 7)])
def test_frames_of_any_size_and_kind_get_masks_of_their_size(height, width):
    frames = noise(4, height, width)
    network = predictor(tiny_model(3))
    from_arrays, from_images = network.track(frames), network.track(map(Image.fromarray, frames))
    assert from_arrays.results() == from_images.results()
    assert all(tracklet.mask(3).shape == (height, width) for tracklet in from_arrays.tracklets)


@pytest.mark.parametrize("frames, problem", [
    ([], "there is no frame"),
    ([noise(1)[0], noise(1, 32, 47)[0]], r"frames\[1\]: is 47x32, the first is 48x32"),
    ([noise(1)[0].astype(float)], r"frames\[0\]: is float64 \(32, 48, 3\)"),
    ([noise(1)[0, :, :, 0]], r"frames\[0\]: is uint8 \(32, 48\)"),
    ([noise(1)[0, :0]], r"frames\[0\]: is uint8 \(0, 48, 3\)"),
    (["00000.jpg"], r"frames\[0\]: is str"),
    ([torch.zeros(3, 32, 48)], r"frames\[0\]: is Tensor"),
])
def test_what_is_no_video_is_named(frames, problem):
    with pytest.raises(UserError, match=problem):
        predictor(tiny_model(3)).track(frames)
