"""Evaluations of what a row's clip training starts from: they tell how much of the row's AP the training on clips has brought.

A start is a network of single frames, whose categories may be those of another data set. So only its AP with categories ignored
counts, on the row's data set, and it is linked in every way that its method has, of which the best one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from effvis.config import HandcraftConfig, InferenceConfig
from pipeline import methods
from pipeline.grid import linking, starts
from pipeline.identity.specs import EvalSpec, GivenSpec, TrainSpec

if TYPE_CHECKING:
    from pipeline.settings.params import Params, RowSettings


def before_clips(params: Params, settings: RowSettings, spec: EvalSpec) -> tuple[EvalSpec, ...]:
    """The evaluations of the start of a row's training; none where ``why_not`` gives a reason.

    Args:
        params: with the row's own settings and data set.
        spec: the row's evaluation, for one seed.
    """
    if why_not(spec):
        return ()
    start = spec.train.parent or _shipped(params, spec.train)
    return tuple(EvalSpec(start, inference, spec.evaluation_digest, split=spec.split, start_on=params.dataset_name)
                 for inference in _ways_of_linking(params, settings, start.model.num_classes))


def why_not(spec: EvalSpec) -> str:
    """Why the start of a row's training has no number; empty if it has one."""
    if isinstance(spec.train, GivenSpec):
        return "the weights were not trained here"
    method, init = methods.get(spec.train.method), spec.train.init
    if not method.links_starts:
        return f"{method.title} has no way to link what its start finds in single frames"
    if init is None:
        return "the training starts from nothing"
    known = spec.train.parent is not None or init.startswith("shipped:")
    return "" if known else "the training starts from weights that are no whole network"


def _shipped(params: Params, train: TrainSpec) -> GivenSpec:
    """The shipped weights that a training starts from, as a network of their own. The evaluation's key has the split that they
    are evaluated on; the digest here only keeps apart what is stored for several data sets."""
    weights, facts = starts.described(train.init)
    model = type(train.model)(**facts["model"])
    return GivenSpec(model, train.input_size, facts["sha256"], weights, params.dataset_name, train.dataset_digest)


def _ways_of_linking(params: Params, settings: RowSettings, classes: int) -> Iterator[InferenceConfig]:
    """End-to-end if the method can, and every hand-crafted linking that was chosen for it, at whatever clip length.

    With categories ignored a tracklet counts once, so that the limit on pairs of a tracklet and a category is raised by the
    number of classes: no tracklet is lost for a lower category of another.
    """
    method = methods.get(settings.method)
    base = params.inference_of(method.name)
    base = base.model_copy(update={"max_tracklets": base.max_tracklets * classes, "same_frames_fps": None})
    if "end-to-end" in method.linkings:
        yield base.model_copy(update={"linking": "end-to-end"})
    chosen = [linking.chosen(params, method.name, T) for T in sorted({*params.scale.T, settings.T})]
    if base.handcraft != HandcraftConfig() or not any(chosen):
        chosen = [base.handcraft]
    different = [one for place, one in enumerate(chosen) if one is not None and one not in chosen[:place]]
    for handcraft in different:
        yield base.model_copy(update={"linking": "hand-craft", "handcraft": handcraft})
