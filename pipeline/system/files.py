"""Writes whole files (and explains a full disk), reads JSON files, and computes checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effvis.errors import UserError
from effvis.files import write_file
from pipeline.system.disk import explained


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, even if the machine stops.

    Raises:
        UserError: the disk is full, read-only or failing; the earlier file stays.
    """
    with explained(path):
        write_file(path, content)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a file; None if it is missing, unreadable or not a JSON object."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def check_out(out: Path) -> None:
    """Refuses an --out that would be replaced: a new or an empty folder will do.

    Raises:
        UserError: there is something at ``out`` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "--out", "exists already", "Remove it, or choose another folder")


def user_cache() -> Path:
    """The user's cache folder by the XDG base directory specification: $XDG_CACHE_HOME if it is absolute, else ~/.cache.

    Raises:
        UserError: the user has no home.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise UserError("HOME", "(environment)", "the user has no home folder to keep a cache in",
                        "Set HOME or XDG_CACHE_HOME, or give -S cache_dir=FOLDER") from None


def json_bytes(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()
