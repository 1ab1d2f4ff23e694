"""History and checkpoints of a running training."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.system.disk import explained
from pipeline.system.files import file_sha256, write_atomically

CHECKPOINTS_KEPT = 2


class RunLog:
    """History and checkpoints of one run: each step is in the history exactly once, however often the run resumes."""

    def __init__(self, folder: Path):
        self._history = folder / "history.jsonl"
        self._checkpoints = folder / "checkpoint"
        self._file: io.TextIOBase | None = None

    def resume(self) -> dict[str, Any] | None:
        """The newest snapshot that is whole and whose steps are all in the history; None means to start anew.

        Lines of the history after this snapshot are cut off.
        """
        lines = self._whole_lines()
        usable = (number for number in sorted(self._numbers(), reverse=True) if number <= len(lines))
        step, state = next(((n, s) for n in usable if (s := self.snapshot(n)) is not None), (0, None))
        self._history.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._history, "".join(lines[:step]).encode())
        self._file = self._history.open("a", encoding="utf-8")
        return state

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds the line of one step; ``row["step"]`` counts from 1. Other processes on this machine see it at once."""
        with explained(self._history):
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def checkpoint(self, state: Mapping[str, Any], step: int) -> None:
        """Stores a snapshot after ``step`` and deletes all but the last two."""
        import torch

        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        with explained(self._checkpoints):
            # A snapshot is worthless without the lines that lead to it.
            os.fsync(self._file.fileno())
            self._checkpoints.mkdir(exist_ok=True)
        path = self._path(step)
        write_atomically(path, buffer.getvalue())
        write_atomically(path.with_suffix(".sha256"), file_sha256(path).encode())
        for old in sorted(self._numbers())[:-CHECKPOINTS_KEPT]:
            self._path(old).with_suffix(".sha256").unlink(missing_ok=True)
            self._path(old).unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            with explained(self._history):
                self._file.close()

    def _path(self, step: int) -> Path:
        return self._checkpoints / f"step_{step:08d}.pt"

    def _numbers(self) -> list[int]:
        return [int(path.stem.removeprefix("step_")) for path in self._checkpoints.glob("step_*.pt")]

    def snapshot(self, step: int) -> dict[str, Any] | None:
        """The snapshot that ``checkpoint`` stored after ``step``; None if it is not whole."""
        import torch

        path = self._path(step)
        try:
            whole = path.with_suffix(".sha256").read_text() == file_sha256(path)
        except OSError:
            whole = False
        if not whole:
            print(f"{path}: incomplete or damaged; going back to the one before", file=sys.stderr)
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:  # the file is not one of ours; none of its code has run
            print(f"{path}: is no checkpoint ({str(error).splitlines()[0]}); going back to the one before", file=sys.stderr)
            return None

    def _whole_lines(self) -> list[str]:
        """The lines for steps 1, 2, 3 … up to the first gap or incomplete line."""
        lines = []
        with contextlib.suppress(FileNotFoundError), self._history.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if not line.endswith("\n") or _step(line) != len(lines) + 1:
                    break
                lines.append(line)
        return lines


def _step(line: str) -> int | None:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
