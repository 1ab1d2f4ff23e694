"""The frames of a video as image files of one folder, in order of time."""

from __future__ import annotations

import re
from pathlib import Path

from effvis.errors import UserError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """The files with one of the suffixes, by name without it, with frame 9 before frame 10; hidden files are left out.

    Raises:
        UserError: two files differ only in the suffix.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in suffixes and not file.name.startswith("."):
            if file.stem in files:
                raise UserError(file, file.stem, f"the same frame as {files[file.stem].name}", "Remove one of them")
            files[file.stem] = file
    return {stem: files[stem] for stem in sorted(files, key=natural)}


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts frame 9 before frame 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]
