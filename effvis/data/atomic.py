"""Folders and files that are either whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def replacing_file(file: Path) -> Iterator[Path]:
    """Yields a path beside ``file`` to write to; it takes the place of ``file`` when the block ends without an error."""
    file.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent))
    try:
        yield workshop / file.name
        os.replace(workshop / file.name, file)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
