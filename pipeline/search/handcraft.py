"""Chooses the hand-crafted linking of a method at a clip length: its matching threshold and the weights of its four terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from effvis.config import build as build_config
from pipeline.datasets.holdout import FILE
from pipeline.engine.linking import WEIGHTS, best, grid, sweep
from pipeline.engine.run import train_with_bars
from pipeline.grid.choice_file import LinkingChoice, TriedLinking, read
from pipeline.grid.linking import has_test, reported
from pipeline.grid.rows import evaluation_spec
from pipeline.indexing import build
from pipeline.indexing.read import read_facts
from pipeline.settings.params import HoldoutSettings
from pipeline.system.cli import progress_bar

if TYPE_CHECKING:
    from effvis.config import HandcraftConfig
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params, RowSettings

THRESHOLDS = (-0.5, 0.0, 0.1, 0.3, 0.5, 0.7, 1.0, 1.3, 1.6, 2.0, 2.5)  # four terms of weight 1 reach 3: L1 is never above 0
WEIGHT_VALUES = (0.0, 1.0)
HELD_OUT = 0.2  # of the training videos


def with_holdout(params: Params, fraction: float, seed: int) -> Params:
    """The parameters with training videos held out, and with an index of their own, so that the project's stays as it is.

    Training videos that the parameters report are neither trained on nor held out.

    Raises:
        UserError: the fraction is none, or such videos are reported and the project's index, which lists them, is missing or
            of another data set or holdout.
    """
    values = {"fraction": fraction, "seed": seed}
    if params.holdout is not None:
        read_facts(params)  # refuses an index of anything else
        values["without"] = str(params.index_folder / FILE)
    return params.on_val().model_copy(update={
        "holdout": build_config(HoldoutSettings, values, where="command line", prefix="--hold-out"),
        "dataset": str(params.dataset_folder.absolute()), "data_dir": params.runs_dir / ".linking"})


def choosing(params: Params, fraction: float = HELD_OUT, seed: int = 0) -> Params:
    """The parameters measured on videos that are free to choose a linking on: val if test is reported, else training videos
    that are held out, with an index of their own.

    Args:
        params: of a row's data set.

    Raises:
        UserError: for the reasons of ``with_holdout``.
    """
    if has_test(params):
        return params.on_val()
    held_out = with_holdout(params, fraction, seed)
    with progress_bar("indexing") as update:
        build.build(held_out, update, test=False)
    return held_out


def spec_of(params: Params, settings: RowSettings, seed: int = 0) -> EvalSpec:
    """The evaluation whose linking is to be chosen, with the parameters' own linking whatever was chosen before.

    Args:
        params: as ``choosing`` gives them.
    """
    pinned = {**settings.params, "inference.handcraft.new_tracklet_below": params.inference.handcraft.new_tracklet_below}
    return evaluation_spec(params, settings.model_copy(update={"dataset": None, "params": pinned}), seed)


def is_chosen(params: Params, T: int, spec: EvalSpec) -> bool:
    """Whether the choices have a linking that was chosen from this very evaluation."""
    return any((choice.T, choice.evaluation) == (T, spec.key) for choice in read(params).linking)


def choose(
    params: Params, free: Params, T: int, spec: EvalSpec, command: str, *,
    thresholds: Sequence[float] = THRESHOLDS, weights: Sequence[float] = WEIGHT_VALUES,
    show: Callable[[Sequence[HandcraftConfig], Sequence[float]], None] | None = None,
) -> LinkingChoice:
    """Trains the row's network if need be, runs it once over the videos to choose on, and scores every linking on them.

    Args:
        params: of the row's data set, as they report.
        free: as ``choosing`` gives them.
        T: the paper's clip length.
        show: called with all linkings and their AP.
    """
    train_with_bars(free, spec.train)
    linkings = grid(spec.inference.handcraft, thresholds, weights)
    with progress_bar("linking") as update:
        scores, videos = sweep(free, spec, linkings, lambda what, done, total: update(done, total, what))
    if show is not None:
        show(linkings, scores)
    place = best(scores)
    tried = tuple(
        TriedLinking(AP=round(AP, 4), **{name: getattr(linking, name) for name in (*WEIGHTS, "new_tracklet_below")})
        for linking, AP in zip(linkings, scores, strict=True))
    return LinkingChoice(
        method=spec.train.method, T=T, dataset=params.dataset_name, reported=reported(params), handcraft=linkings[place],
        command=command, run=spec.train.key, evaluation=spec.key, held_out=videos, AP=round(scores[place], 4),
        AP_of_defaults=round(scores[0], 4), tried=tried)
