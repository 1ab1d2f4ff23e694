"""Which cells of which tables show a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline.grid.rows import known_tables, load_grid

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.settings.params import Params


Cells = Mapping[str, list[tuple[str, str]]]  # of each key


def table_cells(params: Params) -> Cells:
    """Of each training's and evaluation's key, the (table, row) pairs that show it, in the order of the tables.

    Rows that are tested with the paper's own inference come first: what they share with others is called after them.
    Empty where the dataset is not indexed any more: what was run with it is still shown.
    """
    cells: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    rows = [row for table in existing_tables(params) for row in _rows(params, table)]
    for row in sorted(rows, key=_is_special):
        for spec in (*row.evaluations, *row.curve):
            training = spec.train
            cells[spec.key][row.table, row.name] = None
            while training is not None:
                cells[training.key][row.table, row.name] = None
                training = training.parent
    return defaultdict(list, {name: list(pairs) for name, pairs in cells.items()})


def existing_tables(params: Params) -> list[str]:
    """Those that the parameters ask for, then all others: ``ablate --grid`` may name any."""
    return list(dict.fromkeys((*params.tables, *known_tables(params))))


def _rows(params: Params, table: str) -> tuple[Row, ...]:
    try:
        return load_grid(params, table)
    except UserError:  # whoever asks for this table is told; the others are shown
        return ()


def _is_special(row: Row) -> bool:
    return any(not is_plain(spec.inference.model_dump()) for spec in row.evaluations)


def is_plain(inference: Mapping[str, Any]) -> bool:
    """End-to-end on all frames, which all but a few rows are tested with."""
    return inference["linking"] == "end-to-end" and inference["test_fps"] is None
