"""Checking results before they go to a competition's server, which says little or nothing about what it cannot score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effvis.data.dataset import Category, Video
from effvis.errors import UserError
from effvis.evaluation.inputs import Detection, GroundTruth, read_results
from effvis.evaluation.tracks import MalformedMask, build_tracks

MOST_NAMED = 5  # ids in one message


def check_submission(
    results: Path | str | list, videos: Sequence[Video], categories: Sequence[Category], *, where: str,
    allow_missing: bool = False,
) -> int:
    """Checks that the results are complete and fit their videos; returns the number of results.

    Args:
        results: a file or its content: a list of ``{video_id, category_id, score, segmentations}`` with compressed RLE.
        where: name of what lists the videos, for messages.
        allow_missing: accept results that have nothing for some videos.

    Raises:
        UserError: names the file and the key of what is wrong: no result for a video; an id that is not listed; a score that
            is not finite; a list without one entry per frame of its video; a mask that cannot be read, or is not of its
            video's size.
    """
    listed = GroundTruth(where, tuple(sorted(video.id for video in videos)),
                         {category.id: category.name for category in categories}, {}, [])
    found = read_results(results, listed)
    if found.warnings:
        raise UserError(found.where, "category_id", found.warnings[0].removeprefix(f"{found.where}: "),
                        "Write the ids of the data set's categories")
    by_id = {video.id: video for video in videos}
    for (video, _), detections in sorted(found.detections.items()):
        _check_video(detections, by_id[video], found.where)
    _check_presence({video for video, _ in found.detections}, listed.videos, found.where, allow_missing)
    return sum(map(len, found.detections.values()))


def _check_presence(found: set[int], videos: Sequence[int], where: str, allow_missing: bool) -> None:
    missing = [video for video in videos if video not in found]
    if missing and not allow_missing:
        named = ", ".join(map(str, missing[:MOST_NAMED])) + (", …" if len(missing) > MOST_NAMED else "")
        raise UserError(where, "video_id", f"{len(missing)} of {len(videos)} videos have no result: {named}",
                        "Evaluate anew; if nothing is to be found in them, give --allow-missing")


def _check_video(detections: Sequence[Detection], video: Video, where: str) -> None:
    """Checks the results of one video and category."""
    for detection in detections:
        if not math.isfinite(detection.score):
            raise UserError(where, f"{detection.key}.score", f"is {detection.score}", "Write a finite number")
        if len(detection.segmentations) != video.length:
            problem = f"has {len(detection.segmentations)} entries, video {video.id} has {video.length} frames"
            raise UserError(where, f"{detection.key}.segmentations", problem,
                            "Give one entry per frame, null where absent; for a lowered frame rate set "
                            "inference.scored_frames to all")
        for frame, mask in enumerate(detection.segmentations):
            if mask and tuple(mask["size"]) != (video.height, video.width):
                raise UserError(where, f"{detection.key}.segmentations[{frame}].size",
                                f"is {list(mask['size'])}, video {video.id} is {[video.height, video.width]}",
                                "Give the mask in the video's own size, [height, width]")
        _check_pixels(detection, video, where)


def _check_pixels(detection: Detection, video: Video, where: str) -> None:
    remedy = "Encode the mask anew, e.g. with pycocotools.mask.encode"
    try:
        totals_F = build_tracks([detection.segmentations], {}, video.length).totals_NF[0]
    except MalformedMask as error:
        raise UserError(where, f"{detection.key}.segmentations[{error.frame}]", error.problem, remedy) from None
    for frame in np.flatnonzero((totals_F >= 0) & (totals_F != video.height * video.width)):
        raise UserError(where, f"{detection.key}.segmentations[{frame}]",
                        f"covers {totals_F[frame]} pixels, its size says {video.height}x{video.width}", remedy)
