"""Chooses the best of an evaluation's predictions, and reports on it: the same for runs and for models that were given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import score

if TYPE_CHECKING:
    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from pipeline.settings.params import Params


def best_scored(
    params: Params, index: DatasetIndex, candidates: Mapping[float | None, Predictions], inference: InferenceConfig,
    seconds: float,
) -> tuple[list[dict], dict[str, Any]]:
    """The results with the best AP over the score thresholds, and what is reported about them.

    Args:
        candidates: predictions by score threshold, as ``predict`` gives them.
        seconds: how long they took.
    """
    truth = ground_truth(params, index)
    scored = {threshold: score(truth, predictions) for threshold, predictions in candidates.items()}
    best = max(scored, key=lambda threshold: scored[threshold].metrics["AP"])
    frames = sum(len(kept) for kept in candidates[best].kept.values())
    sweep = {"threshold": best, "ap_by_threshold": {str(t): found.metrics["AP"] for t, found in scored.items()}}
    return candidates[best].results, {
        "metrics": scored[best].metrics, "per_category": scored[best].per_category, **(sweep if best is not None else {}),
        "inference": inference.model_dump(mode="json"), "seconds": round(seconds, 3), "frames": frames,
        "frames_per_second": round(frames / seconds, 2), "time": time.time()}
