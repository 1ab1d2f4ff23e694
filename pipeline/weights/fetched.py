"""Fetches published weights into the cache folder; they are downloaded once, and what is put there by hand is taken."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.datasets.fetch import download, verify
from pipeline.system.cli import progress_bar

if TYPE_CHECKING:
    from pipeline.methods.base import Published
    from pipeline.settings.params import Params

# Publishers round sizes differently, up or down to a MiB.
MIB_EXACT_TO = 1.0


def fetched(published: Published, params: Params) -> Path:
    """The verified file ``<cache_dir>/published/<file's name>``, which is downloaded unless it is there.

    Raises:
        UserError: it cannot be downloaded, or is another file than the published one. Without a network, the message says
            where to get the file and where to put it.
    """
    file = params.cache_folder / "published" / published.file
    by_hand = f"Download it by hand and put it at {file}, or try again later: what has arrived is kept"
    with progress_bar(f"{published.file} (MiB)") as update:
        new = download(published.url, file, sha256=published.sha256, by_hand=by_hand,
                       progress=lambda done, total: update(done >> 20, (total or done) >> 20))
    check_size(published, file)
    print(f"{published.file}: {'downloaded' if new else 'already there'}, {file}", file=sys.stderr)
    return file


def check_published(published: Published, file: Path) -> None:
    """Checks that a file is the published one.

    Raises:
        UserError: its checksum or its size is another, or it cannot be read.
    """
    verify(file, sha256=published.sha256)
    check_size(published, file)


def check_size(published: Published, file: Path) -> None:
    """Checks a file's size against the one that its publisher states.

    Raises:
        UserError: it is another one, beyond rounding.
    """
    found = file.stat().st_size / 2**20
    if published.mib is not None and abs(found - published.mib) > MIB_EXACT_TO:
        raise UserError(file, "size", f"has {found:.3f} MiB, the published file {published.mib}",
                        "Remove it, and download it again")
