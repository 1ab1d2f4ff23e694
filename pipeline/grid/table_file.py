"""The format of experiments/<table>.yaml, and the tables that ``pipeline.grid.rows.load_table`` makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from effvis.config import Config
from pipeline.identity.specs import EvalSpec


class Compared(Config):
    """The names of two rows of a table with learning curves: the row that converges more slowly, and the other."""

    slower: str = Field(min_length=1)
    faster: str = Field(min_length=1)


class RowFile(Config):
    """A row as it is written; ``set`` holds only what differs from the parameters."""

    name: str = Field(min_length=1)
    columns: dict[str, str | int | float] = {}
    set: dict[str, Any] = {}
    published: dict[Literal["AP", "AP50", "AP75", "AR1", "AR10"], float] = {}
    not_run: str | None = None


class TableFile(Config):
    """A table as it is written; with ``curves``, its rows are also evaluated during their training, and ``convergence`` names
    the two rows whose curves are compared.
    """

    title: str
    caption: str = ""
    curves: bool = False
    convergence: Compared | None = None
    rows: tuple[RowFile, ...] = Field(min_length=1)

    @field_validator("rows")
    @classmethod
    def _rows_fit_together(cls, rows: tuple[RowFile, ...]) -> tuple[RowFile, ...]:
        name, count = Counter(row.name for row in rows).most_common(1)[0]
        if count > 1:
            raise ValueError(f"{count} rows are called {name!r}")
        for row in rows:
            if row.columns.keys() != rows[0].columns.keys():
                raise ValueError(f"{row.name!r} has other columns than {rows[0].name!r}")
        return rows

    @model_validator(mode="after")
    def _compared_rows_have_curves(self) -> TableFile:
        if self.convergence is not None:
            if not self.curves:
                raise ValueError("convergence is read off learning curves: set curves: true")
            rows = {row.name: row for row in self.rows}
            for name in (self.convergence.slower, self.convergence.faster):
                if name not in rows:
                    raise ValueError(f"convergence: there is no row {name!r}")
                if "weights" in rows[name].set:
                    raise ValueError(f"convergence: {name!r} has no learning curve, because its weights are given")
        return self


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        columns: what the paper's table shows before the metrics (publication, backbone …), as text; nothing follows from it.
        set: the row's settings as in the table's file, in the paper's terms.
        published: the paper's numbers in percent.
        not_run: why this project has no number for the row, or None.
        evaluations: its evaluations, one per seed, or the one of given weights; empty if the row is not run.
        curve: evaluations of the weights that each seed kept during its training, if the table has learning curves.
        starts: for each seed the evaluations of what its training starts from (``pipeline.grid.before_clips``).
    """

    table: str
    name: str
    columns: Mapping[str, str]
    set: Mapping[str, Any]
    published: Mapping[str, float]
    not_run: str | None
    evaluations: tuple[EvalSpec, ...]
    curve: tuple[EvalSpec, ...] = ()
    starts: tuple[tuple[EvalSpec, ...], ...] = ()

    @property
    def to_run(self) -> tuple[EvalSpec, ...]:
        """All evaluations whose numbers the table shows; seeds may share some of the starts'."""
        return (*self.evaluations, *self.curve, *(spec for specs in self.starts for spec in specs))


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    caption: str
    rows: tuple[Row, ...]
    convergence: Compared | None = None
