"""The run store: one folder per key, which counts only if its last file is there and the checksum in it agrees.

::

    runs/<key>/config.yaml         what the key was made of
               history.jsonl       one line per training step
               checkpoint/         the last two snapshots of an unfinished training
               snapshots/          weights after a half, a quarter, … of the training
               weights.safetensors
               done.json           written last
               eval/<eval key>/    results.json, per_category.csv, metrics.json; put in place all at once

Every file is written beside its place and then moved there, so a process may be killed at any moment.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from effvis.errors import UserError
from effvis.files import replacing_folder
from pipeline.system.disk import explained
from pipeline.system.files import file_sha256, json_bytes, read_json, write_atomically


class RunStore:
    """The folders of all runs.

    Args:
        root: the store's folder, usually ``runs``; it is made at the first write.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        return self.root / key

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Lets only one process at a time work on a key; the others wait and say so on stderr."""
        locks = self.root / ".locks"
        lock = FileLock(locks / f"{key}.lock")
        try:
            with explained(self.root):
                locks.mkdir(parents=True, exist_ok=True)
                lock.acquire(blocking=False)
        except Timeout:
            print(f"waiting: another process works on {self.folder(key)}", file=sys.stderr, flush=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def locked(self) -> set[str]:
        """Names that some process has locked now, because it works on them: each is a key, or ``<key>-<evaluation key>``,
        whose result is not there yet."""
        found = set()
        for file in (self.root / ".locks").glob("*.lock"):
            if self._is_there(file.stem):  # a grid has thousands of locks, and trying one may ask another machine
                continue
            try:
                with FileLock(file).acquire(blocking=False):
                    pass
            except Timeout:
                found.add(file.stem)
        return found

    def _is_there(self, name: str) -> bool:
        key, _, evaluation_key = name.partition("-")
        if evaluation_key:
            return (self.evaluation_folder(key, evaluation_key) / "metrics.json").is_file()
        return (self.folder(key) / "done.json").is_file()

    def is_done(self, key: str) -> bool:
        """Whether the training of ``key`` is complete and its weights are those that were trained."""
        return self.done(key) is not None

    def done(self, key: str) -> dict[str, Any] | None:
        """The content of ``done.json``; None if it is missing, unreadable or at odds with the weights."""
        facts = read_json(self.folder(key) / "done.json")
        weights = self.weights_file(key)
        if facts is None or not weights.is_file() or facts.get("sha256") != file_sha256(weights):
            return None
        return facts

    def require_done(self, key: str) -> dict[str, Any]:
        """As ``done``, but never None.

        Raises:
            UserError: the training is not done.
        """
        facts = self.done(key)
        if facts is None:
            raise UserError(self.folder(key), "done.json", "this run is not finished", "Train it with python -m pipeline.train")
        return facts

    def weights_file(self, key: str) -> Path:
        return self.folder(key) / "weights.safetensors"

    def load_weights(self, key: str) -> dict[str, Any]:
        """The trained weights by name, as tensors.

        Raises:
            UserError: the training is not done.
        """
        from safetensors.torch import load_file

        self.require_done(key)
        return load_file(self.weights_file(key))

    def keep_snapshot(self, key: str, halvings: int, weights: Mapping[str, Any]) -> None:
        """Stores the weights after 1/2**halvings of a training."""
        from safetensors.torch import save

        file = self._snapshot_file(key, halvings)
        with explained(file):
            file.parent.mkdir(exist_ok=True)
        write_atomically(file, save({name: value.contiguous() for name, value in weights.items()}))

    def has_snapshot(self, key: str, halvings: int) -> bool:
        """Whether the training kept its weights after 1/2**halvings of its steps; it need not be done."""
        return self._snapshot_file(key, halvings).is_file()

    def load_snapshot(self, key: str, halvings: int) -> dict[str, Any]:
        """The weights that ``keep_snapshot`` stored, as tensors by name.

        Raises:
            UserError: the training kept no such snapshot, or has not come so far yet.
        """
        from safetensors.torch import load_file

        if not halvings:
            return self.load_weights(key)
        file = self._snapshot_file(key, halvings)
        if not self.has_snapshot(key, halvings):
            raise UserError(file, "(file)", "this training kept no such snapshot",
                            f"Set resources.snapshots to {halvings} or more, move {self.folder(key)} away and train it again")
        return load_file(file)

    def _snapshot_file(self, key: str, halvings: int) -> Path:
        return self.folder(key) / "snapshots" / f"after_1_{2**halvings}.safetensors"

    def begin(self, key: str, config: Mapping[str, Any]) -> None:
        """Makes the folder and writes what the key was made of. An earlier, invalid ``done.json`` is removed."""
        folder = self.folder(key)
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "done.json").unlink(missing_ok=True)
            for leftover in (*folder.glob(".*"), *folder.glob("checkpoint/.*")):
                leftover.unlink()  # a file that a killed process was writing
        write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False).encode())

    def finish(self, key: str, weights: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Stores the weights, then ``done.json`` with their checksum and ``facts``; then removes the checkpoints."""
        from safetensors.torch import save

        write_atomically(self.weights_file(key), save({name: value.contiguous() for name, value in weights.items()}))
        done = {"key": key, "sha256": file_sha256(self.weights_file(key)), **facts}
        write_atomically(self.folder(key) / "done.json", json_bytes(done))
        shutil.rmtree(self.folder(key) / "checkpoint", ignore_errors=True)

    def evaluation(self, key: str, evaluation_key: str) -> dict[str, Any] | None:
        """The ``metrics.json`` of a finished evaluation; None if there is none or its results were changed."""
        return read_evaluation(self.evaluation_folder(key, evaluation_key))

    def evaluations(self, key: str) -> Iterator[dict[str, Any]]:
        """The ``metrics.json`` of every finished evaluation of a training."""
        for folder in sorted((self.folder(key) / "eval").glob("*")):
            report = self.evaluation(key, folder.name)
            if report is not None:
                yield report

    def evaluation_folder(self, key: str, evaluation_key: str) -> Path:
        return self.folder(key) / "eval" / evaluation_key

    def write_evaluation(self, key: str, evaluation_key: str, results: list[dict], report: Mapping[str, Any]) -> dict[str, Any]:
        """``write_evaluation`` in the training's folder."""
        return write_evaluation(self.evaluation_folder(key, evaluation_key), results, report)


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The ``metrics.json`` of a finished evaluation's folder; None if there is none or its results were changed."""
    report = read_json(folder / "metrics.json")
    results = folder / "results.json"
    if report is None or not results.is_file() or report.get("results_sha256") != file_sha256(results):
        return None
    return report


def write_evaluation(place: Path, results: list[dict], report: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a finished evaluation in its place, all three files at once.

    Args:
        results: the results in the YouTube-VIS evaluator's form.
        report: the content of ``metrics.json``; its ``per_category`` (category → metric → value) also becomes a CSV file.

    Returns:
        The content that was written to ``metrics.json``.
    """
    with explained(place), replacing_folder(place) as folder:
        (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
        (folder / "per_category.csv").write_text(_per_category_csv(report["per_category"]), encoding="utf-8")
        written = {**report, "results_sha256": file_sha256(folder / "results.json")}
        (folder / "metrics.json").write_bytes(json_bytes(written))
    return written


def _per_category_csv(per_category: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for metrics in per_category.values() for name in metrics))
    text = io.StringIO()
    writer = csv.DictWriter(text, ["category", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"category": category, **metrics} for category, metrics in per_category.items())
    return text.getvalue()
