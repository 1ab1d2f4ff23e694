"""Reading typed values from an untrusted JSON file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from effvis.data import masks
from effvis.data.problems import Problems
from effvis.data.variants import as_polygons, counts_text, has_extent, is_nothing, name_below
from effvis.errors import UserError

JSON_KINDS = {list: "list", dict: "object", str: "text"}


def _loads(text: bytes) -> Any:
    return json.loads(text.decode("utf-8"))


class JsonReader:
    """Reads typed values from a JSON file that holds an object, and names their place in it where they are wrong.

    Args:
        format: name of the file's format, for messages.
        list_as: the key under which a file that holds a list is read; None refuses such a file.
        loads: parses the file; it raises ValueError where it is malformed.
    """

    def __init__(self, file: Path, problems: Problems, *, format: str, list_as: str | None = None,
                 loads: Callable[[bytes], Any] = _loads):
        self.file, self.problems, self.format = file, problems, format
        try:
            content = loads(file.read_bytes())
        except (ValueError, RecursionError) as error:  # ValueError: malformed JSON or UTF-8.
            raise self.error("(top)", f"unreadable JSON ({error})", "Write the file anew; it may be cut off") from None
        if list_as and isinstance(content, list):
            content = {list_as: content}
        if not isinstance(content, dict):
            raise self.error("(top)", "not a JSON object", f"Give a file in the {self.format} format")
        self.content = content

    def error(self, key: str, problem: str, remedy: str) -> UserError:
        return UserError(self.file, key, problem, remedy)

    def bend(self, key: str, problem: str, remedy: str) -> None:
        """Notes what is not as the format says, but plain."""
        self.problems.bend(self.file, key, problem, remedy)

    def get(self, entry: dict, key: str, kind: type | tuple[type, ...], place: str, default: Any = None) -> Any:
        """``entry[key]``, which must be of the given JSON type; ``default``, unless None, makes it optional."""
        where = f"{place}.{key}" if place else key
        if key not in entry:
            if default is not None:
                return default
            raise self.error(where, "missing key", f"Add it as the {self.format} format says")
        value = entry[key]
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(where, f"{value} is not a finite number", "Correct the number")
        # bool is an int in Python, but true is no number in JSON.
        if not isinstance(value, kind) or isinstance(value, bool):
            name = kind.__name__ if isinstance(kind, type) else "number"
            raise self.error(where, f"{short(value)} is not of type {name}", "Correct the value")
        return value

    def entries(self, content: dict, key: str) -> list[tuple[int, dict]]:
        """A list of JSON objects, each with its number."""
        entries = []
        for i, entry in enumerate(self.get(content, key, list, "")):
            with self.problems:
                if not isinstance(entry, dict):
                    raise self.error(f"{key}[{i}]", "not a JSON object", f"Write it as the {self.format} format says")
                entries.append((i, entry))
        return entries

    def new_id(self, entry: dict, place: str, seen: dict[int, str]) -> int:
        number = self.get(entry, "id", int, place)
        if not -(1 << 63) <= number < 1 << 63:
            raise self.error(f"{place}.id", "an id of more than 64 bits", "Number them from 1 on")
        if number in seen:
            raise self.error(f"{place}.id", f"id {number} is already taken by {seen[number]}", "Give each its own id")
        seen[number] = place
        return number

    def size(self, entry: dict, key: str, place: str) -> int:
        value = self.get(entry, key, int, place)
        if not 1 <= value <= 1 << 15:
            raise self.error(f"{place}.{key}", f"{value} is no size in pixels", "Write the size of the frames")
        return value

    def check_file_name(self, name: Any, key: str) -> None:
        # A lone surrogate is valid JSON but cannot be written into a path.
        if not isinstance(name, str) or not name or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
            raise self.error(key, f"{short(name)} is not a file name", "Write <video>/<frame>.jpg")
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
            raise self.error(key, f"the path {name!r} leaves the data set folder",
                             "Write a path below the folder of the frames, without '..'")

    def file_below(self, folder: Path, name: Any, key: str) -> str:
        """A file's name relative to ``folder``; the file may be missing."""
        self.check_file_name(name, key)
        found = name_below(folder, name)
        if found != name:
            self.check_file_name(found, key)
            if "\\" in name:
                self.bend(key, "backslashes in the name of a file, taken as slashes", "Write <video>/<frame>.jpg")
            else:
                self.bend(key, f"the name of a file begins with {folder.name}/, in which it lies", "Write <video>/<frame>.jpg")
        return found

    def crowd(self, entry: dict, place: str) -> bool:
        """Whether an annotation's ``iscrowd`` says that it is a group."""
        value, remedy = entry.get("iscrowd"), "Write 1 for a group, else 0"
        if is_nothing(value):
            self.bend(f"{place}.iscrowd", "no iscrowd, taken as 0", remedy)
            return False
        if type(value) is not bool and self.get(entry, "iscrowd", (int, float), place) not in (0, 1):
            raise self.error(f"{place}.iscrowd", f"{short(value)} is neither 0 nor 1", remedy)
        if type(value) is not int:
            self.bend(f"{place}.iscrowd", f"iscrowd is {json.dumps(value)}, taken as {int(value)}", remedy)
        return bool(value)

    def mask(self, given: Any, key: str, height: int, width: int) -> masks.RLE:
        """The RLE of a COCO segmentation (see ``masks.to_compressed``) of a frame of the given size."""
        try:
            return masks.to_compressed(self.plain_mask(given, key), height, width)
        except ValueError as error:
            raise self.error(key, str(error), "Write the mask of the whole frame at its size") from None

    def plain_mask(self, given: Any, key: str) -> Any:
        """A COCO segmentation without what tools write in place of its format; it may still be wrong."""
        if isinstance(given, list):
            self.check_numbers(given, key)
            polygons = as_polygons(given)
            if polygons != given:
                self.bend(key, "a polygon that is not a flat list in a list", "Write [[x0, y0, x1, y1, ...], ...]")
            return polygons
        if isinstance(given, dict) and isinstance(given.get("counts"), str):
            counts = counts_text(given["counts"])
            if counts != given["counts"]:
                self.bend(key, "counts in Python's notation for bytes", "Write counts.decode('ascii')")
            return given | {"counts": counts}
        return given

    def check_unseen(self, entry: dict, frame: int, key: str, segmentation: Any) -> None:
        """Refuses an empty segmentation where the annotation's box or area says that something is seen."""
        box, area = (values[frame] if isinstance(values := entry.get(name), list) and frame < len(values) else None
                     for name in ("bboxes", "areas"))
        if has_extent(box, area):
            raise self.error(key, f"{short(segmentation)} is no mask, but the box is {short(box)} and the area {short(area)}",
                             "Write the mask; or null in segmentations, bboxes and areas where it is absent")
        self.bend(key, f"an empty {JSON_KINDS[type(segmentation)]} where an instance is absent", "Write null")

    def note_boxes_alone(self, boxes: Any, rles: Sequence[Any], place: str) -> None:
        """Notes boxes in frames without a mask, if there is a box or null for each frame."""
        if isinstance(boxes, list) and len(boxes) == len(rles):
            for frame, rle in enumerate(rles):
                if rle is None and has_extent(boxes[frame], None):
                    self.bend(f"{place}.bboxes[{frame}]", "a box where there is no mask, taken as absent",
                              "Write the mask, or null for the box")

    def check_numbers(self, value: Any, key: str) -> None:
        """Refuses infinite, undefined and overlong numbers in a nested list."""
        if isinstance(value, list):
            for i, item in enumerate(value):
                self.check_numbers(item, f"{key}[{i}]")
        elif isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, f"{value} is not a finite number", "Correct the number")
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise self.error(key, "a number of more than 64 bits", "Correct the number")


def short(value: Any) -> str:
    """The text of a value for a message, cut off where it is long."""
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
