"""Downloads that resume and are verified: a file gets its final name only when it is whole and the right one.

Bytes that have arrived lie in ``<target>.part``; ``<target>.part.json`` beside it notes the version of the file to which they
belong. An interrupted download, even one of another process, goes on from there if the server still has that version.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from effvis.errors import UserError
from effvis.files import put_in_place

SCHEMES = ("http", "https", "file")
# Timeout of a connection, for its start and for each silence.
TIMEOUT_SECONDS = 30.0
# Broken connections in a row without progress; the pause doubles from one to the next.
RETRIES = 4
PAUSE_SECONDS = 0.25
# A server's errors that may pass in a moment.
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
RANGE_NOT_SATISFIABLE = 416
CHUNK_BYTES = 1 << 20
BY_HAND = "Download it by hand and give the file with --from FILE, or try again later: what has arrived is kept"

OnBytesDownloaded = Callable[[int, int | None], None]
"""A function called with (bytes that are here, bytes in all, or None if the server does not say)."""


def download(
    url: str, target: Path, *, sha256: str | None = None, size: int | None = None, progress: OnBytesDownloaded | None = None,
    by_hand: str = BY_HAND,
) -> bool:
    """Downloads a file, unless it is there already.

    Args:
        url: an http, https or file address.
        target: the path of the downloaded file; its folder is made.
        sha256: checksum of its bytes, in hex; the first 8 digits or more suffice.
        size: its size in bytes.
        by_hand: what the user can do where the server cannot be reached.

    Returns:
        Whether anything had to be downloaded.

    Raises:
        UserError: the file is not available, there is no room for it, it does not match ``sha256`` and ``size``, or another
            file is at ``target``.
    """
    if urlsplit(url).scheme not in SCHEMES:
        raise UserError(url, "(address)", "is no http, https or file address", "Correct it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):  # a second process waits, then finds the file
            if target.exists():
                verify(target, sha256=sha256, size=size)
                return False
            part = _Part.of(target, url)
            try:
                _download(part, size, progress)
            except _Unavailable as error:
                raise UserError(url, "(download)", str(error), by_hand) from None
            try:
                verify(part.file, sha256=sha256, size=size)
            except UserError as error:
                part.discard()
                raise UserError(url, error.key, error.problem,
                                "Start again; if this repeats, another file is published there now") from None
            part.become(target)
    except OSError as error:  # an error of this machine; network errors have become a UserError
        raise UserError(error.filename or target, "(file)", f"cannot be written: {error.strerror or error}",
                        "Make room, or choose another folder") from None
    return True


def verify(file: Path, *, sha256: str | None = None, size: int | None = None) -> None:
    """Checks that a file is the one that was published.

    Args:
        sha256: checksum of its bytes, in hex; the first 8 digits or more suffice.
        size: its size in bytes.

    Raises:
        UserError: it is another file, or cannot be read.
        ValueError: ``sha256`` is not a checksum in this form.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{8,64}", sha256):
        raise ValueError(f"{sha256!r} is not 8 to 64 lower-case hex digits")
    remedy = "Remove it, and download it again"
    try:
        with file.open("rb") as content:
            found_size = os.fstat(content.fileno()).st_size
            if size is not None and found_size != size:
                raise UserError(file, "size", f"has {found_size} bytes, the published file {size}", remedy)
            found = "" if sha256 is None else hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror or error}", "Correct the path") from None
    if sha256 is not None and not found.startswith(sha256):
        raise UserError(file, "sha256", f"starts with {found[:len(sha256)]}, the published file's with {sha256}", remedy)


class _Unavailable(Exception):
    """The file cannot be had from its address."""


class _Broken(Exception):
    """A connection that ended before the end of the file; another attempt may succeed."""


