"""Unpacks untrusted archives safely: no paths outside the folder, no links, and no more bytes than a stated multiple."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from effvis.errors import UserError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
# An archive, with the archives inside it, may unpack to at most this many times its size. Packed frames keep about their size,
# packed annotations are a tenth of theirs or more; archives made to fill disks pack to a thousandth or less.
MAX_RATIO = 100
CHUNK_BYTES = 1 << 20
# Masks as pictures, which the annotations also hold, and a folder that macOS adds.
LEFT_OUT = ("Annotations", "__MACOSX")

OnBytesUnpacked = Callable[[int, int], None]
"""A function called with (bytes unpacked, bytes in all as far as they are known)."""


def is_archive(file: Path) -> bool:
    """Whether a file is an archive, judged by its content, not by its name.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return zipfile.is_zipfile(file) or tarfile.is_tarfile(file)
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror or error}", "Correct the path") from None


def stem(name: str) -> str:
    """A file's name without the suffix of an archive."""
    return next((name[:-len(suffix)] for suffix in SUFFIXES if name.lower().endswith(suffix)), name)


def stays_inside(name: str) -> bool:
    """Whether a relative path stays below its starting point, on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root
    return bool(posix.parts) and "\0" not in name and not outside and ".." not in (*posix.parts, *windows.parts)


def check_room(archives: Sequence[Path], folder: Path) -> None:
    """Checks the free space before anything is unpacked into ``folder``.

    Raises:
        UserError: there is no room for the content that the archives announce.
    """
    needed, free = sum(_announced_bytes(archive) for archive in archives), shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(folder, "(disk)", f"unpacking takes {needed} bytes, {free} are free",
                        "Make room and start again, or set data_dir to another folder")


def unpack(archive: Path, folder: Path, progress: OnBytesUnpacked | None = None) -> None:
    """Unpacks a zip or tar file into ``folder``; archives inside it are unpacked where they lie.

    Raises:
        UserError: it is damaged or encrypted, or holds a path that leads outside, a link, or more than MAX_RATIO times its
            size. Files written until then remain.
    """
    budget = _Budget(archive, MAX_RATIO * archive.stat().st_size, _announced_bytes(archive), progress)
    _unpack(archive, folder, budget)
    for inner in [file for file in folder.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file()]:
        _unpack(inner, inner.with_name(stem(inner.name)), budget)
        inner.unlink()


@dataclass(frozen=True)
class _Member:
    """A file, or something that is neither file nor folder (then ``open`` is None)."""

    name: str
    open: Callable[[], IO[bytes]] | None


@dataclass
class _Budget:
    """How many more bytes may come out of an archive; the sizes that its entries state are not trusted."""

    archive: Path
    left: int
    announced: int
    progress: OnBytesUnpacked | None
    spent: int = 0

    def spend(self, count: int) -> None:
        self.spent += count
        self.left -= count
        if self.left < 0:
            raise UserError(self.archive, "(size)", f"unpacks to more than {MAX_RATIO} times its size",
                            "No data set is like that. If you trust it, unpack it yourself and give the folder with --from")
        if self.progress is not None:
            self.progress(self.spent, max(self.announced, self.spent))


def _announced_bytes(archive: Path) -> int:
    """The size of the content that a zip file announces; for a tar file, which has no list, the file's own size."""
    if not zipfile.is_zipfile(archive):
        return archive.stat().st_size
    try:
        with zipfile.ZipFile(archive) as content:
            return sum(entry.file_size for entry in content.infolist() if not _is_left_out(entry.filename))
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise _damaged(archive, error) from None


def _unpack(archive: Path, folder: Path, budget: _Budget) -> None:
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        for member in members(archive):
            if not stays_inside(member.name):
                raise UserError(archive, member.name, "this path leads out of the folder that it is unpacked into",
                                "Do not use this archive: it is none of a data set")
            if member.open is None:
                raise UserError(archive, member.name, "is a link or a device", "Pack the files themselves")
            if not _is_left_out(member.name):
                _write(member, folder / PurePosixPath(member.name), archive, budget)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError,
            OSError) as error:
        raise _damaged(archive, error) from None


def _write(member: _Member, target: Path, archive: Path, budget: _Budget) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError):
        raise UserError(archive, member.name, "is in it twice", "Pack it anew") from None
    except OSError as error:
        raise UserError(target, "(file)", f"cannot be written: {error.strerror}", "Make room and start again") from None
    with file, member.open() as content:
        while chunk := content.read(CHUNK_BYTES):
            budget.spend(len(chunk))
            try:
                file.write(chunk)
            except OSError as error:
                raise UserError(target, "(file)", f"cannot be written: {error.strerror}", "Make room and start again") from None


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as content:
        for entry in content.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            if plain and entry.is_dir():
                continue
            # orig_filename, because zipfile cuts a name off at a null byte. Some Windows programs pack with backslashes.
            yield _Member(entry.orig_filename.replace("\\", "/"), (lambda entry=entry: content.open(entry)) if plain else None)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as content:
        for entry in content:
            if not entry.isdir():
                yield _Member(entry.name, (lambda entry=entry: content.extractfile(entry)) if entry.isreg() else None)


def _is_left_out(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in LEFT_OUT for part in parts[:-1]) or bool(parts) and parts[-1].startswith(".")


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(archive, "(archive)", f"cannot be unpacked: {error or type(error).__name__}",
                     "Copy or download it anew; if it has a password, unpack it yourself and give the folder with --from")
