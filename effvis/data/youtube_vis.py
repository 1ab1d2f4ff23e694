"""The YouTube-VIS format: what a split holds, reading it with every check, and writing it.

A split is a folder with ``JPEGImages/<video>/<frame>.jpg`` and one JSON file: ``videos`` (id, height, width,
file_names; ours also fps), ``categories`` (id, name) and ``annotations`` (one per instance: id, video_id, category_id,
iscrowd, and ``segmentations``, an RLE or null for every frame).

``read_split`` trusts nothing. It raises the first thing that is wrong as a ``UserError`` that names the file, the place
in it and the remedy; ``check_split`` goes on, and returns everything that is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from effvis.data.dataset import Category, DatasetIndex, Track, Video, make_track
from effvis.data.frames import CheckedFrame, check_frames
from effvis.data.masks import RLE
from effvis.data.parsing import parse_annotations
from effvis.data.problems import Problems
from effvis.errors import UserError

DEFAULT_FPS = 6.0  # the rate of YouTube-VIS's annotations


def read_split(
    folder: Path, *, default_fps: float = DEFAULT_FPS, require_annotations: bool = True,
    known: Mapping[str, CheckedFrame] | None = None, remember: Callable[[str, CheckedFrame], None] | None = None,
    progress: Callable[[int, int], None] | None = None, warn: Callable[[UserError], None] | None = None,
) -> DatasetIndex:
    """Reads and checks a split: every annotation and every frame file.

    Args:
        default_fps: frame rate of videos that state none.
        require_annotations: False allows a split without instances, such as the official validation split.
        known: frames that were checked before, by file name; those that have not changed since are not read again.
        remember: called with each frame's file name and what was found.
        progress: called with (frame files checked, frame files in all).
        warn: called once for each way in which the file bends the format and was still understood.

    Raises:
        UserError: names the file, the key in it, e.g. ``annotations[3].segmentations[0]``, and the remedy.
    """
    folder, problems = Path(folder), Problems()
    file, images, categories, videos, tracks = parse_annotations(
        folder, default_fps=default_fps, require_annotations=require_annotations, problems=problems)
    frames = check_frames(folder, file, images, videos, problems=problems, known=known or {}, progress=progress)
    for bend in problems.bent if warn else ():
        warn(bend)
    if remember is not None:
        for name, frame in zip((name for video in videos for name in video.file_names), frames, strict=True):
            remember(name, frame)
    return DatasetIndex(images, _digest(categories, videos, tracks, [frame.digest for frame in frames]), categories, videos,
                        tracks)


def check_split(
    folder: Path, *, require_annotations: bool = True, progress: Callable[[int, int], None] | None = None,
) -> tuple[Problems, tuple[Category, ...] | None]:
    """Everything that is wrong with a split, and what ``read_split`` ignores: boxes that do not fit their masks.

    What follows from another mistake is not listed: the masks of a video without a size, or the frames where their
    folder is missing.

    Args:
        require_annotations, progress: as in ``read_split``.

    Returns:
        The problems, and the categories; None where something is wrong with them.
    """
    folder, problems, categories = Path(folder), Problems(collect=True), ()
    with problems:
        file, images, categories, videos, _ = parse_annotations(
            folder, default_fps=DEFAULT_FPS, require_annotations=require_annotations, problems=problems)
        if images.is_dir():
            check_frames(folder, file, images, videos, problems=problems, known={}, progress=progress)
    problems.warnings += problems.bent
    sound = categories and not any(error.key.startswith("categories") for error in problems.errors)
    return problems, categories if sound else None


def _digest(categories: Sequence[Category], videos: Sequence[Video], tracks: Sequence[Track],
            frame_digests: Sequence[bytes]) -> str:
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
