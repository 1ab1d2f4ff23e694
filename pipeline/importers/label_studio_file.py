"""Reads Label Studio's JSON export of images with brush masks and polygons.

A list of tasks, each with the address of its image in ``data`` and, in ``annotations[].result[]``, its regions with
``original_width``, ``original_height``, ``image_rotation`` and ``value`` (https://labelstud.io/guide/export.html and
https://labelstud.io/tags/brushlabels). It tells regions of one image apart, but not which region of the next image is the same
object. So a label stands for one object of its video.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from effvis.data import masks
from effvis.data.frame_files import FRAME_SUFFIXES, natural
from effvis.data.json_reader import JsonReader, short
from effvis.data.problems import Problems
from effvis.errors import UserError
from pipeline.importers import label_studio_rle
from pipeline.importers.writing import ImportedTrack, ImportedVideo

if TYPE_CHECKING:
    from effvis.data.masks import RLE

LABELS = ("brushlabels", "polygonlabels", "labels")
# Uploaded files are stored with such a prefix.
UPLOADED = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class LabelledFrame:
    """A task: an image and its masks by label; ``size`` is (width, height), None without a region."""

    place: str
    file_name: str
    size: tuple[int, int] | None
    rles: dict[str, RLE]


class LabelStudioFile(JsonReader):
    """Reads the file; it does not look into the frames."""

    def __init__(self, file: Path):
        if not file.is_file():
            raise UserError(file, "EXPORT", "no such file", "Give the JSON file that Label Studio exported")
        super().__init__(file, Problems(), format="Label Studio", list_as="tasks")

    def read(self, folder: Path) -> dict[str, ImportedVideo]:
        """The videos by name, with the labels as categories; ``folder`` holds the images."""
        by_video: dict[str, dict[str, LabelledFrame]] = defaultdict(dict)
        for i, task in self.entries(self.content, "tasks"):
            frame = self.frame(task, f"tasks[{i}]", folder)
            if frame is None:
                continue
            video = PurePosixPath(frame.file_name).parent.as_posix()
            frames = by_video[self.file.stem if video == "." else video]
            if frame.file_name in frames:
                raise self.error(frame.place, f"the image of {frames[frame.file_name].place}", "Export each image once")
            frames[frame.file_name] = frame
        if not by_video:
            raise self.error("tasks", "no annotated task", "Annotate images, and export them as JSON (not JSON_MIN)")
        return {name: self.video(name, folder, sorted(frames.values(), key=lambda frame: natural(frame.file_name)))
                for name, frames in by_video.items()}

    def video(self, name: str, folder: Path, frames: list[LabelledFrame]) -> ImportedVideo:
        seen = [frame for frame in frames if frame.size]
        if not seen:
            raise self.error(frames[0].place, f"video {name} has no region in any frame", "Annotate it, or leave its tasks out")
        for frame in seen:
            if frame.size != seen[0].size:
                raise self.error(frame.place, f"{frame.size[0]}x{frame.size[1]}, but {seen[0].place} of the same video is "
                                 f"{seen[0].size[0]}x{seen[0].size[1]}", "Make all frames of a video equal in size")
        files = [(folder / frame.file_name, f"{i:05d}{Path(frame.file_name).suffix}") for i, frame in enumerate(frames)]
        labels = sorted({label for frame in frames for label in frame.rles}, key=natural)
        return ImportedVideo(name, files, seen[0].size, [
            ImportedTrack(label, [frame.rles.get(label) for frame in frames]) for label in labels])

    def frame(self, task: dict, place: str, folder: Path) -> LabelledFrame | None:
        """A task's frame; None if nobody has annotated it."""
        key, results = self.results(task, place)
        if results is None:
            self.bend(place, "a task that is not annotated, left out",
                      "Annotate it; an annotation without regions says that nothing is seen")
            return None
        size, rles = None, {}
        for i, result in enumerate(results):
            where = f"{key}.result[{i}]"
            if not isinstance(result, dict) or not isinstance(result.get("value"), dict):
                raise self.error(where, "not a result with a value", "Export the project as JSON")
            value = result["value"]
            kind = next((kind for kind in LABELS if kind in value), None)
            if kind is None or not ("rle" in value or "points" in value):
                self.bend(where, f"a result of type {short(result.get('type'))}, left out", "Brush masks and polygons are read")
                continue
            if result.get("image_rotation"):
                raise self.error(f"{where}.image_rotation", f"{short(result['image_rotation'])}: the image was turned in the "
                                 "tool", "Turn the file, and annotate it again")
            size = self.size(result, "original_width", where), self.size(result, "original_height", where)
            label = self.label(value, kind, f"{where}.value")
            if label in rles:
                raise self.error(where, f"{label!r} is drawn twice in one image, and may be one object or two",
                                 "Draw an object as one region, and give each object its own label (dog 1, dog 2)")
            rles[label] = self.region(value, f"{where}.value", *size)
        return LabelledFrame(place, self.image(task, place, folder), size, rles)

    def results(self, task: dict, place: str) -> tuple[str, list | None]:
        """The results of the one annotation that counts, and its place."""
        key = "completions" if "completions" in task else "annotations"
        given = self.get(task, key, list, place)
        kept = [(f"{place}.{key}[{i}]", entry) for i, entry in enumerate(given)
                if isinstance(entry, dict) and not entry.get("was_cancelled")]
        kept = [one for one in kept if one[1].get("ground_truth") is True] or kept
        if len(kept) > 1:
            raise self.error(f"{place}.{key}", f"{len(kept)} annotations of one image",
                             "Mark one as ground truth, or export one")
        return (kept[0][0], self.get(kept[0][1], "result", list, kept[0][0])) if kept else (place, None)

    def label(self, value: dict, kind: str, place: str) -> str:
        labels = self.get(value, kind, list, place)
        if len(labels) != 1 or not isinstance(labels[0], str) or not labels[0].strip():
            raise self.error(f"{place}.{kind}", f"{short(labels)} is not one label", "Give each region one label")
        return labels[0]

    def region(self, value: dict, place: str, width: int, height: int) -> RLE:
        if "rle" in value:
            try:
                return masks.encode(label_studio_rle.decode(self.get(value, "rle", list, place), height, width))
            except ValueError as error:
                raise self.error(f"{place}.rle", f"no brush mask: {error}", "Export the project anew, as JSON") from None
        # Points are percents of the image's sides.
        points = self.get(value, "points", list, place)
        if not all(isinstance(point, list) and len(point) == 2 and all(type(side) in (int, float) for side in point)
                   for point in points):
            raise self.error(f"{place}.points", "not a list of points [x, y]", "Export the project anew, as JSON")
        self.check_numbers(points, f"{place}.points")
        polygon = [float(side) * length / 100 for point in points for side, length in zip(point, (width, height), strict=True)]
        return self.mask([polygon], f"{place}.points", height, width)

    def image(self, task: dict, place: str, folder: Path) -> str:
        """The image's name relative to ``folder``: the longest end of its address that is a file there."""
        data = self.get(task, "data", dict, place)
        found = {key: text for key, text in data.items() if isinstance(text, str) and _path(text).endswith(FRAME_SUFFIXES)}
        if len(found) != 1 and "image" not in found:
            raise self.error(f"{place}.data", f"{len(found)} images", "Export tasks with one image each")
        key, address = ("image", found["image"]) if "image" in found else next(iter(found.items()))
        parts = [part for part in PurePosixPath(_original(address)).parts if part != "/"]
        self.check_file_name("/".join(parts), f"{place}.data.{key}")
        ends = [parts[i:] for i in range(len(parts))]
        for end in [*ends, *([*end[:-1], UPLOADED.sub("", end[-1])] for end in ends)]:
            if os.path.isfile(folder.joinpath(*end)):
                return "/".join(end)
        raise self.error(f"{place}.data.{key}", f"no file in {folder} has the end of {short(address)} as its name",
                         "Give the folder with the images that were annotated")


def _original(address: str) -> str:
    """The path in an address: a local file, an upload, or any URL."""
    split = urlsplit(address)
    local = parse_qs(split.query).get("d")  # /data/local-files/?d=PATH
    return (local[0] if local else unquote(split.path)).replace("\\", "/")


def _path(address: str) -> str:
    try:
        return _original(address).lower()
    except ValueError:  # no address
        return ""
