"""Evaluates a trained run on the validation split. Trains nothing.

Without --row it evaluates the headline run of the parameters and writes results/headline.json.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError

if TYPE_CHECKING:
    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.evaluation.video_ap import Evaluation
    from effvis.inference.predictor import Predictions
    from effvis.model.efficientvis import EfficientVIS
    from effvis.model.vistr import VisTR
    from pipeline.config import Params
    from pipeline.progress import Report
    from pipeline.specs import EvalSpec, Method


def evaluate_run(params: Params, spec: EvalSpec, *, report: Report | None = None) -> dict[str, Any]:
    """The content of the evaluation's ``metrics.json``, computed unless the store has it.

    With hand-craft linking, every score threshold is tried and the best AP counts, as in the paper; all are recorded.

    Args:
        report: called with ``step`` and ``total`` (videos).

    Returns:
        ``metrics`` (the 12 numbers as fractions), ``per_category``, ``threshold`` and ``ap_by_threshold`` (hand-craft
        only), ``seconds`` of prediction, ``frames``, ``frames_per_second``, and the keys ``run`` and ``evaluation``.

    Raises:
        UserError: the run is not trained so far, or the dataset is not the one that the spec was made for.
    """
    from pipeline.storage import fetch
    from pipeline.store import RunStore

    store = RunStore(params.runs_dir)
    run, own = spec.train.key, spec.key
    found = store.evaluation(run, own)
    if found is not None:
        return found
    fetch(params, run)
    with store.lock(f"{run}-{own}"):
        return store.evaluation(run, own) or _evaluate(params, spec, store, report)


def predict(
    model: EfficientVIS | VisTR, method: Method, index: DatasetIndex, config: InferenceConfig, input_size: tuple[int, int],
    progress: Callable[[int, int], None],
) -> dict[float | None, Predictions]:
    """Predictions by score threshold; end-to-end inference has none to choose and its key is None."""
    from effvis.inference.predictor import predict_split, predict_sweep

    if method == "vistr":
        from effvis.inference.vistr_clip import predict_clip

        return dict(predict_sweep(model, index, config, predict=predict_clip, input_size=input_size, progress=progress))
    if config.linking == "hand-craft":
        from effvis.inference.clip import predict_alone

        return dict(predict_sweep(model, index, config, predict=predict_alone, input_size=input_size, progress=progress))
    return {None: predict_split(model, index, config, input_size=input_size, progress=progress)}


def score(ground_truth: Mapping[str, Any], predictions: Predictions) -> Evaluation:
    """Scores predictions on the frames that they were made for."""
    from effvis.evaluation.video_ap import evaluate, keep_frames

    return evaluate(keep_frames(ground_truth, predictions.kept), predictions.results, allow_empty=True)


def predict_here(
    params: Params, spec: EvalSpec, index: DatasetIndex, report: Report | None
) -> tuple[dict[float | None, Predictions], float]:
    """Predictions by score threshold of a split's videos, in this process, and the seconds that they took.

    Raises:
        UserError: the run is not trained.
    """
    from effvis.model.build import build_model
    from pipeline.machine import device
    from pipeline.store import RunStore
    from pipeline.train import set_up_torch

    weights = RunStore(params.runs_dir).load_snapshot(spec.train.key, spec.halvings)
    set_up_torch(params)
    model = build_model(spec.train.model)
    model.load_state_dict(weights)
    model.to(device(params.resources))
    began = time.monotonic()
    candidates = predict(model, spec.train.method, index, spec.inference, spec.train.input_size,
                         lambda done, total: report({"step": done, "total": total}) if report else None)
    return candidates, time.monotonic() - began


def _evaluate(params: Params, spec: EvalSpec, store: Any, report: Report | None) -> dict[str, Any]:
    from pipeline.config import evaluation_digest
    from pipeline.holdout import ground_truth
    from pipeline.index import load_index
    from pipeline.specs import steps_after
    from pipeline.train import steps_of_whole

    params = params.of_dataset(spec.train.dataset_name)
    index = load_index(params, "val")
    if evaluation_digest(spec.train.method, index.digest) != spec.evaluation_digest:
        raise UserError(params.index_folder, "digest", "the dataset changed after this evaluation was planned", "Start again")
    if params.resources.workers_per_run == 1:
        candidates, seconds = predict_here(params, spec, index, report)
    else:
        from pipeline.workers import predict_on_workers

        candidates, seconds = predict_on_workers(params, spec, index, report)
    truth = ground_truth(params, index)
    scored = {threshold: score(truth, predictions) for threshold, predictions in candidates.items()}
    best = max(scored, key=lambda threshold: scored[threshold].metrics["AP"])
    whole = steps_of_whole(store.folder(spec.train.key), spec.train)
    frames = sum(len(kept) for kept in candidates[best].kept.values())
    sweep = {"threshold": best, "ap_by_threshold": {str(t): found.metrics["AP"] for t, found in scored.items()}}
    return store.write_evaluation(spec.train.key, spec.key, candidates[best].results, {
        "run": spec.train.key, "evaluation": spec.key, "metrics": scored[best].metrics,
        "per_category": scored[best].per_category, **(sweep if best is not None else {}),
        "inference": spec.inference.model_dump(mode="json"), "seconds": round(seconds, 3), "frames": frames,
        "frames_per_second": round(frames / seconds, 2), "time": time.time(),
        "videos_seen": steps_after(whole, spec.halvings) * spec.train.train.batch_size})


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import add_row_arguments, parser, progress_bar

    arguments = parser(__doc__, "pipeline.evaluate")
    add_row_arguments(arguments)
    args = arguments.parse_args(argv)

    from pipeline.config import find_evaluation, load_params
    from pipeline.storage import keeping
    from pipeline.store import write_atomically

    params = load_params(args.params, args.set)
    spec = find_evaluation(params, args.row, args.seed)
    with keeping(params), progress_bar("evaluate") as update:
        found = evaluate_run(params, spec, report=lambda r: update(r["step"], r["total"]))
    percent = {name: round(100 * value, 2) if value >= 0 else None for name, value in found["metrics"].items()}
    print(" ".join(f"{name} {value}" for name, value in percent.items()))
    if percent["AP"] is None:
        print("No ground truth here to score against: python -m pipeline.submit makes what the competition's server takes",
              file=sys.stderr)
    if args.row is None and args.seed == 0:
        params.results_dir.mkdir(parents=True, exist_ok=True)
        summary = {"run": spec.train.key, "evaluation": spec.key, "percent": percent}
        write_atomically(params.results_dir / "headline.json", (json.dumps(summary, indent=2) + "\n").encode())
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
