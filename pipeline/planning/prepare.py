"""Draws the data sets that rows need besides the one of the parameters, before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.grid.rows import datasets_of, datasets_of_row
from pipeline.indexing import build, read
from pipeline.system.cli import progress_bar

if TYPE_CHECKING:
    from pipeline.settings.params import Params, RowSettings


def prepare(params: Params, tables: Iterable[str]) -> None:
    """Draws and indexes the data sets that the rows of these tables and the headline run need, unless they are there. Shows
    progress on stderr.

    The data set of the parameters, and a user's folder, are left to ``pipeline.download`` and ``pipeline.index``.

    Raises:
        UserError: something in a table is wrong, or the parameters have no data set for one that a row names.
    """
    draw(params, [*datasets_of_row(params, params.headline), *datasets_of(params, tables)])


def prepare_row(params: Params, settings: RowSettings, seed: int) -> None:
    """The same for one row with one seed.

    Raises:
        UserError: something in the row is wrong, or the parameters have no data set for the one that it names.
    """
    draw(params, datasets_of_row(params, settings, [seed]))


def draw(params: Params, sets: Iterable[Params]) -> None:
    """Draws and indexes those of these data sets that are drawn here, are not there yet, and are not that of the parameters."""
    for other in sets:
        if other.dataset_folder == params.dataset_folder or not place.is_generated(other):
            continue
        try:
            read.dataset_facts(other)
        except UserError:  # absent, or drawn from other parameters
            with progress_bar(f"drawing {other.dataset_name}") as update:
                place.put_in_place(other, update)
            with progress_bar(f"indexing {other.dataset_name}") as update:
                build.build(other, update)
