"""Learning curves as a drawing that is the same, byte for byte, for the same numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def _draw(axes: Axes, row: dict[str, Any], colour: str, marker: str) -> None:
    seen, means = zip(*((point["videos_seen"], point["mean"]) for point in row["curve"]), strict=True)
    deviations = [point["std"] or 0.0 for point in row["curve"]]
    axes.errorbar(seen, means, deviations, color=colour, marker=marker, markersize=5, capsize=3, label=row["name"])
