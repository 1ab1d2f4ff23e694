"""The paper's figures 4 to 7, made again from stored runs, and the videos where a run fails most.

Rules decide which runs, videos, frames and tracklets are shown; they stand beside each figure. If the run store does not have
a figure's runs, a note says so: cells are enough for numbers, but pictures need weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from effvis.colours import colour
from effvis.data.clips import FrameReader
from effvis.errors import UserError
from effvis.inference.predictor import kept_frames
from effvis.methods import build_model
from effvis.visualize import GREY
from pipeline import methods
from pipeline.engine.training import set_up_torch
from pipeline.grid.rows import find_evaluation
from pipeline.indexing.read import load_index, measured_split
from pipeline.reporting.feature_maps import target
from pipeline.reporting.pictures import frame_scale, frames_with, heat_pictures, jpeg_uri, region_pictures
from pipeline.reporting.tracklets import (
    evenly,
    followed,
    from_results,
    mean_best_iou,
    scored_frames,
    stored_results,
    tracked,
    truth,
)
from pipeline.runs.store import RunStore

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.model.efficientvis import EfficientVIS
    from pipeline.identity.specs import EvalSpec
    from pipeline.reporting.feature_maps import Target
    from pipeline.reporting.tracklets import DrawnTracklet
    from pipeline.settings.params import Params

SEED = 0
MAIN_ROW = "table1e:w/ CL"
RATE_ROWS = ("table1h:Original FPS", "table1h:1.5 FPS")
COLUMNS = 6
_VIDEOS = "Videos are evenly spaced over the split, frames over each video."
_COLOURS = (
    "A tracklet has the colour of the instance that it follows best over the whole video (at most one tracklet for each, by "
    "the largest sum of video IoUs); a tracklet that goes over to another instance shows a wrong colour there."
)


@dataclass(frozen=True)
class Strip:
    """One row of pictures.

    Attributes:
        uri: all pictures as one image, a data: URI.
        alt: text that describes the image for readers who cannot see it.
        legend: each thing that is drawn, with its colour in CSS.
    """

    label: str
    uri: str
    alt: str
    legend: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Panel:
    """Strips of one video under common column heads."""

    title: str
    columns: tuple[str, ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class Figure:
    """A figure on the page.

    Attributes:
        text: how to read the figure, and the rules by which it was made.
        remark: what was measured for it, or empty.
        runs: a line for each run: row, seed and keys.
        panels: the pictures; empty if a note says what is missing.
    """

    name: str
    title: str
    text: str
    remark: str
    runs: tuple[str, ...]
    panels: tuple[Panel, ...]
    note: str


@dataclass(frozen=True)
class Source:
    """The data and settings from which figures are made.

    Attributes:
        minimum_score: tracklets below this score are not drawn.
        as_sketch: whether to draw edges instead of photographs.
    """

    params: Params
    minimum_score: float
    as_sketch: bool

    @cached_property
    def index(self) -> DatasetIndex:
        return load_index(self.params, measured_split(self.params))

    def spec(self, row: str) -> EvalSpec:
        return find_evaluation(self.params, row, SEED)

    def model(self, spec: EvalSpec) -> EfficientVIS:
        """The trained network in evaluation mode."""
        set_up_torch(self.params)
        model = build_model(spec.train.model)
        model.load_state_dict(RunStore(self.params.runs_dir).load_weights(spec.train.key))
        return model.eval()

    def videos(self, wanted: int) -> list[int]:
        return evenly(len(self.index.videos), wanted)

    def panel(self, v: int, frames: Sequence[int], strips: Sequence[Strip], title: str = "") -> Panel:
        """Strips of a video below the truth."""
        instances = truth(self.index, v)
        true = self._strip("truth", v, frames, instances, range(len(instances)))
        columns = tuple(f"frame {frame}" for frame in frames)
        return Panel(f"Video {self.index.videos[v].id}{title}", columns, (true, *strips))

    def strip(self, label: str, v: int, frames: Sequence[int], found: Sequence[DrawnTracklet], scored: Sequence[int]) -> Strip:
        """Tracklets in the colours of the instances that they follow in the scored frames; other frames are grey."""
        if not found:
            label += f": no tracklet scores {self.minimum_score:g} or more"
        return self._strip(label, v, frames, found, followed(found, truth(self.index, v), scored), scored)

    def _strip(
        self, label: str, v: int, frames: Sequence[int], drawn: Sequence[DrawnTracklet], identities: Sequence[int],
        scored: Sequence[int] | None = None,
    ) -> Strip:
        seen = [frame for frame in frames if scored is None or frame in scored]
        pictures = frames_with(self.index, v, seen, drawn, identities, scale=frame_scale(self.index, v),
                               backdrop="sketch" if self.as_sketch else "grey")
        by_frame = dict(zip(seen, pictures, strict=True))
        dropped = Image.new("RGB", pictures[0].size, GREY)
        named = ", ".join(one.text for one in drawn) or "nothing"
        alt = f"Video {self.index.videos[v].id}, {label}, frames {', '.join(map(str, seen))}: {named}"
        legend = tuple(("#{:02x}{:02x}{:02x}".format(*colour(identity)), one.text)
                       for identity, one in sorted(zip(identities, drawn, strict=True), key=lambda pair: pair[0]))
        return Strip(label, jpeg_uri([by_frame.get(frame, dropped) for frame in frames]), alt, legend)


class Drawing(NamedTuple):
    panels: list[Panel]
    remark: str = ""


def _feature_maps(source: Source) -> Drawing:
    """Fig. 4: the tracklet that fits best in a video's first clip, with its own proposals and with drifted ones."""
    spec = source.spec(MAIN_ROW)
    model, reader = source.model(spec), FrameReader(source.index, spec.train.input_size)
    targets = [found for v in range(len(source.index.videos)) if (found := target(model, reader, v)) is not None]
    if not targets:
        return Drawing([], "No video shows an instance throughout its first clip.")
    shares = [f"{mean(seen.separation[stage] for seen in group):.0%}"
              for group in ([one.own for one in targets], [one.drifted for one in targets]) for stage in (0, 1)]
    remark = (
        f"In the first clips of the {len(targets)} videos that show an instance throughout them, {shares[0]} of the variance "
        f"of a region's features lies between target and rest before the filter, and {shares[1]} after it; where proposals "
        f"have drifted, {shares[2]} and {shares[3]} (mean over the videos).")
    return Drawing([_feature_panel(source, targets[i]) for i in evenly(len(targets), 2)], remark)


