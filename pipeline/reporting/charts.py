"""Charts as SVG; the same numbers give the same bytes."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pipeline.search.search import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.search.search import Search, Trial
    from pipeline.search.space import Distribution
    from pipeline.tables.form import RowSummary, TableSummary

# The colours of Okabe and Ito: everybody can tell them apart, and markers tell lines apart in black and white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "svg.hashsalt": "effvis",  # names of clip paths; random otherwise
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def learning_curves(table: TableSummary) -> bytes:
    """SVG of AP by videos seen, for each row of a table that has curves, with the standard error of each point."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot(xscale="log")
        for number, row in enumerate(table.rows):
            if row.curve:
                _draw(axes, row, _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seen, _: f"{seen:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="videos seen in clip training", ylabel="AP, percent")
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.legend(frameon=False)
        return _svg(figure)


def video_lengths(counts: Mapping[str, Mapping[int, int]]) -> bytes:
    """SVG of how many videos have how many frames.

    Args:
        counts: for each split, the number of videos by their length in frames.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(counts)
        for number, (split, by_length) in enumerate(counts.items()):
            places = [length + (number - (len(counts) - 1) / 2) * width for length in by_length]
            axes.bar(places, list(by_length.values()), width, color=_COLOURS[number], label=split)
        axes.set(xlabel="frames of a video", ylabel="videos")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        return _svg(figure)


def parallel_coordinates(search: Search) -> bytes:
    """SVG with an axis for each parameter of a search, one for the results of its trials, and a line for each trial."""
    with matplotlib.rc_context(_STYLE):
        trials = _by_worth(search)
        names = list(search.space.space)
        figure = Figure(figsize=(max(6.0, 2.2 * len(names) + 2.2), 4.2), layout="constrained")
        axes = figure.add_subplot(xlim=(-0.1, len(names) + 0.35), ylim=(-0.05, 1.05))
        places = []
        for x, (name, distribution) in enumerate(search.space.space.items()):
            places.append(_parameter_axis(axes, x, distribution, [trial.parameters[name] for trial in trials]))
        worths = [100 * trial.value for trial in trials]
        ends = (min(worths), max(worths))
        places.append(_axis(axes, len(names), worths, [(end, f"{end:.1f}") for end in ends]))
        for trial, heights, colour in zip(trials, zip(*places, strict=True), _colours(trials), strict=True):
            axes.plot(range(len(names) + 1), heights, color=colour, linestyle=_line(trial), marker="o", markersize=4)
        axes.set_xticks(range(len(names) + 1), [*names, f"{search.metric}, percent"])
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return _svg(figure)


def trial_curves(search: Search) -> bytes:
    """SVG of each trial's result in a search, by the part of its training that was done."""
    with matplotlib.rc_context(_STYLE):
        trials = _by_worth(search)
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot(xscale="log")
        for trial, colour in zip(trials, _colours(trials), strict=True):
            parts = [2.0**-report.halvings for report in trial.reports]
            values = [100 * report.value for report in trial.reports]
            axes.plot(parts, values, color=colour, linestyle=_line(trial), marker="o", markersize=4)
        axes.set_xticks([2.0**-halvings for halvings in search.halvings],
                        [f"1/{2**halvings}" if halvings else "1" for halvings in search.halvings], minor=False)
        axes.minorticks_off()
        axes.set(xlabel="part of the training", ylabel=f"{search.metric}, percent")
        axes.grid(color="#dddddd", linewidth=0.7)
        return _svg(figure)


def values_over_time(search: Search) -> bytes:
    """SVG of the results of a search's trials by the time of their evaluation, and of the best result so far."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot()
        reports = [report for trial in search.trials for report in trial.reports]
        reports.sort(key=lambda report: report.seconds)
        groups = (("on the way", [report for report in reports if report.halvings]),
                  ("at the end", [report for report in reports if not report.halvings]))
        for number, (label, group) in enumerate(groups):
            axes.plot([report.seconds / 60 for report in group], [100 * report.value for report in group], linestyle="none",
                      color=_COLOURS[number], marker=_MARKERS[number], markersize=5, label=label)
        ends = groups[1][1]
        best = [100 * max(report.value for report in ends[: number + 1]) for number in range(len(ends))]
        minutes = [report.seconds / 60 for report in ends]
        axes.plot(minutes, best, color=_COLOURS[1], drawstyle="steps-post", label="best so far")
        axes.set(xlabel="minutes of the search", ylabel=f"{search.metric}, percent")
        axes.grid(color="#dddddd", linewidth=0.7)
        axes.legend(frameon=False)
        return _svg(figure)


def _by_worth(search: Search) -> list[Trial]:
    """The trials that were evaluated, the best last, so that it is drawn over the others."""
    return sorted((trial for trial in search.trials if trial.reports), key=lambda trial: trial.value)


def _colours(trials: list[Trial]) -> list[Any]:
    return [colormaps["viridis"](number / max(1, len(trials) - 1)) for number in range(len(trials))]


def _line(trial: Trial) -> str:
    return "-" if trial.state == "done" else "--"


def _parameter_axis(axes: Axes, x: float, distribution: Distribution, values: list[Any]) -> list[float]:
    """Draws the axis of a parameter; returns the heights of the values on it, from 0 to 1."""
    if (choices := distribution.choice) is not None:
        return _axis(axes, x, [choices.index(value) for value in values], [(n, text(c)) for n, c in enumerate(choices)])
    scale = math.log10 if distribution.log_uniform is not None else float
    return _axis(axes, x, list(map(scale, values)), [(scale(end), text(end)) for end in distribution.range])


def _axis(axes: Axes, x: float, values: list[float], ticks: list[tuple[float, str]]) -> list[float]:
    low, high = min(place for place, _ in ticks), max(place for place, _ in ticks)

    def height(value: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    axes.axvline(x, color="#888888", linewidth=1)
    for place, label in ticks:
        axes.annotate(label, (x, height(place)), (5, 0), textcoords="offset points", va="center", fontsize=9)
    return [height(value) for value in values]


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _draw(axes: Axes, row: RowSummary, colour: str, marker: str) -> None:
    seen, means = zip(*((point.videos_seen, point.mean) for point in row.curve), strict=True)
    errors = [point.error or 0.0 for point in row.curve]
    axes.errorbar(seen, means, errors, color=colour, marker=marker, markersize=5, capsize=3, label=row.name)
