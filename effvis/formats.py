"""The tracklets of a video as other tools read them: MOTS text, and COCO with track ids.

The MOTS format is that of https://www.vision.rwth-aachen.de/page/mots (Voigtlaender et al., MOTS, CVPR 2019): a line
``time_frame id class_id img_height img_width rle`` per object and frame, where id is class_id * 1000 + the number of the
instance, and 10000 is an ignored region. No two masks of a frame overlap: mots_tools, which reads and scores these files,
refuses those that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from effvis.data.masks import area, areas, boxes_xyxy, decode, encode
from effvis.errors import UserError

if TYPE_CHECKING:
    from effvis.data.dataset import Category
    from effvis.data.masks import RLE
    from effvis.predictor import TrackedVideo, Tracklet

MOTS_IGNORED_CLASS = 10
MOTS_IGNORED = 10_000
MOTS_INSTANCES = 1000  # numbers per class


def number_at_end(name: str) -> int | None:
    """The number at the end of a file's name, which MOTS text calls the frame by: 52 for 000052.png."""
    digits = re.search(r"[0-9]+$", PurePath(name).stem)
    return int(digits.group()) if digits else None


def frame_numbers(names: Sequence[str]) -> list[int]:
    """The numbers of a video's frames: those of their files, or from 0 on if one has none, or two have the same."""
    numbers = [number_at_end(name) for name in names]
    return list(range(len(names))) if None in numbers or len(set(numbers)) < len(names) else numbers


def mots_classes(categories: Sequence[Category]) -> dict[int, Category]:
    """A number for each category: its id, but another one where the id is that of ignored regions."""
    free = max(category.id for category in categories) + 1
    return {free if category.id == MOTS_IGNORED_CLASS else category.id: category for category in categories}


def mots_lines(tracked: TrackedVideo, classes: Mapping[int, Category], frames: Sequence[int]) -> Iterator[str]:
    """The lines of a MOTS text file, frame by frame. The tracklet with the higher score wins a pixel.

    Args:
        classes: as ``mots_classes`` gives them.
        frames: the number of each frame.

    Raises:
        UserError: there are more tracklets than the format has numbers for.
    """
    if len(tracked.tracklets) >= MOTS_INSTANCES:
        raise UserError("--format", "mots", f"the format has numbers for {MOTS_INSTANCES - 1} objects, and there are "
                        f"{len(tracked.tracklets)}", "Leave some out with --score or --classes, or write --format coco")
    numbers = {category: number for number, category in classes.items()}
    for position, frame in enumerate(frames):
        present = [tracklet for tracklet in tracked.tracklets if position in tracklet.rles]
        for tracklet, rle in _without_overlaps(present, position):
            number = numbers[tracklet.category]
            yield f"{frame} {number * MOTS_INSTANCES + tracklet.id} {number} {rle['size'][0]} {rle['size'][1]} {rle['counts']}"


def _without_overlaps(tracklets: Sequence[Tracklet], frame: int) -> list[tuple[Tracklet, RLE]]:
    """The tracklets of a frame with what is left of their masks, in their order; those of which nothing is left are omitted."""
    free_HW: np.ndarray | bool = True
    left: dict[int, RLE] = {}
    for tracklet in sorted(tracklets, key=lambda tracklet: (-tracklet.score, tracklet.id)):
        mask_HW = decode(tracklet.rles[frame]) & free_HW
        free_HW = ~mask_HW & free_HW
        if mask_HW.any():
            left[tracklet.id] = encode(mask_HW)
    return [(tracklet, left[tracklet.id]) for tracklet in tracklets if tracklet.id in left]


def coco(
    tracked: TrackedVideo, categories: Sequence[Category], *, name: str, files: Sequence[str], fps: float,
) -> dict[str, Any]:
    """The video in COCO's format (https://cocodataset.org/#format-data) with ``video_id`` and ``track_id``, as TAO has them.

    Args:
        name: the video's name.
        files: the ``file_name`` of each frame, relative to the folder of the video's frames.
    """
    images = [{"id": frame + 1, "video_id": 1, "frame_id": frame, "file_name": file, "height": tracked.height,
               "width": tracked.width} for frame, file in enumerate(files)]
    annotations: list[dict[str, Any]] = []
    for frame, image in enumerate(images):
        present = [one for one in tracked.tracklets if frame in one.rles and area(one.rles[frame])]
        rles = [tracklet.rles[frame] for tracklet in present]
        for tracklet, (x0, y0, x1, y1), pixels in zip(present, boxes_xyxy(rles).tolist(), areas(rles).tolist(), strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image["id"], "video_id": 1, "track_id": tracklet.id,
                "category_id": tracklet.category.id, "segmentation": tracklet.rles[frame],
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(pixels), "iscrowd": 0, "score": tracklet.score})
    return {"videos": [{"id": 1, "name": name, "height": tracked.height, "width": tracked.width, "fps": fps}],
            "images": images, "annotations": annotations,
            "categories": [{"id": category.id, "name": category.name} for category in categories]}
