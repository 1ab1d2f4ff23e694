"""Scores an evaluation's predictions and reports on them: the same for runs and for models that were given."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from effvis.evaluation.any_category import ANY_CATEGORY
from effvis.evaluation.average_precision import METRICS
from effvis.evaluation.resampling import RESAMPLES
from effvis.inference.predictor import keep_predictions
from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import score, score_any_category
from pipeline.runs.cells import RESAMPLED, SAME_FRAMES, resampled_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from pipeline.settings.params import Params


def scored(
    params: Params, index: DatasetIndex, predictions: Predictions, inference: InferenceConfig, seconds: float,
    *, of_start: bool = False,
) -> dict[str, Any]:
    """What is reported about predictions of a split.

    Args:
        inference: how they were made.
        seconds: how long they took.
        of_start: their categories mean nothing here, so that all is undefined but AP with categories ignored.
    """
    truth = ground_truth(params, index)
    any_category = {ANY_CATEGORY: score_any_category(truth, predictions)}
    if of_start:
        numbers = {"metrics": {**dict.fromkeys(METRICS, -1.0), **any_category}, "per_category": {}}
    else:
        numbers = _numbers(truth, index, predictions, inference)
        numbers["metrics"] |= any_category
    frames = sum(len(kept) for kept in predictions.kept.values())
    return {
        **numbers, "inference": inference.model_dump(mode="json"),
        "seconds": round(seconds, 3), "frames": frames, "frames_per_second": round(frames / seconds, 2),
        "time": time.time()}


def _numbers(
    truth: Mapping[str, Any], index: DatasetIndex, predictions: Predictions, inference: InferenceConfig
) -> dict[str, Any]:
    """The numbers that need the data set's categories: overall, by category, and AP on resamples of the videos."""
    found = score(truth, predictions, resamples=RESAMPLES)
    metrics = dict(found.metrics)
    if inference.same_frames_fps is not None:
        same = keep_predictions(predictions, index, inference.same_frames_fps)
        metrics[SAME_FRAMES] = score(truth, same).metrics["AP"]
    defined = metrics["AP"] >= 0
    return {"metrics": metrics, "per_category": found.per_category,
            **({RESAMPLED: resampled_text(found.resampled_ap)} if defined else {})}
