"""Drawings, as SVG, that are the same, byte for byte, for the same numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's: told apart by everybody, and by their markers in black and white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE = {
    "svg.hashsalt": "effvis",  # names of clip paths; random otherwise
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def learning_curves(table: dict[str, Any]) -> bytes:
    """AP by videos seen of each row of a table that has curves, with the deviation over seeds where there are several: SVG."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.add_subplot(xscale="log")
        for number, row in enumerate(table["rows"]):
            if row["curve"]:
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
    """How many videos have how many frames: SVG.

    Args:
        counts: per split, the number of videos by their length in frames.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

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


def _svg(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _draw(axes: Axes, row: dict[str, Any], colour: str, marker: str) -> None:
    seen, means = zip(*((point["videos_seen"], point["mean"]) for point in row["curve"]), strict=True)
    deviations = [point["std"] or 0.0 for point in row["curve"]]
    axes.errorbar(seen, means, deviations, color=colour, marker=marker, markersize=5, capsize=3, label=row["name"])
