"""Finds the splits of a data set in the layouts in which it is published or passed on, and brings them into one layout.

That layout has ``train/``, ``val/`` and, if it is annotated, ``test/``, each with ``instances.json`` and
``JPEGImages/<video>/<frame>``. Annotations may lie in the split's folder (instances.json: YouTube-VIS 2021), beside it
(train.json: 2019; annotations_train.json: OVIS) or in a folder of their own (instances_train_sub.json). Frames may lie in
<split>/JPEGImages or, in OVIS, in <split>.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effvis.data.parsing import ANNOTATIONS, IMAGES
from effvis.errors import UserError
from pipeline.datasets.archives import LEFT_OUT, stays_inside

SPLITS = ("train", "val", "test")

OnFilesDone = Callable[[int, int, str], None]
"""A function called with (done, in all, of what)."""

# The names of each split in the layouts.
NAMES = {"train": ("train",), "val": ("valid", "val", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Root:
    """A folder to search."""

    path: Path

    def folders(self) -> Iterator[Path]:
        """This folder and all below it, except the folders of single videos inside a folder of frames."""
        for parent, names, _ in os.walk(self.path, followlinks=True):
            folder = Path(parent)
            names[:] = [] if folder.name == IMAGES else sorted(
                name for name in names if name not in LEFT_OUT and not _leads_up(folder / name))
            yield folder

    def words(self, path: Path) -> tuple[str, ...]:
        """The names of the folders that lead to a path, including this folder's."""
        return tuple(part.lower() for part in (self.path.name, *path.relative_to(self.path).parts))


@dataclass(frozen=True)
class Split:
    """A split that was found.

    Attributes:
        file: its annotations; ``content`` is their content.
        images: the folder that the frames' names are relative to.
    """

    file: Path
    content: dict[str, Any]
    images: Path

    def frames(self) -> dict[str, str]:
        """Names of the frame files, each with its first place in the annotations.

        Raises:
            UserError: a name is not valid, or leads out of the data set.
        """
        return _frame_names(self.file, self.content)


def find_split(roots: Sequence[Root], split: str) -> Split | None:
    """The annotations and the frames of a split; None if it has no annotations or, as test, no instances.

    Raises:
        UserError: it has several annotations, they are not in the YouTube-VIS format, or their frames are missing.
    """
    folders = [(root, folder) for root in roots for folder in root.folders()]
    file = _annotation_file(folders, split)
    if file is None:
        return None
    content = _read(file)
    if split == "test" and not content.get("annotations"):  # as YouTube-VIS publishes it, for its server
        return None
    names = _frame_names(file, content)
    if not names:
        raise UserError(file, "videos", "lists no frame", "Give the annotations as they were published")
    first, key = next(iter(names.items()))
    # The split's own folder comes first, then a folder that names no split, then another split's folder.
    holding = sorted((_rank(root.words(folder), split), len(folder.parts), str(folder), i)
                     for i, (root, folder) in enumerate(folders) if (folder / first).is_file())
    if not holding:
        raise UserError(file, key, f"the frame {first} is in none of the folders and archives given",
                        "Give what holds the frames with another --from")
    if len(holding) > 1 and holding[0][0] == holding[1][0] > 0:
        raise UserError(file, key, f"the frame {first} is in {holding[0][2]} and in {holding[1][2]}",
                        f"Put the frames of this split into a folder named {NAMES[split][0]}")
    return Split(file, content, folders[holding[0][3]][1])


def bring(split: Split, roots: Sequence[Root], folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """Brings a split into the empty ``folder``. Frames are hard links, which take no room, or else copies.

    A hard link is a file like any other: removing one does not affect the other.

    Args:
        roots: no frame may lie outside them, not even through a link.
        progress: called with (frames brought, frames in all).

    Raises:
        UserError: a frame is missing or outside, or there is no room for copies.
    """
    names = split.frames()
    sources = {name: _source(split, roots, name, key) for name, key in names.items()}
    _check_room(split, sources.values(), folder)
    if split.content.get("annotations", ()) is None:  # Some validation splits are published in this form.
        content = {key: value for key, value in split.content.items() if key != "annotations"}
        (folder / ANNOTATIONS).write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    else:
        shutil.copyfile(split.file, folder / ANNOTATIONS)
    for done, (name, source) in enumerate(sources.items(), start=1):
        target = folder / IMAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source, target)
        if progress is not None:
            progress(done, len(sources))


