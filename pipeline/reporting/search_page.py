"""A search as one self-contained HTML file: the parameters, the results that they gave, and AP during training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.reporting.charts import parallel_coordinates, trial_curves, values_over_time
from pipeline.reporting.pictures import data_uri
from pipeline.reporting.templates import render
from pipeline.search.search import after, best_row, text

if TYPE_CHECKING:
    from pipeline.search.search import Search
    from pipeline.search.space import Base


def page(search: Search, base: Base) -> str:
    """The page's HTML; it is the same for the same search."""
    drawings = [
        ("Parameters and what they were worth", "A line is a trial, from value to value; the brighter, the better. Stopped "
         "trials are dashed and stand with what they were worth when they were stopped.", parallel_coordinates(search)),
        ("On the way through the training", "Each trial at its rungs; a line that ends early was stopped.",
         trial_curves(search)),
        ("In the time of the search", "Each evaluation when it was made, training and evaluation included, without pauses "
         "between attempts. The line is the best trial so far that was trained to its end.", values_over_time(search)),
    ] if any(trial.reports for trial in search.trials) else []
    best = search.best()
    return render(
        "search.html", filters={"text": text, "after": after, "percent": lambda value: f"{100 * value:.1f}"},
        search=search, names=list(search.space.space), best=best, row=best_row(search, base) if best else "",
        counts=_counts(search),
        drawings=[(title, note, data_uri("image/svg+xml", drawing)) for title, note, drawing in drawings])


def _counts(search: Search) -> list[tuple[str, Any]]:
    states = [trial.state for trial in search.trials]
    return [(state, states.count(state)) for state in dict.fromkeys(sorted(states))]
