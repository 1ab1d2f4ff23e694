"""The JSON file of a split in the YouTube-VIS format, checked key by key."""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from effvis.data import masks
from effvis.data.dataset import Category, Track, Video, make_track
from effvis.errors import UserError

IMAGES = "JPEGImages"
ANNOTATIONS = "instances.json"


def annotation_file(folder: Path) -> Path | None:
    """The JSON file of a split: instances.json, or the only *.json of the folder, or <folder>.json beside it
    (the three layouts in which YouTube-VIS was released); None if there is none, or no single one."""
    if (folder / ANNOTATIONS).is_file():
        return folder / ANNOTATIONS
    inside = sorted(folder.glob("*.json"))
    beside = folder.parent / f"{folder.name}.json"
    candidates = inside or ([beside] if beside.is_file() else [])
    return candidates[0] if len(candidates) == 1 else None


def parse_annotations(
    folder: Path, *, default_fps: float, require_annotations: bool,
) -> tuple[Path, Path, tuple[Category, ...], tuple[Video, ...], tuple[Track, ...]]:
    """Reads the annotations of a split; the frame files are not looked at.

    Returns:
        The JSON file, the folder of the frames, categories, videos, tracks.

    Raises:
        UserError: at the first thing that is wrong.
    """
    if not folder.is_dir():
        raise UserError(folder, "(folder)", "no such folder", "A data set holds the folders train and val")
    file, images = annotation_file(folder), folder / IMAGES
    if file is None:
        raise UserError(folder, "(folder)", f"no {ANNOTATIONS}, and no single other JSON file",
                        f"Put the annotations of this split into {folder / ANNOTATIONS}")
    if not images.is_dir():
        raise UserError(folder, IMAGES, "no such folder", "The frames of a split lie in JPEGImages/<video>/<frame>.jpg")
    reader = _Reader(file)
    content = reader.content
    if require_annotations and "annotations" not in content:
        raise UserError(file, "annotations", "missing key", "This split needs annotated instances")
    categories = reader.categories(reader.entries(content, "categories"))
    videos = reader.videos(reader.entries(content, "videos"), default_fps)
    annotations = reader.entries(content, "annotations") if "annotations" in content else []
    if require_annotations and not annotations:
        raise UserError(file, "annotations", "empty data set: no instance", "Add annotated instances to this split")
    return file, images, categories, videos, reader.tracks(annotations, categories, videos)


