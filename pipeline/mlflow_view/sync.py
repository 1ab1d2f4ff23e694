"""Brings MLflow up to date with the run store, once or while runs go on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from effvis.errors import UserError
from pipeline.mlflow_view.mirror import Mirror
from pipeline.mlflow_view.records import records
from pipeline.system.background import Background, in_a_line
from pipeline.tables.shown_in import table_cells

if TYPE_CHECKING:
    from pipeline.settings.params import Params
    from pipeline.tables.shown_in import Cells


EXPERIMENT = "effvis"
_SERVER = "MLFLOW_TRACKING_URI"
_EVERY_SECONDS = 5.0
# Loading MLflow takes a core for seconds, which the workers of a grid need for their own start: they train 3 to 4 s earlier if
# the sync waits for a first step, or for this time.
_FIRST_SECONDS = 20.0
_LAST_SYNC_SECONDS = 60.0
_CATCH_UP = "python -m pipeline.track --sync"


class Tracker(Background):
    """``with Tracker(params): …`` syncs every few seconds in a thread, and once more at the end, for a bounded time.

    A server that is slow, down or wrong is reported once; a later sync brings what it misses.
    """

    trouble = "MLflow cannot be used now, the runs go on"
    incomplete = f"MLflow lacks the latest results; bring them with: {_CATCH_UP}"

    def __init__(self, params: Params, *, every: float = _EVERY_SECONDS, first: float = _FIRST_SECONDS,
                 last: float = _LAST_SYNC_SECONDS):
        super().__init__(every=every, first=first, last=last)
        self._params = params
        self._cells: Cells | None = None
        self._before = self._histories()

    def may_begin(self) -> bool:
        return self._histories() != self._before

    def _histories(self) -> dict[Path, int]:
        found = {}
        for file in Path(self._params.runs_dir).glob("*/history.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # somebody may remove a run
                found[file] = file.stat().st_size
        return found

    def catch_up(self, late: Callable[[], bool]) -> None:
        self._cells = self._cells or table_cells(self._params)
        sync(self._params, self._cells, stop=late)


def sync(params: Params, cells: Cells | None = None, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Brings every training, step, evaluation and table that the server does not have; returns how many runs had news.

    After an interruption at any point, it may simply be called again.

    Args:
        cells: the result of ``pipeline.tables.shown_in.table_cells``, for frequent callers.
        stop: called before each record; True ends the sync.

    Raises:
        Exception: whatever MLflow raises when the server cannot be used.
    """
    uri = tracking_uri(params)
    state = Path(params.runs_dir) / ".mlflow" / hashlib.sha256(uri.encode()).hexdigest()[:12]
    state.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(uri, state)):  # without it, two grids at once would both create a run that neither finds yet
        # Artifacts lie beside the project's own database; for a store that the environment names, MLflow decides.
        artifacts = None if os.environ.get(_SERVER) else Path(params.root) / "mlruns"
        mirror = Mirror(uri, EXPERIMENT, state, artifacts)
        news = 0
        for record in records(params, cells or table_cells(params)):
            if stop():
                break
            news += mirror.bring(record)
        return news


def tracking_uri(params: Params) -> str:
    """``MLFLOW_TRACKING_URI``, or the file mlflow.db in the project's folder."""
    return os.environ.get(_SERVER) or f"sqlite:///{Path(params.root).resolve() / 'mlflow.db'}"


def _lock(uri: str, state: Path) -> Path:
    """A lock beside a database in a file, because several run stores may share and create it; otherwise one in ``state``."""
    kind, _, file = uri.partition(":///")
    return Path(f"{file}.lock") if kind == "sqlite" else state / "lock"


def sync_or_explain(params: Params) -> int:
    """``sync`` for commands.

    Raises:
        UserError: the server cannot be used.
    """
    try:
        return sync(params)
    except Exception as error:
        problem = f"cannot be used: {in_a_line(error)}"
        raise UserError(_SERVER, tracking_uri(params), problem, "Start the server or correct the address") from error
