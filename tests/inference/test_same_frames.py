"""AP of table 1h's rows on the same frames: that of the official evaluator's protocol on files cut to these frames."""

import types

import numpy as np
import pytest

from effvis.data.masks import encode
from effvis.evaluation.video_ap import evaluate
from effvis.inference.predictor import Predictions, keep_predictions
from pipeline.engine.prediction import score

VIDEO = types.SimpleNamespace(id=1, fps=6.0, length=6)
INDEX = types.SimpleNamespace(videos=(VIDEO,))


def rle(x):
    mask = np.zeros((20, 60), dtype=bool)
    mask[5:15, x:x + 10] = True
    return encode(mask)


def files(places, found):
    """Ground truth and results of one square each, in as many frames as there are places."""
    truth = {"videos": [{"id": 1, "width": 60, "height": 20, "length": len(places), "file_names": [str(p) for p in places]}],
             "categories": [{"id": 1, "name": "square"}],
             "annotations": [{"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "segmentations": [rle(x) for x in places],
                              "areas": [100] * len(places), "bboxes": [[x, 5, 10, 10] for x in places]}]}
    return truth, [{"video_id": 1, "category_id": 1, "score": 0.9, "segmentations": [rle(x) for x in found]}]


def test_predictions_are_scored_on_the_frames_that_the_low_rate_keeps():
    places, found = [0, 5, 10, 15, 20, 25], [0, 40, 40, 40, 22, 40]  # right in frame 0, nearly in frame 4, wrong elsewhere
    truth, results = files(places, found)
    stray = {"video_id": 1, "category_id": 1, "score": 0.95, "segmentations": [None, rle(40), None, None, None, None]}
    predictions = Predictions([stray, *results], {1: list(range(6))})
    same = keep_predictions(predictions, INDEX, 1.5)
    by_hand = evaluate(*files([0, 20], [0, 22])).metrics["AP"]
    assert same.kept == {1: [0, 4]} and len(same.results) == 1
    assert score(truth, same).metrics["AP"] == by_hand > score(truth, predictions).metrics["AP"]


def test_predictions_at_the_low_rate_stay_as_they_are():
    _, results = files([0, 20], [0, 22])
    predictions = Predictions(results, {1: [0, 4]})
    assert keep_predictions(predictions, INDEX, 1.5) == predictions
    with pytest.raises(ValueError):
        keep_predictions(predictions, INDEX, 3.0)