def _leads_up(folder: Path) -> bool:
    """Whether a folder is a link to a folder above it: following it would never end."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _annotation_file(folders: Sequence[tuple[Root, Path]], split: str) -> Path | None:
    ranked: dict[int, list[Path]] = {}
    for root, folder in folders:
        for file in sorted(folder.glob("*.json")):
            rank = _annotation_rank(root.words(folder)[-1], file.name.lower(), split)
            if rank is not None and file not in ranked.get(rank, ()):
                ranked.setdefault(rank, []).append(file)
    best = ranked[min(ranked)] if ranked else []
    if len(best) > 1:
        raise UserError(best[0], "--from", f"and {best[1]} may both be the annotations of {split}", "Give only one of them")
    return best[0].resolve() if best else None


def _annotation_rank(folder: str, file: str, split: str) -> int | None:
    """0 for the surest names of a split's annotations; None for any other file."""
    for name in NAMES[split]:
        if folder == name and file == ANNOTATIONS:
            return 0
        beside = (f"{name}.json", f"annotations_{name}.json", f"instances_{name}_sub.json", f"instances_{name}.json")
        if file in beside:
            return 1 + beside.index(file)
    return None


def _rank(words: Sequence[str], split: str) -> int:
    others = {name for other, names in NAMES.items() if other != split for name in names}
    return 0 if set(NAMES[split]) & set(words) else 2 if others & set(words) else 1


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", "Make it readable") from None
    except (ValueError, RecursionError) as error:
        raise UserError(file, "(top)", f"unreadable JSON ({error})", "Copy or download it anew; it may be cut off") from None
    if not isinstance(content, dict) or not isinstance(content.get("videos"), list):
        raise UserError(file, "videos", "there is no list of videos", "Give the annotations in the YouTube-VIS format")
    return content


def _frame_names(file: Path, content: dict[str, Any]) -> dict[str, str]:
    names: dict[str, str] = {}
    for v, video in enumerate(content["videos"]):
        listed = video.get("file_names") if isinstance(video, dict) else None
        if not isinstance(listed, list):
            raise UserError(file, f"videos[{v}].file_names", "there is no list of frames",
                            "Give the annotations in the YouTube-VIS format")
        for f, name in enumerate(listed):
            key = f"videos[{v}].file_names[{f}]"
            if not isinstance(name, str) or not name or any("\ud800" <= c <= "\udfff" for c in name):
                raise UserError(file, key, f"{name!r} is not a file name", "Write <video>/<frame>.jpg")
            if not stays_inside(name):
                raise UserError(file, key, f"the path {name!r} leaves the data set folder",
                                "Write a path below the folder of the frames, without '..'")
            names.setdefault(name, key)
    return names


def _source(split: Split, roots: Sequence[Root], name: str, key: str) -> Path:
    source = Path(os.path.realpath(split.images / name))
    if not source.is_file():
        raise UserError(split.file, key, f"missing frame file {split.images / name}", "Restore it, or unpack the archive anew")
    if not any(source.is_relative_to(os.path.realpath(root.path)) for root in roots):
        raise UserError(split.file, key, f"the frame {split.images / name} is a link to {source}",
                        f"Give the folder that it leads to with another --from: {source.parent}")
    return source


def _check_room(split: Split, sources: Sequence[Path], folder: Path) -> None:
    """Checks that there is room for copies; frames on the same file system are linked and need none."""
    device = folder.stat().st_dev
    missing = sum(status.st_size for source in sources if (status := source.stat()).st_dev != device)
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise UserError(folder, "(disk)", f"copying the frames of {split.images} takes {missing} bytes, {free} are free",
                        "Make room and start again, or set data_dir to a folder in the frames' own file system")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        # The target is on another file system, or on one without hard links.
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(source, target)
