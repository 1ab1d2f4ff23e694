"""The YouTube-VIS format: what a split holds, reading it with every check, and writing it.

A split is a folder with ``JPEGImages/<video>/<frame>.jpg`` and one JSON file: ``videos`` (id, height, width,
file_names; ours also fps), ``categories`` (id, name) and ``annotations`` (one per instance: id, video_id, category_id,
iscrowd, and ``segmentations``, an RLE or null for every frame).

``read_split`` believes nothing. The first thing that is wrong is raised as a ``UserError`` that names the file, the
place in it and the remedy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from effvis.data import masks
from effvis.data.masks import RLE

IMAGES = "JPEGImages"
ANNOTATIONS = "instances.json"


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True)
class Video:
    """``file_names`` are relative to the split's JPEGImages folder, in order of time."""

    id: int
    height: int
    width: int
    fps: float
    file_names: tuple[str, ...]

    @property
    def length(self) -> int:
        return len(self.file_names)


@dataclass(frozen=True, eq=False)
class Track:
    """One instance through its video of L frames. It is absent where it has no visible pixel.

    Attributes:
        video_index: position in ``DatasetIndex.videos``.
        label: position in ``DatasetIndex.categories``.
        boxes_L4: float32 x0, y0, x1, y1 in pixels, from the masks; NaN where absent.
        areas_L: float32 pixels, from the masks; 0 where absent.
        rles: compressed; None where absent.
    """

    id: int
    video_index: int
    label: int
    iscrowd: bool
    boxes_L4: np.ndarray
    areas_L: np.ndarray
    rles: tuple[RLE | None, ...]

    @cached_property
    def present_L(self) -> np.ndarray:
        return np.array([rle is not None for rle in self.rles], bool)


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """A split that was read and found right.

    Attributes:
        images: the folder of the frames; frame f of a video is ``images / video.file_names[f]``.
        digest: SHA-256 over the annotations and over the bytes of every frame.
    """

    images: Path
    digest: str
    categories: tuple[Category, ...]
    videos: tuple[Video, ...]
    tracks: tuple[Track, ...]

    @property
    def longest_video(self) -> int:
        """Frames of the longest video."""
        return max(video.length for video in self.videos)

    def tracks_of(self, video_index: int) -> tuple[Track, ...]:
        return self._tracks_by_video[video_index]

    @cached_property
    def _tracks_by_video(self) -> tuple[tuple[Track, ...], ...]:
        by_video: list[list[Track]] = [[] for _ in self.videos]
        for track in self.tracks:
            by_video[track.video_index].append(track)
        return tuple(tuple(tracks) for tracks in by_video)


def make_track(*, track_id: int, video_index: int, label: int, iscrowd: bool, rles: Sequence[RLE | None]) -> Track:
    """A track whose boxes and areas come from its masks; a mask without a pixel counts as absent."""
    areas_L = np.zeros(len(rles), np.float32)
    boxes_L4 = np.full((len(rles), 4), np.nan, np.float32)
    given = [frame for frame, rle in enumerate(rles) if rle is not None]
    areas_L[given] = masks.areas([rles[frame] for frame in given])
    seen = np.flatnonzero(areas_L)
    boxes_L4[seen] = masks.boxes_xyxy([rles[frame] for frame in seen])
    visible = tuple(rle if area > 0 else None for rle, area in zip(rles, areas_L, strict=True))
    return Track(track_id, video_index, label, iscrowd, boxes_L4, areas_L, visible)


def annotation_file(folder: Path) -> Path | None:
    """The JSON file of a split: instances.json, or the only *.json of the folder, or <folder>.json beside it
    (the three layouts in which YouTube-VIS was released); None if there is none, or no single one."""
    if (folder / ANNOTATIONS).is_file():
        return folder / ANNOTATIONS
    inside = sorted(folder.glob("*.json"))
    beside = folder.parent / f"{folder.name}.json"
    candidates = inside or ([beside] if beside.is_file() else [])
    return candidates[0] if len(candidates) == 1 else None


def read_split(
    folder: Path, *, default_fps: float = 6.0, require_annotations: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> DatasetIndex:
    """Reads and checks a split: every annotation and every frame file.

    Args:
        default_fps: frame rate of videos that state none (YouTube-VIS is annotated at 6 frames per second).
        require_annotations: False allows a split without instances, as the official validation split.
        progress: called with (frame files checked, frame files in all).

    Raises:
        UserError: names the file, the key in it, e.g. ``annotations[3].segmentations[0]``, and the remedy.
    """
    from effvis.data.frames import check_frames
    from effvis.data.parsing import parse_annotations

    folder = Path(folder)
    file, images, categories, videos, tracks = parse_annotations(
        folder, default_fps=default_fps, require_annotations=require_annotations)
    frame_digests = check_frames(folder, file, images, videos, progress)
    return DatasetIndex(images, _digest(categories, videos, tracks, frame_digests), categories, videos, tracks)


def _digest(categories, videos, tracks, frame_digests: Sequence[bytes]) -> str:
    canonical = {
        "categories": [[category.id, category.name] for category in categories],
        "videos": [[v.id, v.height, v.width, v.fps, v.file_names] for v in videos],
        "tracks": [[t.id, t.video_index, t.label, t.iscrowd, [rle and rle["counts"] for rle in t.rles]]
                   for t in tracks],
    }
    digest = hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode())
    for frame_digest in frame_digests:
        digest.update(frame_digest)
    return digest.hexdigest()


def annotation_entry(
    *, track_id: int, video_id: int, category_id: int, rles: Sequence[RLE | None], height: int, width: int,
    iscrowd: int = 0,
) -> dict:
    """One entry of ``annotations``, with boxes x, y, width, height and areas (pixels) from the masks, null if absent."""
    track = make_track(track_id=track_id, video_index=0, label=0, iscrowd=bool(iscrowd), rles=rles)
    corners_L4 = track.boxes_L4.tolist()
    return {
        "id": track_id, "video_id": video_id, "category_id": category_id, "iscrowd": iscrowd,
        "height": height, "width": width, "length": len(rles),
        "segmentations": list(track.rles),
        "bboxes": [[x0, y0, x1 - x0, y1 - y0] if rle else None
                   for rle, (x0, y0, x1, y1) in zip(track.rles, corners_L4, strict=True)],
        "areas": [int(area) if rle else None for rle, area in zip(track.rles, track.areas_L, strict=True)],
    }


def write_annotations(
    file: Path, *, description: str, videos: Sequence[dict], categories: Sequence[dict], annotations: Sequence[dict],
) -> None:
    """Writes the JSON file of a split."""
    content = {"info": {"description": description, "version": "1.0"}, "licenses": [], "videos": list(videos),
               "categories": list(categories), "annotations": list(annotations)}
    file.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
