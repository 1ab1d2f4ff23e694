"""Runs in a second place: an object store (S3, …) or a folder.

::

    <address>/<key>/manifest.json          every file of runs/<key>: its object, SHA-256 and size
                    <SHA-256>-<file name>  its content

An object is never changed and the manifest is written last, so a reader finds a whole state however a writer ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pyarrow import fs
from pyarrow.fs import FileSelector, FileType
from pydantic import Field, field_validator

from effvis.config import Config, build
from effvis.errors import UserError
from effvis.files import replacing_file, replacing_folder
from pipeline.identity.digests import KEY_DIGITS
from pipeline.runs.store import RunStore
from pipeline.system.background import in_a_line
from pipeline.system.disk import explained
from pipeline.system.files import file_sha256
from pipeline.system.masking import masked

MANIFEST = "manifest.json"
_DONE = "done.json"
_BLOCK = 2**20
_LEFTOVER_SECONDS = 86400.0


class _Stored(Config):
    """One file of a run."""

    object: str = Field(pattern=r"^[0-9a-f]{64}-[^/\\]+$")
    bytes: int = Field(ge=0)

    @property
    def sha256(self) -> str:
        return self.object[:64]


class Manifest(Config):
    """The files of a run, by their paths in its folder."""

    files: dict[str, _Stored]

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, _Stored]) -> dict[str, _Stored]:
        for name in files:
            path = PurePosixPath(name)
            if path.is_absolute() or "\\" in name or any(part.startswith(".") for part in path.parts) or str(path) != name:
                raise ValueError(f"{name!r} is no path inside a run's folder")
        return files


class _WentOn(Exception):
    """A file that was to be pushed is gone: the run has a later state by now."""


class Storage:
    """Runs in the second place.

    Raises:
        UserError: the address is invalid, or nothing answers there.
    """

    def __init__(self, address: str, *, where: object = "params.yaml"):
        self.address = masked(address)
        try:
            if "://" in address:
                self._files, base = fs.FileSystem.from_uri(address)
            else:
                self._files, base = fs.LocalFileSystem(), str(Path(address).resolve())
            self._base = base.rstrip("/")
            if not self._base:
                raise ValueError("no bucket and no folder is named")
            self._local = isinstance(self._files, fs.LocalFileSystem)
            top = self._files.get_file_info(self._base if self._local else self._base.partition("/")[0])
            if top.type == fs.FileType.NotFound and not self._local:
                raise FileNotFoundError(f"there is no bucket {top.path}")
        except (OSError, ValueError) as error:  # pyarrow's own errors are subclasses of these
            raise UserError(where, "storage_path", f"{self.address} cannot be used: {in_a_line(error)}", "Give a folder or "
                            "s3://BUCKET/FOLDER, with credentials in the environment, or set it to null") from None

    def runs(self) -> set[str]:
        """The keys that have a folder, whether it is whole or not."""
        found = self._files.get_file_info(FileSelector(self._base, allow_not_found=True))
        folders = {info.base_name for info in found if info.type == FileType.Directory}
        return {name for name in folders if re.fullmatch(f"[0-9a-f]{{{KEY_DIGITS}}}", name)}

    def manifest(self, key: str) -> Manifest | None:
        """The manifest of a run; None if the storage has no state of the run.

        Raises:
            UserError: the manifest is not valid.
        """
        place = self._place(key, MANIFEST)
        try:
            with self._files.open_input_stream(place) as file:
                content = json.loads(file.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise UserError(self._shown(key), MANIFEST, f"is no JSON: {error}", "Remove it, and push the run again") from None
        return build(Manifest, content if isinstance(content, Mapping) else {}, where=self._shown(key))

    def push(self, store: RunStore, key: str) -> bool:
        """Copies a run that is done or has a checkpoint to the storage, unless a later state is there; returns whether
        anything was new.

        The stored files of a run that is done stay as they are, and so do evaluations; further evaluations are added.
        Files that were lost there are copied again.

        Raises:
            OSError: the storage cannot be used. Its earlier content remains, and a later call goes on.
        """
        names = _names(store.folder(key))
        there = self.manifest(key)
        named = there.files if there else {}
        present = {info.base_name for info in self._objects(key)}
        before = {name: stored for name, stored in named.items() if stored.object in present}
        if _reached(names) == 0 or _reached(names) < _reached(before):
            return False
        settled = _DONE in before and all(name in before for name in named if not _evaluation(name))
        files = {name: stored for name, stored in before.items() if settled or _evaluation(name)}
        for name in names:
            if name not in files and (not settled or _evaluation(name)):
                try:
                    files[name] = self._put(key, store.folder(key) / name, before.values())
                except _WentOn:
                    return False
        if files == before == named:
            return False
        content = Manifest(files=dict(sorted(files.items()))).model_dump()
        self._write(self._place(key, MANIFEST), lambda out: out.write(json.dumps(content, indent=1).encode()))
        self._forget(key, {stored.object for stored in named.values()})
        return True

    def pull(self, store: RunStore, key: str) -> bool:
        """Fetches a training that is further than the store's, and evaluations that the store does not have; returns whether
        there were any.

        The caller must hold the key's lock.

        Raises:
            OSError: the storage cannot be used.
            UserError: its content does not match its manifest.
        """
        there = self.manifest(key)
        if there is None:
            return False
        folder, news = store.folder(key), False
        # A done.json that the store does not trust does not count.
        if not store.is_done(key) and _reached(there.files) > _reached(name for name in _names(folder) if name != _DONE):
            for name in sorted((name for name in there.files if not _evaluation(name)), key=_order):
                self._get(key, there.files[name], folder / name)
            news = True
        for evaluation in sorted({_evaluation(name) for name in there.files} - {""}):
            if store.evaluation(key, evaluation) is None:
                place = store.evaluation_folder(key, evaluation)
                with explained(place), replacing_folder(place) as new:
                    for name in (name for name in there.files if _evaluation(name) == evaluation):
                        self._get(key, there.files[name], new.joinpath(*PurePosixPath(name).parts[2:]))
                news = True
        return news

    def _put(self, key: str, path: Path, before: Iterable[_Stored]) -> _Stored:
        try:
            opened = path.open("rb")
        except FileNotFoundError as error:
            raise _WentOn from error
        with opened as file:
            size = os.fstat(file.fileno()).st_size  # a history grows, but its beginning does not change
            digest = hashlib.sha256()
            for block in _blocks(file, size):
                digest.update(block)
            stored = _Stored(object=f"{digest.hexdigest()}-{path.name}", bytes=size)
            if stored not in before:
                file.seek(0)
                self._write(self._place(key, stored.object), lambda out: _copy(file, size, out))
        return stored

    def _write(self, place: str, write: Callable[[Any], None]) -> None:
        """Writes a file whole or not at all: an object store shows only whole objects, but a folder needs care for that."""
        if not self._local:
            with self._files.open_output_stream(place) as out:
                write(out)
            return
        with explained(Path(place)), replacing_file(Path(place)) as new, new.open("wb") as out:
            write(out)

    def _get(self, key: str, stored: _Stored, target: Path) -> None:
        with explained(target), replacing_file(target) as new:
            try:
                with self._files.open_input_stream(self._place(key, stored.object)) as file, new.open("wb") as out:
                    _copy(file, stored.bytes, out)
                whole = file_sha256(new) == stored.sha256
            except FileNotFoundError:
                whole = False
            if not whole:
                raise UserError(self._shown(key), stored.object, "is missing or damaged",
                                "Remove the run's folder there, and push it again from where it is")

    def _forget(self, key: str, before: set[str]) -> None:
        """Deletes objects that the manifest no longer names, and remains of interrupted pushes that are a day old or older."""
        there = self.manifest(key)  # it may be another writer's by now
        kept = {stored.object for stored in there.files.values()} if there else set()
        for info in self._objects(key):
            leftover = info.mtime is not None and time.time() - info.mtime.timestamp() > _LEFTOVER_SECONDS
            if info.base_name not in {*kept, MANIFEST} and (info.base_name in before or leftover):
                with contextlib.suppress(FileNotFoundError):  # another writer was faster
                    self._files.delete_file(info.path)

    def _objects(self, key: str) -> list[Any]:
        found = self._files.get_file_info(FileSelector(self._place(key), allow_not_found=True))
        return [info for info in found if info.type == FileType.File]

    def _place(self, *names: str) -> str:
        return "/".join((self._base, *names))

    def _shown(self, key: str) -> str:
        return f"{self.address.partition('?')[0].rstrip('/')}/{key}"


def states(store: RunStore) -> Iterator[tuple[str, str]]:
    """The key of each run that is worth keeping, with a text that tells its states apart."""
    for config in sorted(store.root.glob("*/config.yaml")):
        folder = config.parent
        names = _names(folder)
        if _reached(names) == 0:
            continue
        done, facts = _DONE in names, []
        for name in names:
            # Before the end, history and log grow with each step; they are pushed with the next checkpoint.
            if done or name.startswith("checkpoint/"):
                with contextlib.suppress(FileNotFoundError):
                    found = (folder / name).stat()
                    facts.append((name, found.st_size, found.st_mtime_ns))
        yield folder.name, hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _names(folder: Path) -> list[str]:
    """The files of a run that are not being written now. ``done.json`` is among them if the files that it describes are."""
    done = (folder / _DONE).is_file()
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    whole = (path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    # Checkpoints are deleted a moment after a run is done.
    return [name for name in whole if (not name.startswith("checkpoint/") if done else name != _DONE)]


def _reached(names: Iterable[str]) -> float:
    """The progress of a training: the step of its last checkpoint; infinity if it is done, 0 if it has no checkpoint."""
    steps = [0.0]
    for name in names:
        if name == _DONE:
            return math.inf
        if found := re.fullmatch(r"checkpoint/step_(\d+)\.pt", name):
            steps.append(float(found[1]))
    return max(steps)


def _evaluation(name: str) -> str:
    """The key of the evaluation to which a file belongs, or ""."""
    parts = PurePosixPath(name).parts
    return parts[1] if parts[0] == "eval" and len(parts) > 2 else ""


def _order(name: str) -> tuple[bool, bool]:
    """A sort key: checkpoints come after the history that leads to them, and ``done.json`` comes last."""
    return name == _DONE, name.startswith("checkpoint/")


def _copy(file: BinaryIO, size: int, out: BinaryIO) -> None:
    for block in _blocks(file, size):
        out.write(block)


def _blocks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a file, or all that remain, in blocks."""
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        yield block
        size -= len(block)