class _Reader:
    """Reads typed values out of the parsed JSON and knows how to name their place in the file."""

    def __init__(self, file: Path):
        self.file = file
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # ValueError: malformed JSON or UTF-8.
            raise self.error("(top)", f"unreadable JSON ({error})", "Write the file anew; it may be cut off") from None
        if not isinstance(content, dict):
            raise self.error("(top)", "not a JSON object", "A split has videos, categories and annotations")
        self.content = content

    def error(self, key: str, problem: str, remedy: str) -> UserError:
        return UserError(self.file, key, problem, remedy)

    def get(self, entry: dict, key: str, kind: type | tuple[type, ...], place: str, default: Any = None) -> Any:
        """``entry[key]``, which must be of the given JSON type; ``default``, unless None, makes it optional."""
        where = f"{place}.{key}" if place else key
        if key not in entry:
            if default is not None:
                return default
            raise self.error(where, "missing key", "Add it as the YouTube-VIS format says")
        value = entry[key]
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(where, f"{value} is not a finite number", "Correct the number")
        # bool is an int in Python, but true is no number in JSON.
        if not isinstance(value, kind) or isinstance(value, bool):
            name = kind.__name__ if isinstance(kind, type) else "number"
            raise self.error(where, f"{_short(value)} is not of type {name}", "Correct the value")
        return value

    def entries(self, content: dict, key: str) -> list[dict]:
        """A list of JSON objects."""
        entries = self.get(content, key, list, "")
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise self.error(f"{key}[{i}]", "not a JSON object", "Write it as the YouTube-VIS format says")
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

    def categories(self, entries: list[dict]) -> tuple[Category, ...]:
        if not entries:
            raise self.error("categories", "empty data set: no category", "List the categories with id and name")
        categories, ids, names = [], {}, {}
        for i, entry in enumerate(entries):
            place = f"categories[{i}]"
            category = Category(self.new_id(entry, place, ids), self.get(entry, "name", str, place))
            if category.name in names:
                raise self.error(f"{place}.name", f"{category.name!r} is already the name of {names[category.name]}",
                                 "Give each category its own name")
            names[category.name] = place
            categories.append(category)
        return tuple(categories)

    def videos(self, entries: list[dict], default_fps: float) -> tuple[Video, ...]:
        if not entries:
            raise self.error("videos", "empty data set: no video", "List the videos of this split")
        videos, ids = [], {}
        for i, entry in enumerate(entries):
            place = f"videos[{i}]"
            number = self.new_id(entry, place, ids)
            height, width = self.size(entry, "height", place), self.size(entry, "width", place)
            names = self.get(entry, "file_names", list, place)
            if not names:
                raise self.error(f"{place}.file_names", "a video without frames", "List its frames, or remove the video")
            for f, name in enumerate(names):
                self.check_file_name(name, f"{place}.file_names[{f}]")
            length = self.get(entry, "length", int, place, len(names))
            if length != len(names):
                raise self.error(f"{place}.length", f"{length}, but file_names has {len(names)}", "Make the two agree")
            fps = float(self.get(entry, "fps", (int, float), place, default_fps))
            if not fps > 0:
                raise self.error(f"{place}.fps", f"{fps} is no frame rate", "Give frames per second above 0")
            videos.append(Video(number, height, width, fps, tuple(names)))
        return tuple(videos)

    def check_file_name(self, name: Any, key: str) -> None:
        # A lone surrogate is valid JSON but cannot be written into a path.
        if not isinstance(name, str) or not name or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
            raise self.error(key, f"{_short(name)} is not a file name", "Write <video>/<frame>.jpg")
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in (*posix.parts, *windows.parts):
            raise self.error(key, f"the path {name!r} leaves the data set folder",
                             f"Write a path below {IMAGES}, without '..'")

    def tracks(
        self, entries: list[dict], categories: tuple[Category, ...], videos: tuple[Video, ...],
    ) -> tuple[Track, ...]:
        labels = {category.id: label for label, category in enumerate(categories)}
        video_indices = {video.id: i for i, video in enumerate(videos)}
        tracks, ids = [], {}
        for i, entry in enumerate(entries):
            place = f"annotations[{i}]"
            number = self.new_id(entry, place, ids)
            video_id = self.get(entry, "video_id", int, place)
            if video_id not in video_indices:
                raise self.error(f"{place}.video_id", f"video id {video_id} is not listed in videos",
                                 "List the video, or remove the annotation")
            category_id = self.get(entry, "category_id", int, place)
            if category_id not in labels:
                raise self.error(f"{place}.category_id", f"category id {category_id} is not listed in categories",
                                 "List the category, or correct the id")
            iscrowd = self.get(entry, "iscrowd", int, place)
            if iscrowd not in (0, 1):
                raise self.error(f"{place}.iscrowd", f"{iscrowd} is neither 0 nor 1", "Write 1 for a group, else 0")
            video_index = video_indices[video_id]
            tracks.append(make_track(
                track_id=number, video_index=video_index, label=labels[category_id], iscrowd=bool(iscrowd),
                rles=self.segmentations(entry, place, videos[video_index])))
        return tuple(tracks)

    def segmentations(self, entry: dict, place: str, video: Video) -> list[masks.RLE | None]:
        given = self.get(entry, "segmentations", list, place)
        if len(given) != video.length:
            problem = f"{len(given)} segmentations, but video {video.id} has {video.length} frames"
            raise self.error(f"{place}.segmentations", problem, "Give one per frame, null where it is absent")
        for key in ("bboxes", "areas"):  # Recomputed from the masks, but a wrong one betrays a damaged file.
            self.check_numbers(entry.get(key), f"{place}.{key}")
        rles: list[masks.RLE | None] = []
        for frame, segmentation in enumerate(given):
            if segmentation is None:
                rles.append(None)
                continue
            try:
                rles.append(masks.to_compressed(segmentation, video.height, video.width))
            except ValueError as error:
                raise self.error(f"{place}.segmentations[{frame}]", str(error),
                                 "Write the mask of the whole frame at the video's size") from None
        return rles

    def check_numbers(self, value: Any, key: str) -> None:
        """No infinite or undefined number in a nested list."""
        if isinstance(value, list):
            for i, item in enumerate(value):
                self.check_numbers(item, f"{key}[{i}]")
        elif isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, f"{value} is not a finite number", "Correct the number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
