"""The JSON file of a split in the YouTube-VIS format, checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from effvis.data import masks
from effvis.data.dataset import Category, Track, Video, make_track
from effvis.data.json_reader import JsonReader, short
from effvis.data.problems import Problems
from effvis.data.variants import is_nothing, shows_nothing
from effvis.errors import UserError

IMAGES = "JPEGImages"
ANNOTATIONS = "instances.json"
# Boxes are not used, but one that is further from its mask than rounding explains shows another file or another format.
BOX_TOLERANCE = 2.0
FURTHEST = 1e9  # pixels
MOST_FPS = 1e6


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
    folder: Path, *, default_fps: float, require_annotations: bool, problems: Problems,
) -> tuple[Path, Path, tuple[Category, ...], tuple[Video | None, ...], tuple[Track, ...]]:
    """Reads the annotations of a split; the frame files are not read.

    Returns:
        The JSON file, the folder of the frames, categories, videos, tracks. Where problems are collected, wrong
        categories and tracks are left out, a video that is no JSON object is None, and so is each wrong value of a video.

    Raises:
        UserError: names the first thing that is wrong; where problems are collected, only a missing folder or unreadable
            JSON is raised.
    """
    if not folder.is_dir():
        raise UserError(folder, "(folder)", "no such folder", "A data set holds the folders train and val")
    file, images = annotation_file(folder), folder / IMAGES
    with problems:
        if file is None:
            raise UserError(folder, "(folder)", f"no {ANNOTATIONS}, and no single other JSON file",
                            f"Put the annotations of this split into {folder / ANNOTATIONS}")
    with problems:
        if not images.is_dir():
            raise UserError(folder, IMAGES, "no such folder", "The frames of a split lie in JPEGImages/<video>/<frame>.jpg")
    if file is None:
        return folder / ANNOTATIONS, images, (), (), ()
    reader = _Reader(file, problems, format="YouTube-VIS")
    content = reader.content
    categories = reader.categories(content)
    videos = reader.videos(content, images, default_fps)
    annotations = []
    with problems:
        # Splits without ground truth have no such key, null (OVIS) or an empty list.
        if not is_nothing(content.get("annotations")):
            annotations = reader.entries(content, "annotations")
        elif require_annotations:
            raise UserError(file, "annotations", "empty data set: no instance" if "annotations" in content else "missing key",
                            "Add annotated instances to this split")
    return file, images, tuple(categories), tuple(videos), reader.tracks(annotations, categories, videos)


class _Reader(JsonReader):
    """Reads the parts of a split."""

    def categories(self, content: dict) -> list[Category]:
        categories, ids, names = [], {}, {}
        with self.problems:
            entries = self.entries(content, "categories")
            if not entries:
                raise self.error("categories", "empty data set: no category", "List the categories with id and name")
            for i, entry in entries:
                place = f"categories[{i}]"
                with self.problems:
                    category = Category(self.new_id(entry, place, ids), self.get(entry, "name", str, place))
                    categories.append(category)
                    if category.name in names:
                        raise self.error(f"{place}.name", f"{category.name!r} is already the name of {names[category.name]}",
                                         "Give each category its own name")
                    names[category.name] = place
        return categories

    def videos(self, content: dict, images: Path, default_fps: float) -> list[Video | None]:
        videos, ids = [], {}
        with self.problems:
            entries = self.entries(content, "videos")
            if not entries:
                raise self.error("videos", "empty data set: no video", "List the videos of this split")
            videos = [None] * len(content["videos"])
            for i, entry in entries:
                videos[i] = self.video(entry, f"videos[{i}]", images, ids, default_fps)
        return videos

    def video(self, entry: dict, place: str, images: Path, ids: dict[int, str], default_fps: float) -> Video:
        number = height = width = fps = None
        names: list[str | None] = []
        with self.problems:
            number = self.new_id(entry, place, ids)
        with self.problems:
            height = self.size(entry, "height", place)
        with self.problems:
            width = self.size(entry, "width", place)
        with self.problems:
            given = self.get(entry, "file_names", list, place)
            if not given:
                raise self.error(f"{place}.file_names", "a video without frames", "List its frames, or remove the video")
            names = [self.file_name(images, name, f"{place}.file_names[{f}]") for f, name in enumerate(given)]
            length = self.get(entry, "length", int, place, len(names))
            if length != len(names):
                raise self.error(f"{place}.length", f"{length}, but file_names has {len(names)}", "Make the two agree")
        with self.problems:
            given = self.get(entry, "fps", (int, float), place, default_fps)
            if not 0 < given <= MOST_FPS:
                raise self.error(f"{place}.fps", f"{short(given)} is no frame rate", "Give frames per second above 0")
            fps = float(given)
        return Video(number, height, width, fps, tuple(names))

    def file_name(self, images: Path, name: Any, key: str) -> str | None:
        with self.problems:
            return self.file_below(images, name, key)
        return None

    def tracks(
        self, entries: list[tuple[int, dict]], categories: list[Category], videos: list[Video | None],
    ) -> tuple[Track, ...]:
        labels = {category.id: label for label, category in enumerate(categories)}
        video_indices = {video.id: i for i, video in reversed(list(enumerate(videos))) if video is not None}
        tracks, ids = [], {}
        for i, entry in entries:
            place, mistakes_before = f"annotations[{i}]", len(self.problems.errors)
            number = label = video_index = iscrowd = None
            with self.problems:
                number = self.new_id(entry, place, ids)
            with self.problems:
                video_id = self.get(entry, "video_id", int, place)
                if video_indices and video_id not in video_indices:
                    raise self.error(f"{place}.video_id", f"video id {video_id} is not listed in videos",
                                     "List the video, or remove the annotation")
                video_index = video_indices.get(video_id)
            with self.problems:
                category_id = self.get(entry, "category_id", int, place)
                if labels and category_id not in labels:
                    raise self.error(f"{place}.category_id", f"category id {category_id} is not listed in categories",
                                     "List the category, or correct the id")
                label = labels.get(category_id)
            with self.problems:
                iscrowd = self.crowd(entry, place)
            rles = None
            if video_index is not None:
                with self.problems:
                    rles = self.segmentations(entry, place, videos[video_index])
            if rles is None:
                continue
            track = make_track(track_id=number, video_index=video_index, label=label, iscrowd=bool(iscrowd), rles=rles)
            self.note_boxes_alone(entry.get("bboxes"), track.rles, place)
            if self.problems.collect and len(self.problems.errors) == mistakes_before:
                self.compare_boxes(entry.get("bboxes"), track, place)
            tracks.append(track)
        return tuple(tracks)

    def segmentations(self, entry: dict, place: str, video: Video) -> list[masks.RLE | None] | None:
        """One mask per frame of the video; None where its size or number of frames is not known."""
        given = self.get(entry, "segmentations", list, place)
        for key in ("bboxes", "areas"):  # Recomputed from the masks, but a wrong one is a sign of a damaged file.
            with self.problems:
                self.check_numbers(entry.get(key), f"{place}.{key}")
        if video.height is None or video.width is None:
            return None
        rles: list[masks.RLE | None] = [None] * len(given)
        for frame, segmentation in enumerate(given):
            if segmentation is not None:
                key = f"{place}.segmentations[{frame}]"
                with self.problems:
                    if shows_nothing(segmentation):
                        self.check_unseen(entry, frame, key, segmentation)
                    else:
                        rles[frame] = self.mask(segmentation, key, video.height, video.width)
        if not video.file_names:
            return None
        if len(given) != video.length:
            problem = f"{len(given)} segmentations, but video {video.id} has {video.length} frames"
            raise self.error(f"{place}.segmentations", problem, "Give one per frame, null where it is absent")
        return rles

    def compare_boxes(self, boxes: Any, track: Track, place: str) -> None:
        """Warns of boxes (x, y, width, height) that do not fit their masks."""
        if is_nothing(boxes):
            return
        if not isinstance(boxes, list) or len(boxes) != len(track.rles):
            self.problems.warnings.append(self.error(
                f"{place}.bboxes", f"not a list of {len(track.rles)} boxes, one per frame", "Give as many as segmentations"))
            return
        for frame, (box, corners) in enumerate(zip(boxes, track.boxes_L4.tolist(), strict=True)):
            seen, problem = track.rles[frame] is not None, None
            if not is_nothing(box):
                problem = _box_problem(box, corners if seen else None)
            elif seen:
                self.bend(f"{place}.bboxes[{frame}]", "no box where there is a mask", "Leave bboxes out, or write all")
            if problem:
                self.problems.warnings.append(self.error(
                    f"{place}.bboxes[{frame}]", problem, "Write x, y, width, height of the mask, or leave bboxes out"))


def _box_problem(box: Any, corners: list[float] | None) -> str | None:
    """What is wrong with a box (x, y, width, height), given the corners of its mask (x0, y0, x1, y1; None if absent)."""
    if not isinstance(box, list) or len(box) != 4 or not all(
            type(side) in (int, float) and abs(side) < FURTHEST for side in box):
        return f"{short(box)} is not a box"
    if corners is None:
        return None
    x, y, width, height = box
    given = (x, y, x + width, y + height)
    if all(abs(a - b) <= BOX_TOLERANCE for a, b in zip(given, corners, strict=True)):
        return None
    x0, y0, x1, y1 = corners
    return f"the box {box} lies beside its mask, whose box is {[x0, y0, x1 - x0, y1 - y0]}"