@dataclass(frozen=True)
class _Part:
    """The part of a file that has arrived, and the note of its version."""

    url: str
    file: Path
    note: Path

    @classmethod
    def of(cls, target: Path, url: str) -> _Part:
        return cls(url, target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json"))

    def _address(self) -> str:
        """A digest that tells addresses apart without storing any secrets in them."""
        return hashlib.sha256(self.url.encode()).hexdigest()

    def version(self) -> tuple[str | None, int | None]:
        """The server's label (ETag or date) of the version to which this part belongs, and the version's size in bytes."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            return (note["version"], note["total"]) if note["address"] == self._address() else (None, None)
        except (OSError, ValueError, KeyError, TypeError):
            return None, None

    def size(self) -> int:
        """Bytes from which the download can go on; 0 if their version is unknown."""
        return self.file.stat().st_size if self.version()[0] is not None and self.file.is_file() else 0

    def begin(self, version: str | None, total: int | None) -> None:
        """Starts anew with this version. The note is removed first and written last, so it never describes other bytes."""
        self.note.unlink(missing_ok=True)
        self.file.write_bytes(b"")
        self.note.write_text(json.dumps({"address": self._address(), "version": version, "total": total}), encoding="utf-8")

    def discard(self) -> None:
        self.note.unlink(missing_ok=True)
        self.file.unlink(missing_ok=True)

    def become(self, target: Path) -> None:
        put_in_place(self.file, target)
        self.note.unlink(missing_ok=True)


def _download(part: _Part, size: int | None, progress: OnBytesDownloaded | None) -> None:
    """Completes ``part``, over as many connections as that takes."""
    furthest, failures = part.size(), 0
    while True:
        try:
            return _go_on(part, size, progress)
        except _Broken as error:
            reached = part.size()
            failures = 0 if reached > furthest else failures + 1
            furthest = max(furthest, reached)
            if failures > RETRIES or urlsplit(part.url).scheme == "file":
                raise _Unavailable(f"does not arrive: {error}") from None
            time.sleep(PAUSE_SECONDS * 2**failures)


def _go_on(part: _Part, size: int | None, progress: OnBytesDownloaded | None) -> None:
    """Downloads the rest of the file over one connection."""
    start = part.size()
    version, total = part.version()
    if start and start == total:
        return
    with _open(part, start, version) as response:
        whole = response.status != http.HTTPStatus.PARTIAL_CONTENT
        if whole:
            start, version, total = 0, _version(response), _length(response)
        elif not _continues(response, start, version):
            part.discard()
            raise _Broken("the server sends another part than the one that was asked for")
        expected = size if total is None else total
        _check_size(part.url, total, size)
        _check_room(part.file, expected)
        if whole:
            part.begin(version, total)
        done = start
        with part.file.open("ab") as file:
            while chunk := _read(response):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, expected)
    if total is not None and done != total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _open(part: _Part, start: int, version: str | None):
    headers = {"User-Agent": "effvis", "Accept-Encoding": "identity"}
    if start:
        # If the server has another version, it sends the whole file.
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    try:
        return urllib.request.urlopen(urllib.request.Request(part.url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == RANGE_NOT_SATISFIABLE:
            part.discard()
        if error.code in (*TRANSIENT_STATUS, RANGE_NOT_SATISFIABLE):
            raise _Broken(f"the server answers {error.code} {error.reason}") from None
        raise _Unavailable(f"the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error)) from None


def _read(response) -> bytes:
    """The bytes that have arrived, at most a chunk; empty at the end."""
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(_reason(error)) from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", error)  # a URLError wraps the actual error
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _continues(response, start: int, version: str | None) -> bool:
    """Whether the server's partial answer is the rest of the same version."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == start and _version(response) in (None, version)


def _version(response) -> str | None:
    """A strong ETag, or the time of the last change; without either, the download cannot go on later."""
    tag = response.headers.get("ETag")
    return tag if tag is not None and tag.startswith('"') else response.headers.get("Last-Modified")


def _length(response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _check_size(url: str, total: int | None, size: int | None) -> None:
    if None not in (total, size) and total != size:
        raise UserError(url, "size", f"has {total} bytes, the published file {size}", "Correct the address")


def _check_room(file: Path, expected: int | None) -> None:
    """Checks that there is room for the rest; bytes that are there are either kept or overwritten."""
    missing = (expected or 0) - (file.stat().st_size if file.exists() else 0)
    free = shutil.disk_usage(file.parent).free
    if missing > free:
        raise UserError(file.parent, "(disk)", f"{missing} bytes are to come, {free} are free",
                        "Make room and start again, or choose another folder")
