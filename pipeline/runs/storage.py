"""Copies runs to the second place, and fetches runs from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.runs.remote import Storage, states
from pipeline.runs.store import RunStore
from pipeline.system.background import Background, in_a_line
from pipeline.system.files import read_json, write_atomically

if TYPE_CHECKING:
    from pipeline.settings.params import Params


SETTING = "storage_path"
_CATCH_UP = "python -m pipeline.storage --push"
_EVERY_SECONDS = 5.0
_LAST_SECONDS = 300.0


def storage_of(params: Params) -> Storage | None:
    """The second place that the parameters name, if any.

    Raises:
        UserError: for the reasons of ``Storage``.
    """
    if params.storage_path is None:
        return None

    address = params.storage_path
    return Storage(address if "://" in address else str(params.root / address), where=params.root / "params.yaml")


def pull_run(params: Params, key: str) -> None:
    """In a job, fetches what the storage has of a run. If the storage cannot be used, the run goes on without it."""
    if params.storage_path is None:
        return
    try:
        storage, store = storage_of(params), RunStore(params.runs_dir)
        with store.lock(key):
            if storage.pull(store, key):
                print(f"{key}: taken from {storage.address}", file=sys.stderr)
    except (OSError, UserError) as error:
        print(f"{SETTING} cannot be used now, the run goes on: {in_a_line(error)}", file=sys.stderr)


def pull_runs(params: Params, keys: Iterable[str]) -> bool:
    """Fetches what the storage has of these runs and reports it; returns whether there was anything.

    Raises:
        UserError: the storage cannot be used, or its content does not match its manifests.
    """
    storage, store = storage_of(params), RunStore(params.runs_dir)
    if storage is None:
        return False
    with explaining_failures(storage, params.root / "params.yaml"):
        taken = pull(storage, store, keys)
    if taken:
        print(f"{taken} runs were taken from {storage.address}", file=sys.stderr)
    return taken > 0


@contextlib.contextmanager
def explaining_failures(storage: Storage, where: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(where, SETTING, f"{storage.address} cannot be used: {in_a_line(error)}",
                        "Start again: what is there is whole") from None


def pull(storage: Storage, store: RunStore, keys: Iterable[str]) -> int:
    there, locked, news = storage.runs(), store.locked(), 0
    for key in sorted(keys):
        if key in there and key not in locked:  # the process that works on it has fetched it
            with store.lock(key):
                news += storage.pull(store, key)
    return news


class Keeper(Background):
    """``with Keeper(params, storage): …`` pushes what is new in the run store every few seconds, and once more at the end."""

    trouble = f"{SETTING} cannot be used now, the runs go on"
    incomplete = f"{SETTING} lacks the latest runs; bring them with: {_CATCH_UP}"

    def __init__(self, params: Params, storage: Storage, *, every: float = _EVERY_SECONDS, first: float = _EVERY_SECONDS,
                 last: float = _LAST_SECONDS):
        super().__init__(every=every, first=first, last=last)
        self._storage, self._store = storage, RunStore(params.runs_dir)
        # This file lists the pushed states, so that thousands of runs need not be compared file by file again.
        name = hashlib.sha256(params.storage_path.encode()).hexdigest()[:12]
        self._file = Path(params.runs_dir) / ".storage" / f"{name}.json"
        self._pushed: dict[str, str] | None = None

    def catch_up(self, late: Callable[[], bool]) -> None:
        if self._pushed is None:
            there = self._storage.runs()
            self._pushed = {key: state for key, state in (read_json(self._file) or {}).items() if key in there}
        news, mistake = False, None
        for key, state in states(self._store):
            if self._pushed.get(key) != state and not late():
                try:
                    self._storage.push(self._store, key)
                    self._pushed[key], news = state, True
                except UserError as error:  # this run is damaged in the storage; the others are not affected
                    mistake = error
        if news:
            self._file.parent.mkdir(exist_ok=True)
            write_atomically(self._file, json.dumps(self._pushed).encode())
        if mistake is not None:
            raise mistake


@contextlib.contextmanager
def keeping(params: Params) -> Iterator[None]:
    """Copies the block's runs to the storage, if the parameters name one.

    Raises:
        UserError: for the reasons of ``Storage``, before anything has run.
    """
    storage = storage_of(params)
    with contextlib.nullcontext() if storage is None else Keeper(params, storage):
        yield
