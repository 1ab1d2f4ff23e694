"""Reads masks that were drawn in Label Studio, and writes them as a data set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.frame_files import natural
from effvis.errors import UserError
from pipeline.importers.categories import best_rule, read_categories
from pipeline.importers.label_studio_file import LabelStudioFile
from pipeline.importers.writing import ImportedVideo, divided, write_data_set
from pipeline.system.files import check_out

if TYPE_CHECKING:
    from pipeline.importers.writing import OnFramesDone


def import_label_studio(
    images: Path, export: Path, out: Path, *, categories_file: Path | None = None, fps: float, val: tuple[str, ...] = (),
    progress: OnFramesDone | None = None, warn: Callable[[UserError], None] | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, whole or not at all.

    Args:
        categories_file: a YAML mapping from labels, or patterns of labels, to categories; None takes the labels.
        val: patterns of the videos to validate on.
        progress: called with (frames written, frames in all).
        warn: called once for each kind of thing that was left out.

    Returns:
        The number of videos written, per split.

    Raises:
        UserError: something is wrong with the export or a frame (the error names the first problem), or ``out`` exists.
    """
    check_out(out)
    if not images.is_dir():
        raise UserError(images, "IMAGES", "no such folder", "Give the folder with the images that were annotated")
    file = LabelStudioFile(export)
    videos = file.read(images)
    if categories_file is not None:
        videos = {name: _in_categories(video, categories_file) for name, video in videos.items()}
    categories = sorted({track.category for video in videos.values() for track in video.tracks})
    splits = divided([videos[name] for name in sorted(videos, key=natural)], val, "video")
    if not splits["train"] or not categories:
        raise UserError(export, "tasks", "no video to train on", "Give a label a category, and leave a video out of --val")
    written = write_data_set(out, splits, categories, source="Label Studio", fps=fps, progress=progress)
    for bend in file.problems.bent if warn else ():
        warn(bend)
    return written


def _in_categories(video: ImportedVideo, file: Path) -> ImportedVideo:
    """The video with the categories of its labels; labels with null are left out."""
    rules, tracks = read_categories(file), []
    for track in video.tracks:
        rule = best_rule(rules, track.category)
        if rule is None or isinstance(rules[rule], dict):
            raise UserError(file, track.category, "no category for this label", "Add it, or null to leave it out")
        if rules[rule] is not None:
            tracks.append(replace(track, category=rules[rule]))
    return replace(video, tracks=tracks)
