"""Files and folders that are either whole or not there: everything that this project writes comes to its place through here."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def put_in_place(new: Path, file: Path, *, durable: bool = True) -> None:
    """``new`` becomes ``file``, at once.

    Args:
        durable: ``file`` is whole even if the machine stops now. False is for what is written often and soon worth nothing.
    """
    if durable:
        with new.open("rb+") as opened:
            os.fsync(opened.fileno())
    os.replace(new, file)


def write_file(file: Path, content: bytes, *, durable: bool = True) -> None:
    """Writes ``file``, whose folder has to exist, as a whole or not at all; ``durable`` as in ``put_in_place``."""
    with _beside(file) as new:
        new.write_bytes(content)
        put_in_place(new, file, durable=durable)


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """Yields a path beside ``file`` to write to; it takes the place of ``file`` when the block ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _beside(file) as new:
        yield new
        put_in_place(new, file)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A hidden path that no other process has, with nothing left of it afterwards."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield new
    finally:
        new.unlink(missing_ok=True)  # on a full disk, half a file is in the way of everything else


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``folder``; it takes the place of ``folder`` when the block ends without an error.

    Readers see the old folder or the new one, never a half-written one (for an instant, while an old one is replaced,
    they see none).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp finds a free name; the new folder inside it gets the ordinary permissions.
    workshop = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        new = workshop / "new"
        new.mkdir()
        yield new
        if folder.exists():
            os.replace(folder, workshop / "old")
        os.replace(new, folder)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