def _feature_panel(source: Source, one: Target) -> Panel:
    shown = list(dict.fromkeys(one.frames))[: COLUMNS // 2]
    both = (one.own, one.drifted)
    backdrop = "sketch" if source.as_sketch else "photograph"
    places, crops = zip(*(region_pictures(source.index, one.v, shown, seen, backdrop) for seen in both), strict=True)
    heat = [heat_pictures([seen.likeness[stage][t] for seen in both for t in range(len(shown))]) for stage in (0, 1)]
    rows = {"proposal": sum(places, []), "what it crops": sum(crops, []), "before the filter": heat[0],
            "after the filter": heat[1]}
    columns = tuple(f"frame {frame}{drifted}" for drifted in ("", ", drifted") for frame in shown)
    video = f"Video {source.index.videos[one.v].id}"
    return Panel(video, columns, tuple(
        Strip(label, jpeg_uri(row), f"{video}, {label}: {'; '.join(columns)}") for label, row in rows.items()))


def _frame_rates(source: Source) -> Drawing:
    """Fig. 5: the same weights at the rates of table 1h and at half the lowest."""
    original, dropped = (source.spec(row) for row in RATE_ROWS)
    model, rate = source.model(original), dropped.inference.test_fps
    panels = []
    for v in source.videos(2):
        video = source.index.videos[v]
        kept = kept_frames(video, rate)
        shown = (kept if len(kept) >= COLUMNS else kept_frames(video, 2 * rate))[:COLUMNS]
        strips = []
        for fps in (None, rate, rate / 2):
            inference = original.inference.model_copy(update={"test_fps": fps})
            found = tracked(model, inference, source.index, v, original.train.input_size, source.minimum_score)
            label = f"{fps or video.fps:g} frames per second"
            strips.append(source.strip(label, v, shown, [one.without_boxes() for one in found], kept_frames(video, fps)))
        panels.append(source.panel(v, shown, strips))
    return Drawing(panels)


def _overlays(source: Source) -> Drawing:
    """Fig. 6: masks and proposals."""
    spec = source.spec(MAIN_ROW)
    model = source.model(spec)
    panels = []
    for v in source.videos(3):
        scored = scored_frames(spec, source.index, v)
        shown = [scored[i] for i in evenly(len(scored), COLUMNS)]
        found = tracked(model, spec.inference, source.index, v, spec.train.input_size, source.minimum_score)
        panels.append(source.panel(v, shown, [source.strip(methods.get(spec.train.method).title, v, shown, found, scored)]))
    return Drawing(panels)


def _beside_each_other(rows: Mapping[str, str], source: Source) -> Drawing:
    """Rows of a table on the same frames (Fig. 7)."""
    specs = [source.spec(row) for row in rows.values()]
    results = [stored_results(source.params, spec) for spec in specs]
    panels = []
    for v in source.videos(3):
        scored = scored_frames(specs[0], source.index, v)
        shown = [scored[i] for i in evenly(len(scored), COLUMNS)]
        strips = [
            source.strip(label, v, shown, from_results(own, spec, source.index, v, source.minimum_score), scored)
            for label, own, spec in zip(rows, results, specs, strict=True)
        ]
        panels.append(source.panel(v, shown, strips))
    return Drawing(panels)


def _failures(source: Source) -> Drawing:
    """The videos with the lowest score: the mean, over instances, of the video IoU of the tracklet that fits best."""
    spec = source.spec(MAIN_ROW)
    results = stored_results(source.params, spec)
    ious = {}
    for v in range(len(source.index.videos)):
        instances = truth(source.index, v)
        if instances:
            found = from_results(results, spec, source.index, v, 0.0)
            ious[v] = mean_best_iou(found, instances, scored_frames(spec, source.index, v))
    panels = []
    for v in sorted(ious, key=ious.__getitem__)[:3]:
        scored = scored_frames(spec, source.index, v)
        shown = [scored[i] for i in evenly(len(scored), COLUMNS)]
        found = from_results(results, spec, source.index, v, source.minimum_score)
        strips = [source.strip(methods.get(spec.train.method).title, v, shown, found, scored)]
        panels.append(source.panel(v, shown, strips, f": mean video IoU {ious[v]:.2f}"))
    return Drawing(panels)


@dataclass(frozen=True)
class _Recipe:
    name: str
    title: str
    text: str
    rows: tuple[str, ...]
    draw: Callable[[Source], Drawing]


_RECIPES = (
    _Recipe(
        "figure-4", "Figure 4: what the dynamic filter keeps of a region",
        "Light is where the features of a region are most like the target's mean feature (cosine; both halves of a row on "
        "one scale), before and after the filter that the tracklet's query makes, in the mask branch of the last interaction. "
        "Right: the same with every proposal moved by half its width, towards the side of the frame that has more room, as "
        "if it had drifted. Shown is the tracklet whose proposals fit an instance best (mean box IoU) in a video's first "
        "clip. Videos are evenly spaced over the split.",
        (MAIN_ROW,), _feature_maps),
    _Recipe(
        "figure-5", "Figure 5: identity at low frame rates",
        "The same weights on the same videos, of which only some frames are kept; grey: a frame that was dropped. Columns "
        "are the first frames that are kept at table 1h's rate (where these are few, at twice that rate). " + _COLOURS
        + " Videos are evenly spaced over the split.",
        RATE_ROWS, _frame_rates),
    _Recipe(
        "figure-6", "Figure 6: one colour per identity, proposals as boxes", f"{_COLOURS} {_VIDEOS}", (MAIN_ROW,), _overlays),
    *(_Recipe(one.name, one.title, f"{one.text} {_COLOURS} {_VIDEOS}", tuple(one.rows.values()),
              partial(_beside_each_other, one.rows))
      for method in methods.everyone() for one in method.comparisons),
    _Recipe(
        "failures", "Where it fails",
        "The three videos of the lowest score by this rule: for each instance, the video IoU of the tracklet "
        f"that fits it best, whatever its class and score; the mean of these over the video's instances. {_COLOURS}",
        (MAIN_ROW,), _failures),
)


def all_figures(params: Params, *, minimum_score: float, as_sketch: bool) -> list[Figure]:
    """Every figure, in the order of the page."""
    source = Source(params, minimum_score, as_sketch)
    return [_made(recipe, source) for recipe in _RECIPES]


def _made(recipe: _Recipe, source: Source) -> Figure:
    """The figure, or a note that says what is missing for it."""
    runs, drawing, note = (), Drawing([]), ""
    try:
        specs = {row: source.spec(row) for row in recipe.rows}
        runs = tuple(f"{row}, seed {SEED}: run {spec.train.key}, evaluation {spec.key}" for row, spec in specs.items())
        note = _lacking(source.params, specs)
        drawing = drawing if note else recipe.draw(source)
    except UserError as error:
        note = f"{error.problem}. {error.remedy}."
    return Figure(recipe.name, recipe.title, recipe.text, drawing.remark, runs, tuple(drawing.panels), note)


def _lacking(params: Params, specs: dict[str, EvalSpec]) -> str:
    """A note on which of a figure's rows are not trained or not evaluated in the run store; empty if all are."""
    store = RunStore(params.runs_dir)
    rows = [
        row for row, spec in specs.items()
        if not store.is_done(spec.train.key) or store.evaluation(spec.train.key, spec.key) is None
    ]
    return (
        f"The run store lacks the weights or the results of {' and '.join(rows)}, seed {SEED}. "
        f"Run python -m pipeline.train --row \"{rows[0]}\" and pipeline.evaluate with the same row, for each of them."
    ) if rows else ""
