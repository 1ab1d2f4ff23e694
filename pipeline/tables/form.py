"""The form of results/<table>.json: what is published and what was measured, in percent."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from effvis.config import Config


class Measured(Config):
    """Over seeds; of one seed there is no deviation."""

    mean: float
    std: float | None
    n: int


class CurvePoint(Config):
    """AP on the way through a training, or at its end."""

    videos_seen: int
    mean: float
    std: float | None
    n: int


class Converges(Config):
    """One of two rows whose convergence is compared.

    Attributes:
        ap, videos_seen: at the end of its training.
        reaches_other_after: videos seen at the first point of its curve where it has the AP that the other ends with; None
            where none has it.
    """

    row: str
    ap: float
    videos_seen: int
    reaches_other_after: int | None


class Convergence(Config):
    slower: Converges
    faster: Converges


class RowSummary(Config):
    """A row of a table.

    Attributes:
        columns: what the paper's table shows before its numbers.
        measured: by metric; empty where nothing was measured.
        server: the same, of what a competition's server scored; None where it scored nothing.
        runs, evaluations: keys.
        not_run: why there is no number of ours, or None.
        curve: AP by videos seen, the end of the training last; None in a table without learning curves.
    """

    name: str
    columns: dict[str, str]
    set: dict[str, Any]
    published: dict[str, float]
    measured: dict[str, Measured]
    server: dict[str, Measured] | None = Field(None, exclude_if=lambda server: server is None)
    runs: tuple[str, ...]
    evaluations: tuple[str, ...]
    not_run: str | None
    curve: tuple[CurvePoint, ...] | None = Field(None, exclude_if=lambda curve: curve is None)


class TableSummary(Config):
    """A table: the same for the same cells, so that it can be committed.

    Attributes:
        convergence: of a table that compares how two rows converge, once both were measured.
    """

    table: str
    title: str
    caption: str
    dataset: str
    profile: str
    convergence: Convergence | None = Field(None, exclude_if=lambda convergence: convergence is None)
    rows: tuple[RowSummary, ...] = Field(min_length=1)
