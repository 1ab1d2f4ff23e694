"""Predicts the videos of a split with a run's weights or given ones, and scores the predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from effvis.evaluation.any_category import one_category
from effvis.evaluation.video_ap import evaluate, keep_frames
from effvis.methods import build_model
from effvis.model_file import network
from pipeline import methods
from pipeline.engine.training import set_up_torch
from pipeline.grid.given import check_weights
from pipeline.identity.specs import GivenSpec
from pipeline.runs.store import RunStore
from pipeline.scheduling.machine import device

if TYPE_CHECKING:
    from torch import nn

    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.data.sizes import InputSize
    from effvis.evaluation.video_ap import Evaluation
    from effvis.inference.predictor import Predictions
    from pipeline.identity.specs import EvalSpec
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params


def predict(
    model: nn.Module, method: str, index: DatasetIndex, config: InferenceConfig, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    """The predictions of a split by the method's way of inference."""
    return methods.get(method).predict(model, index, config, input_size, progress)


def score(ground_truth: Mapping[str, Any], predictions: Predictions, *, resamples: int = 0) -> Evaluation:
    """Scores predictions on the frames that they were made for; ``resamples`` as ``evaluate`` takes it."""
    truth = keep_frames(ground_truth, predictions.kept)
    return evaluate(truth, predictions.results, allow_empty=True, resamples=resamples)


def score_any_category(ground_truth: Mapping[str, Any], predictions: Predictions) -> float:
    """AP with categories ignored of predictions on the frames that they were made for."""
    truth, results = one_category(keep_frames(ground_truth, predictions.kept), predictions.results)
    return evaluate(truth, results, allow_empty=True).metrics["AP"]


def load_network(params: Params, spec: EvalSpec) -> nn.Module:
    """The network of an evaluation with its weights, on the device that the parameters ask for.

    Raises:
        UserError: the run is not trained, or given weights are not those that the evaluation was planned with.
    """
    set_up_torch(params)
    if isinstance(spec.train, GivenSpec):
        check_weights(spec.train)
        model = network(spec.train.model, spec.train.weights, spec.train.sha256)
    else:
        weights = RunStore(params.runs_dir).load_snapshot(spec.train.key, spec.halvings)
        model = build_model(spec.train.model)
        model.load_state_dict(weights)
    return model.to(device(params.resources))


def predict_here(
    params: Params, spec: EvalSpec, index: DatasetIndex, report: OnProgress | None
) -> tuple[Predictions, float]:
    """Predicts a split's videos in this process; returns the predictions and the seconds that they took.

    Raises:
        UserError: for the reasons of ``load_network``.
    """
    model = load_network(params, spec)
    began = time.monotonic()
    predictions = predict(model, spec.train.method, index, spec.inference, spec.train.input_size,
                          lambda done, total: report({"step": done, "total": total}) if report else None)
    return predictions, time.monotonic() - began
