"""Looks at the data sets of tables, and at what the tables will be able to report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from effvis import methods as networks
from effvis.config import HandcraftConfig
from effvis.errors import UserError
from pipeline import methods
from pipeline.checks.finding import Finding, looked_at
from pipeline.datasets import holdout
from pipeline.grid import choice_file, linking
from pipeline.grid.rows import runnable_rows
from pipeline.indexing.read import measured_split, read_facts

if TYPE_CHECKING:
    from pipeline.settings.params import Params, RowSettings


def data(sets: Iterable[Params]) -> list[Finding]:
    """Whether each data set is in place and indexed, and whether its validation and test videos have instances."""
    return [found for params in sets for found in looked_at("data", lambda params=params: _one_set(params))]


def _one_set(params: Params) -> Iterator[Finding]:
    splits = read_facts(params)["splits"]
    train = splits["train"]
    others = "; ".join(f"{len(splits[split]['videos']):,} with {splits[split]['instances']:,} instances to {what} on"
                       for split, what in (("val", "validate"), ("test", "test")) if split in splits)
    yield Finding("data", f"{params.dataset_name}: {len(train['videos']):,} videos to train on, the longest of "
                  f"{train['longest_video']} frames; {others}")
    for remark in holdout.remarks(params, splits["val"]["instances"]):
        problem, stop, remedy = remark.partition(". ")
        yield Finding("data", problem, remedy if stop else None)


def tables(params: Params, names: Iterable[str], wanted: Iterable[str]) -> Iterator[Finding]:
    """What each table will show of the wanted methods' rows: AP, or nothing before a server has scored its results."""
    for name in names:
        rows = [settings for _, settings in runnable_rows(params, name) if settings.method in wanted]
        try:
            yield from list(_one_table(params, name, rows))
        except UserError:
            yield Finding("tables", f"{name}: not before its data sets are indexed", unknown=True)


def _one_table(params: Params, name: str, rows: list[RowSettings]) -> Iterator[Finding]:
    if not rows:
        yield Finding("tables", f"{name}: no row of these methods is run")
        return
    scored, unscored = {}, {}
    for settings in rows:
        of_row = params.with_dataset(settings.dataset)
        split = measured_split(of_row)
        counts = scored if read_facts(of_row)["splits"][split]["instances"] > 0 else unscored
        counts[of_row.dataset_name, split] = counts.get((of_row.dataset_name, split), 0) + 1
    for (dataset, split), count in scored.items():
        held_out = "" if params.holdout is None or split == "test" else ", which are not the official validation videos"
        which = ", its test videos" if split == "test" else held_out
        yield Finding("tables", f"{name}: AP and AR of {_rows(count)}, {params.seeds} seeds each, on {dataset}{which}")
    for (dataset, _), count in unscored.items():
        yield Finding("tables", f"{name}: no AP of {_rows(count)}: {dataset} has no ground truth for val, and only a "
                      "competition's server can score it", "Pack each row's results with python -m pipeline.submit, and add "
                      "the server's numbers with --scores; or hold training videos out: -S holdout.fraction=0.1 "
                      "(docs/paper-run.md)")
    lacking = {}
    for settings in rows:
        of_row = params.with_dataset(settings.dataset)
        if not _linking_is_chosen(of_row, settings):
            for_others = linking.chosen_only_for_others(of_row, settings.method, settings.T)
            lacking.setdefault(for_others, set()).add((settings.method, settings.T))
    for for_others, those in lacking.items():
        links = ", ".join(f"{methods.get(method).title} at T={frames}" for method, frames in sorted(those))
        file = choice_file.file_of(params).relative_to(params.root)
        why = (f"because {file} has only choices made where other videos were reported" if for_others
               else "which nobody has chosen")
        yield Finding("tables", f"{name}: the hand-crafted linking of {links} has the profile's weights and threshold, {why}",
                      "python -m pipeline.linking chooses them, on training videos that are not reported (docs/evaluation.md)")


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _linking_is_chosen(params: Params, settings: RowSettings) -> bool:
    """Whether nothing is left to choose: clips are linked end to end, the method links in its own way, or it was chosen."""
    if methods.get(settings.method).linkings[0] != "hand-craft" and settings.linking != "hand-craft":
        return True
    if networks.get(settings.method).link is not None:
        return True
    default = HandcraftConfig()
    return params.inference.handcraft != default or linking.chosen(params, settings.method, settings.T) is not None
