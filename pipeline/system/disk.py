"""Reports a disk that is full, read-only or failing in words instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from effvis.errors import UserError

_KEPT = "then start again: what is there is kept, and trainings go on from their last checkpoint"
_REMEDIES = {
    errno.ENOSPC: f"Free space, {_KEPT}",
    errno.EDQUOT: f"Free space or have your quota raised, {_KEPT}",
    errno.EFBIG: f"Have the limit on the size of files raised, {_KEPT}",
    errno.EROFS: f"Make the file system writable, or name another folder, {_KEPT}",
    errno.EACCES: f"Make it yours to read and write, or name another folder, {_KEPT}",
    errno.EPERM: f"Make it yours to read and write, or name another folder, {_KEPT}",
    errno.EIO: f"See to the disk, {_KEPT}",
}


@contextlib.contextmanager
def explained(place: Path | None = None) -> Iterator[None]:
    """Turns a disk error inside the block into a ``UserError``; other errors pass.

    Args:
        place: the file that is being written; by default, the file that the error names.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        raise UserError(place or error.filename or Path.cwd(), "(file)", error.strerror, _REMEDIES[error.errno]) from error
