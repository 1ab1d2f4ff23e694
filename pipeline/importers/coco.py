"""Reads COCO annotations with track ids, and writes them as a data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.frame_files import natural
from effvis.errors import UserError
from pipeline.importers.coco_file import CocoFile
from pipeline.importers.writing import held_out, write_data_set
from pipeline.system.files import check_out

if TYPE_CHECKING:
    from pipeline.importers.writing import OnFramesDone


def import_coco(
    images: Path, annotations: Path, out: Path, *, fps: float, val: tuple[str, ...] = (), progress: OnFramesDone | None = None,
    warn: Callable[[UserError], None] | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, whole or not at all.

    Args:
        val: patterns of the videos to validate on.
        progress: called with (frames written, frames in all).
        warn: called once for each way in which the file bends the format and was still understood.

    Returns:
        The number of videos written, per split.

    Raises:
        UserError: something is wrong with the file or a frame (the error names the first problem), or ``out`` exists.
    """
    check_out(out)
    if not images.is_dir():
        raise UserError(images, "IMAGES", "no such folder", "Give the folder that the file names are relative to")
    file = CocoFile(annotations)
    categories, videos = file.read(images)
    names = sorted((video.name for video in videos), key=natural)
    validating = held_out(names, val, "video")
    splits = {"train": [v for v in videos if v.name not in validating], "val": [v for v in videos if v.name in validating]}
    if not splits["train"]:
        raise UserError(annotations, "images", "no video to train on", "Leave one out of --val")
    written = write_data_set(out, splits, categories, source="COCO", fps=fps, progress=progress)
    for bend in file.problems.bent if warn else ():
        warn(bend)
    return written
