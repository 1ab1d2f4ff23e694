"""Reads meta.json of the YouTube-VOS layout: which category each numbered object of a sequence has, and where it is annotated.

``{"videos": {"<sequence>": {"objects": {"<number>": {"category": "...", "frames": ["00005", ...]}}}}}``, as YouTube-VOS
(Xu et al., arXiv:1809.03327) is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from effvis.data.frame_files import FRAME_SUFFIXES
from effvis.data.json_reader import JsonReader, short
from effvis.data.problems import Problems
from effvis.errors import UserError

META = "meta.json"


@dataclass(frozen=True)
class ListedObject:
    """An object of a sequence; ``frames`` are names without folder and suffix, none where the file does not list them.

    Attributes:
        place: its place in the file.
    """

    place: str
    category: str
    frames: frozenset[str]


def meta_file(*folders: Path) -> Path | None:
    """The first meta.json in the folders."""
    return next((folder / META for folder in folders if (folder / META).is_file()), None)


def read_objects(file: Path, names: Sequence[str], problems: Problems) -> dict[str, dict[int | str, ListedObject]]:
    """The objects of the named sequences, by number (or by name where it is no number).

    Args:
        problems: is told of sequences that the file lists but that are not there.

    Raises:
        UserError: a sequence is not listed, an object has no category, or a value has another form.
    """
    reader = JsonReader(file, problems, format="YouTube-VOS")
    videos = _mapping(file, reader.content.get("videos"), "videos")
    for name in videos.keys() - set(names):
        problems.bend(file, f"videos.{name}", "a sequence that is not there, left out", "Copy its frames and masks")
    return {name: _objects(file, videos, name) for name in names}


def _objects(file: Path, videos: dict, name: str) -> dict[int | str, ListedObject]:
    if name not in videos:
        raise UserError(file, f"videos.{name}", "no categories for this sequence", "List it, or give --categories FILE")
    place = f"videos.{name}.objects"
    objects: dict[int | str, ListedObject] = {}
    for key, entry in _mapping(file, _mapping(file, videos[name], f"videos.{name}").get("objects"), place).items():
        category = _mapping(file, entry, f"{place}.{key}").get("category")
        if not isinstance(category, str) or not category.strip():
            raise UserError(file, f"{place}.{key}.category", f"{short(category)} is not a category",
                            "Write the name of its category, or give --categories FILE")
        number = int(key) if key.isdecimal() else key
        if number in objects:
            raise UserError(file, f"{place}.{key}", f"the same object as {objects[number].place}", "Remove one of them")
        objects[number] = ListedObject(f"{place}.{key}", category, _frames(file, entry, f"{place}.{key}.frames"))
    return objects


def _frames(file: Path, entry: dict, place: str) -> frozenset[str]:
    names = entry.get("frames") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(file, place, f"{short(names)} is not a list of names", "List the names of frames, such as 00005")
    return frozenset(_stem(name) for name in names)


def _stem(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix.lower() in FRAME_SUFFIXES else path.name


def _mapping(file: Path, value: Any, place: str) -> dict:
    if not isinstance(value, dict):
        raise UserError(file, place, f"{short(value)} is not a JSON object",
                        "Write it as in YouTube-VOS, or give --categories FILE")
    return value
