"""Puts the drawn data sets in place that rows of a table need beside the parameters' own, before anything is planned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.grid.rows import datasets_of
from pipeline.indexing import build, read
from pipeline.system.cli import progress_bar

if TYPE_CHECKING:
    from pipeline.settings.params import Params


def prepare(params: Params, tables: Iterable[str]) -> None:
    """Draws and indexes what the rows of these tables need, unless it is there. Shows progress on stderr.

    The parameters' own data set is left to ``pipeline.download`` and ``pipeline.index``, and so is a user's folder.

    Raises:
        UserError: something in a table is wrong, or nothing stands for a data set that a row names.
    """
    for other in datasets_of(params, tables):
        if other.dataset_folder == params.dataset_folder or not place.is_generated(other):
            continue
        try:
            read.dataset_facts(other)
        except UserError:  # absent, or drawn from other parameters
            with progress_bar(f"drawing {other.dataset_name}") as update:
                place.take(other, update)
            with progress_bar(f"indexing {other.dataset_name}") as update:
                build.build(other, update)
