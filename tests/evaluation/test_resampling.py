"""AP on resamples of a split's videos, against the evaluator on splits in which the videos are literally there so often."""

import copy

import numpy as np
import pytest
from support.video_ap import box, problem
from test_video_ap import random_problem

from effvis.evaluation.any_category import one_category
from effvis.evaluation.resampling import draws
from effvis.evaluation.video_ap import evaluate

COPIES = 100  # more than a video may be drawn
HERE, THERE = box(0, 0, 40, 40), box(100, 100, 140, 140)


def literally(truth, results, copies):
    """The split with copies of each video; ids of videos and annotations keep their order."""
    times = dict(zip(sorted(video["id"] for video in truth["videos"]), copies, strict=True))

    def repeated(items, name, changed):
        return [item | changed(item, copy) for item in items for copy in range(times.get(item[name], 0))]

    def of_video(copy):
        return lambda item: item * COPIES + copy

    videos = repeated(truth["videos"], "id", lambda video, copy: {"id": of_video(copy)(video["id"])})
    annotations = repeated(truth["annotations"], "video_id", lambda one, copy: {
        "video_id": of_video(copy)(one["video_id"]), "id": of_video(copy)(one["id"])})
    again = repeated(results, "video_id", lambda one, copy: {"video_id": of_video(copy)(one["video_id"])})
    return truth | {"videos": videos, "annotations": annotations}, again


@pytest.mark.parametrize("seed", range(40))
def test_a_video_drawn_twice_counts_as_two_videos(seed):
    """Random problems with crowds, ties, absences, categories without ground truth, and videos without anything. Annotations
    that share an id replace each other across videos, so that copies of one video would change another: each id stays once."""
    truth, results = random_problem(seed)
    truth["annotations"] = list({one["id"]: one for one in truth["annotations"] if one["id"]}.values())
    found = evaluate(copy.deepcopy(truth), copy.deepcopy(results), allow_empty=True, resamples=6)
    expected = [evaluate(*literally(truth, results, copies), allow_empty=True).metrics["AP"]
                for copies in draws(len(truth["videos"]), 6)]
    assert found.resampled_ap == pytest.approx(expected, abs=1e-12)


def whole_split(videos, seed, harder=0.0):
    """A split whose objects are found in some videos and missed in others; with ``harder``, in fewer."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for video in range(1, videos + 1):
        annotations.append((video, 1, [HERE], {}))
        found = rng.random() > 0.5 + harder
        results.append((video, 1, float(rng.random()), [HERE if found else THERE]))
    return problem(annotations, results, videos=videos, frames=1)


def test_its_spread_is_that_of_splits_drawn_anew():
    """Where every video is found or not by chance, AP of a split varies as AP of its resamples does."""
    drawn_anew = [evaluate(*whole_split(40, seed)).metrics["AP"] for seed in range(100)]
    spreads = [np.std(evaluate(*whole_split(40, seed), resamples=200).resampled_ap) for seed in range(5)]
    assert np.mean(spreads) == pytest.approx(np.std(drawn_anew), rel=0.2)


def test_two_evaluations_of_one_split_see_the_same_resamples():
    (truth, better), (_, worse) = whole_split(60, 0), whole_split(60, 0, harder=0.2)
    first, second = (np.array(evaluate(truth, results, resamples=200).resampled_ap) for results in (better, worse))
    assert np.corrcoef(first, second)[0, 1] > 0.5
    alone, shared = first.var() + second.var(), (first - second).var()
    assert shared < 0.7 * alone, "what both share cancels"


def test_draws_follow_from_the_number_of_videos_alone():
    once = draws(320, 200)
    assert once.shape == (200, 320) and (once.sum(axis=1) == 320).all()
    assert (draws(320, 20) == once[:20]).all(), "more resamples leave the first ones as they are"
    assert draws(5, 3).tolist() == DRAWN
    # A video is absent from (1 - 1/n)^n of the resamples, about 1/e.
    assert np.mean(once == 0) == pytest.approx(np.exp(-1), abs=0.01)


DRAWN = [[1, 1, 2, 0, 1], [0, 2, 1, 1, 1], [0, 0, 3, 2, 0]]  # another version of NumPy must draw the same


def test_without_ground_truth_a_resample_is_undefined():
    truth, results = problem([(1, 1, [box(0, 0, 9, 9)], {})], [(1, 1, 0.5, [box(0, 0, 9, 9)])], videos=3, frames=1)
    found = evaluate(truth, results, resamples=30).resampled_ap
    assert set(np.round(found, 9)) == {-1.0, 1.0}
    absent = [copies[0] == 0 for copies in draws(3, 30)]
    assert [value < 0 for value in found] == absent


def test_none_are_made_unless_asked_for():
    truth, results = whole_split(3, 0)
    assert list(evaluate(truth, results).resampled_ap) == []
    assert list(evaluate(truth | {"categories": [], "annotations": []}, [], allow_empty=True, resamples=5).resampled_ap) == []


class TestAnyCategory:
    def ap(self, results):
        truth, _ = problem([(1, 1, [HERE], {}), (1, 2, [THERE], {})], [], categories=2, frames=1)
        return evaluate(*one_category(truth, results)).metrics["AP"]

    def result(self, category, score, mask):
        return {"video_id": 1, "category_id": category, "score": score, "segmentations": [mask]}

    def test_a_wrong_category_costs_nothing(self):
        right = [self.result(1, 0.9, HERE), self.result(2, 0.8, THERE)]
        swapped = [one | {"category_id": 77} for one in right]
        assert self.ap(right) == self.ap(swapped) == pytest.approx(1)

    def test_a_tracklet_under_two_categories_counts_once_with_its_best_score(self):
        other = self.result(2, 0.5, THERE)
        twice = [self.result(2, 0.6, HERE), self.result(1, 0.9, HERE), other]
        assert self.ap(twice) == pytest.approx(1)
        _, merged = one_category({"annotations": []}, twice)
        assert [one["score"] for one in merged] == [0.9, 0.5]

    def test_two_tracklets_on_one_object_count_twice(self):
        assert self.ap([self.result(1, 0.9, HERE), self.result(2, 0.8, box(0, 0, 40, 39)),
                        self.result(2, 0.7, THERE)]) < 1

    def test_the_input_stays_as_it_was(self):
        truth, results = whole_split(3, 0)
        before = copy.deepcopy((truth, results))
        one_category(truth, results)
        assert (truth, results) == before
