"""Scores an evaluation's predictions and reports on them: the same for runs and for models that were given."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from effvis.inference.predictor import keep_predictions
from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import score
from pipeline.runs.cells import SAME_FRAMES

if TYPE_CHECKING:
    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from pipeline.settings.params import Params


def scored(
    params: Params, index: DatasetIndex, predictions: Predictions, inference: InferenceConfig, seconds: float
) -> dict[str, Any]:
    """What is reported about predictions of a split.

    Args:
        inference: how they were made.
        seconds: how long they took.
    """
    truth = ground_truth(params, index)
    found = score(truth, predictions)
    metrics = dict(found.metrics)
    if inference.same_frames_fps is not None:
        same = keep_predictions(predictions, index, inference.same_frames_fps)
        metrics[SAME_FRAMES] = score(truth, same).metrics["AP"]
    frames = sum(len(kept) for kept in predictions.kept.values())
    return {
        "metrics": metrics, "per_category": found.per_category, "inference": inference.model_dump(mode="json"),
        "seconds": round(seconds, 3), "frames": frames, "frames_per_second": round(frames / seconds, 2),
        "time": time.time()}
