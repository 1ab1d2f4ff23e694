"""Properties that hold for every problem, on problems that Hypothesis generates, and shrinks if one fails."""

import copy

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.video_ap import reference, text_rle

from effvis.evaluation.average_precision import METRICS
from effvis.evaluation.video_ap import evaluate

HEIGHT, WIDTH = 4, 5
# Times say nothing on a busy machine. The examples are the same each time, so that everybody sees the same failures.
properties = settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))

pixels = st.integers(0, 2 ** (HEIGHT * WIDTH) - 1).map(
    lambda bits: np.array([bits >> i & 1 for i in range(HEIGHT * WIDTH)], np.uint8).reshape(HEIGHT, WIDTH))
masks = st.none() | pixels.map(text_rle)
# There are few values, so that scores are often equal.
scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@st.composite
def problems(draw, *, crowds=True, annotated=0):
    """A ground truth of at least ``annotated`` instances, and results, some of which are copies of instances."""
    videos, categories, frames = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    groups = st.tuples(st.integers(1, videos), st.integers(1, categories))
    tracks = st.lists(masks, min_size=frames, max_size=frames)
    annotations = []
    for number in range(draw(st.integers(annotated, 5))):
        (video, category), segmentations = draw(groups), draw(tracks)
        areas = [draw(st.sampled_from([5, 128**2, 30_000, 256**2, 100_000])) if mask else None for mask in segmentations]
        annotations.append({"id": number + 1, "video_id": video, "category_id": category, "segmentations": segmentations,
                            "areas": areas, "iscrowd": int(crowds and draw(st.booleans()))})
    results = []
    for _ in range(draw(st.integers(1, 8))):
        copied = draw(st.sampled_from(annotations)) if annotations and draw(st.booleans()) else None
        video, category = (copied["video_id"], copied["category_id"]) if copied else draw(groups)
        segmentations = copy.deepcopy(copied["segmentations"]) if copied else draw(tracks)
        results.append({"video_id": video, "category_id": category, "score": draw(scores), "segmentations": segmentations})
    truth = {
        "videos": [{"id": v, "height": HEIGHT, "width": WIDTH, "length": frames,
                    "file_names": [f"{v}/{f}" for f in range(frames)]} for v in range(1, videos + 1)],
        "categories": [{"id": c, "name": f"category {c}"} for c in range(1, categories + 1)],
        "annotations": annotations,
    }
    return truth, results


def distinct_scores(results):
    return [result | {"score": 0.9 - i / 100} for i, result in enumerate(results)]


@properties
@given(problems())
def test_the_numbers_are_those_of_the_literal_transcription(problem):
    truth, results = problem
    assert evaluate(truth, results).metrics == reference.evaluate(copy.deepcopy(truth), copy.deepcopy(results))["metrics"]


@properties
@given(problems())
def test_each_number_is_a_fraction_or_undefined(problem):
    metrics = evaluate(*problem).metrics
    assert tuple(metrics) == METRICS
    assert all(value == -1 or 0 <= value <= 1 for value in metrics.values())


@properties
@given(problems())
def test_what_is_undefined_depends_on_the_ground_truth_alone(problem):
    truth, results = problem
    without = evaluate(truth, [], allow_empty=True).metrics
    assert {name for name, value in evaluate(truth, results).metrics.items() if value == -1} == {
        name for name, value in without.items() if value == -1}
    assert all(value in (-1, 0) for value in without.values())


@properties
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_results_does_not_matter_where_scores_differ(problem, random):
    truth, results = problem
    results = distinct_scores(results)
    shuffled = random.sample(results, len(results))
    assert evaluate(truth, shuffled).metrics == evaluate(truth, results).metrics


@properties
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_videos_and_categories_does_not_matter(problem, random):
    truth, results = problem
    shuffled = truth | {name: random.sample(truth[name], len(truth[name])) for name in ("videos", "categories")}
    assert evaluate(shuffled, results).metrics == evaluate(truth, results).metrics


@properties
@given(problems())
def test_only_the_ranking_by_score_counts(problem):
    truth, results = problem
    rescaled = [result | {"score": 7 * result["score"] ** 3 - 2} for result in results]
    assert evaluate(truth, rescaled).metrics == evaluate(truth, results).metrics


@properties
@given(problems())
def test_frames_may_be_permuted(problem):
    """An overlap sums over frames, whatever their order."""
    truth, results = problem
    backwards = truth | {"annotations": [annotation | {name: annotation[name][::-1] for name in ("segmentations", "areas")}
                                         for annotation in truth["annotations"]]}
    turned = [result | {"segmentations": result["segmentations"][::-1]} for result in results]
    assert evaluate(backwards, turned).metrics == evaluate(truth, results).metrics


@properties
@given(problems(crowds=False, annotated=1))
def test_perfect_results_score_one(problem):
    """This holds over all areas; an instance without pixels cannot be found, and AR1 allows only one instance per video."""
    truth, _ = problem
    seen = [annotation for annotation in truth["annotations"]
            if any(mask and reference.coco_mask.area(mask) for mask in annotation["segmentations"])]
    results = [{name: one[name] for name in ("video_id", "category_id", "segmentations")} | {"score": 0.5} for one in seen]
    metrics = evaluate(truth | {"annotations": seen}, results, allow_empty=True).metrics
    expected = pytest.approx(1) if seen else -1
    assert {name: metrics[name] for name in ("AP", "AP50", "AP75", "AR10", "AR100")} == dict.fromkeys(
        ("AP", "AP50", "AP75", "AR10", "AR100"), expected)


@properties
@given(problems())
def test_a_wrong_result_that_scores_lowest_changes_nothing(problem):
    """Precision at a recall is the best one at that recall or more; a last result can only add to the false ones."""
    truth, results = problem
    group = {name: results[0][name] for name in ("video_id", "category_id")}
    wrong = group | {"score": -1.0, "segmentations": [None] * len(results[0]["segmentations"])}
    assert evaluate(truth, [*results, wrong]).metrics == evaluate(truth, results).metrics


@properties
@given(problems())
def test_more_results_per_video_find_more(problem):
    metrics = evaluate(*problem).metrics
    assert metrics["AR1"] <= metrics["AR10"] <= metrics["AR100"]


@properties
@given(problems(crowds=False))
def test_a_higher_threshold_finds_no_more(problem):
    """With crowds it may: a result that takes an instance at a lower threshold may be left to a crowd at a higher one, where
    it costs nothing."""
    metrics = evaluate(*problem).metrics
    assert metrics["AP"] <= metrics["AP50"] + 1e-12 and metrics["AP75"] <= metrics["AP50"]


@properties
@given(problems(annotated=1))
def test_categories_are_scored_apart(problem):
    """The mean over categories is the mean of the APs of single categories."""
    truth, results = problem
    evaluation = evaluate(truth, results)
    alone = []
    for category in truth["categories"]:
        part = truth | {"categories": [category]}
        own = [result for result in results if result["category_id"] == category["id"]]
        alone.append(evaluate(part, own, allow_empty=True).metrics["AP"])
        assert evaluation.per_category[category["name"]]["AP"] == pytest.approx(alone[-1])
    defined = [value for value in alone if value > -1]
    assert evaluation.metrics["AP"] == pytest.approx(np.mean(defined) if defined else -1)
