"""Finds the cells of tables that show a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline.grid.rows import known_tables, load_grid

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.settings.params import Params


Cells = Mapping[str, list[tuple[str, str]]]  # by key


def table_cells(params: Params) -> Cells:
    """The (table, row) pairs that show each training and evaluation, by key, in the order of the tables.

    Rows that are tested with the paper's own inference come first: runs that they share with other rows are named after them.
    The result is empty if the dataset is no longer indexed: its runs are still shown.
    """
    cells: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    rows = [row for table in existing_tables(params) for row in _rows(params, table)]
    for row in sorted(rows, key=_is_special):
        for spec in row.to_run:
            training = spec.train
            cells[spec.key][row.table, row.name] = None
            while training is not None:
                cells[training.key][row.table, row.name] = None
                training = training.parent
    return defaultdict(list, {name: list(pairs) for name, pairs in cells.items()})


def existing_tables(params: Params) -> list[str]:
    """The tables that the parameters ask for, then all others: ``ablate --grid`` may name any table."""
    return list(dict.fromkeys((*params.tables, *known_tables(params))))


def _rows(params: Params, table: str) -> tuple[Row, ...]:
    try:
        return load_grid(params, table)
    except UserError:  # a command on this table reports it; the other tables are shown
        return ()


def _is_special(row: Row) -> bool:
    return any(not is_plain(spec.inference.model_dump()) for spec in row.evaluations)


def is_plain(inference: Mapping[str, Any]) -> bool:
    """Whether the inference is end-to-end on all frames, as for all but a few rows."""
    return inference["linking"] == "end-to-end" and inference["test_fps"] is None
