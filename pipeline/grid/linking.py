"""The hand-crafted linking that was chosen for a method at a clip length, for the rows that use it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from effvis.config import HandcraftConfig
from pipeline.grid.choice_file import DIGITS, LinkingChoice, file_of, read
from pipeline.indexing.read import dataset_facts
from pipeline.settings.params import RowSettings

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.settings.params import Params


def has_test(params: Params) -> bool:
    """Whether the data set has a test split, which is reported, so that val is free to choose on.

    Raises:
        UserError: the data set is not indexed.
    """
    return "test" in dataset_facts(params).digests


def reported(params: Params) -> str:
    """The first digits of the digest of the videos that are reported: test, or val where there is none, which may be training
    videos held out. A fraction and a file that hold the same videos out have the same digest.

    Raises:
        UserError: the data set is not indexed.
    """
    return dataset_facts(params).digests["test" if has_test(params) else "val"][:DIGITS]


def chosen(params: Params, method: str, T: int) -> HandcraftConfig | None:
    """The linking chosen for a method at the paper's clip length ``T``, where the videos were reported that are now; else None.

    Raises:
        UserError: the file of choices is wrong, or the data set is not indexed with the parameters' holdout.
    """
    choices = _of(params, method, T)
    if not choices:
        return None
    now = reported(params)
    return next((choice.handcraft for choice in choices if choice.reported == now), None)


def chosen_only_for_others(params: Params, method: str, T: int) -> bool:
    """Whether there are choices for a method at ``T``, but each was made where other videos were reported.

    Raises:
        UserError: for the reasons of ``chosen``.
    """
    return bool(_of(params, method, T)) and chosen(params, method, T) is None


def warnings(params: Params, rows: Iterable[Row]) -> list[str]:
    """For users who are about to run these rows: which of them do without a choice because other videos are reported now.

    Raises:
        UserError: for the reasons of ``chosen``.
    """
    found = []
    for row in rows:
        settings = RowSettings(**row.set)
        if not row.evaluations or settings.weights is not None:
            continue
        inference = row.evaluations[0].inference
        if (inference.linking == "hand-craft" and inference.handcraft == HandcraftConfig()
                and chosen_only_for_others(params.with_dataset(settings.dataset), settings.method, settings.T)):
            found.append(f"{row.table}: {row.name}: its linking in {file_of(params)} was chosen where other videos were "
                         "reported, and the default weights and threshold are used. To choose for these videos: "
                         f"python -m pipeline.linking --row {shlex.quote(f'{row.table}:{row.name}')}")
    return found


def _of(params: Params, method: str, T: int) -> list[LinkingChoice]:
    return [choice for choice in read(params).linking if (choice.method, choice.T) == (method, T)]
