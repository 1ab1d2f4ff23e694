"""Scores a trained run with many hand-crafted linkings. Its network runs once, on videos that it was not trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from effvis.config import HandcraftConfig
from effvis.errors import UserError
from effvis.inference.predictor import link_clips, predict_clips
from effvis.methods import of_network
from pipeline.datasets.holdout import ground_truth
from pipeline.engine.prediction import load_network, score
from pipeline.grid.linking import has_test
from pipeline.indexing.read import load_index

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

WEIGHTS = ("box_iou", "box_l1", "mask_iou", "category")


def grid(base: HandcraftConfig, thresholds: Sequence[float], weights: Sequence[float]) -> list[HandcraftConfig]:
    """``base`` and, after it, every other combination of a matching threshold and the four weights, not all of them 0."""
    found = [base]
    for values in itertools.product(weights, repeat=len(WEIGHTS)):
        for threshold in thresholds:
            linking = base.model_copy(update={**dict(zip(WEIGHTS, values, strict=True)), "new_tracklet_below": threshold})
            if any(values) and linking not in found:
                found.append(linking)
    return found


def sweep(
    params: Params, spec: EvalSpec, linkings: Sequence[HandcraftConfig],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[float], int]:
    """AP, as a fraction, of a trained run with each linking on the videos of val, and how many these are.

    Args:
        params: with the holdout that the run was trained with, or of a data set whose test split is reported.
        progress: called with (what is done, number done, number in all).

    Raises:
        UserError: the parameters report the videos of val, or the run is not trained.
    """
    if params.holdout is None and not has_test(params):
        raise UserError("params.yaml", "holdout", "no videos are held out, so that the choice would be made on reported ones",
                        "Set holdout.fraction")
    index = load_index(params, "val")
    truth = ground_truth(params, index)
    model = load_network(params, spec)

    def report(what: str) -> Callable[[int, int], None] | None:
        return progress and (lambda done, total: progress(what, done, total))

    clips = predict_clips(model, index, spec.inference, predict=of_network(model).predict_clip,
                          input_size=spec.train.input_size, progress=report("videos"))
    scores = []
    for linking in linkings:
        found = link_clips(clips, index, spec.inference.model_copy(update={"handcraft": linking}))
        scores.append(score(truth, found).metrics["AP"])
        if progress is not None:
            progress("linkings", len(scores), len(linkings))
    return scores, len(index.videos)


def best(scores: Sequence[float]) -> int:
    """The place of the best AP; of equal ones the first, so that nothing but a gain replaces the base of a grid."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))
