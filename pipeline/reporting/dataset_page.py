"""A self-contained HTML page about a data set: what it consists of, and where correspondence is learned on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effvis.errors import UserError
from effvis.files import replacing_file
from pipeline.indexing.read import load_index, read_facts
from pipeline.reporting.charts import video_lengths
from pipeline.reporting.pictures import data_uri
from pipeline.reporting.templates import render

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex, Video
    from pipeline.settings.params import Params


def statistics(index: DatasetIndex) -> dict[str, Any]:
    """Statistics of a split, as JSON values: videos, frames, their lengths and sizes, and instances in all and by category.

    An instance's length is the number of frames in which it is present. Groups (iscrowd) are counted separately, because
    nothing is trained on them.
    """
    tracks = [track for track in index.tracks if not track.iscrowd]
    lengths = [video.length for video in index.videos]
    per_video = Counter(track.video_index for track in tracks)
    by_category = [{"name": category.name, "instances": 0, "present": 0, "videos": set()} for category in index.categories]
    for track in tracks:
        entry = by_category[track.label]
        entry["instances"] += 1
        entry["present"] += int(track.present_L.sum())
        entry["videos"].add(track.video_index)
    longest = max(index.videos, key=lambda video: video.length)
    return {
        "videos": len(lengths), "frames": sum(lengths), "instances": len(tracks),
        "groups": len(index.tracks) - len(tracks), "shortest": min(lengths), "median": float(np.median(lengths)),
        "longest": longest.length, "longest_name": name_of(longest), "lengths": dict(sorted(Counter(lengths).items())),
        "sizes": Counter(f"{video.width}x{video.height}" for video in index.videos).most_common(),
        "most_instances": max(per_video.values(), default=0),
        "empty_videos": len(lengths) - len(per_video),
        "categories": [entry | {"videos": len(entry["videos"])} for entry in by_category],
    }


def name_of(video: Video) -> str:
    """The folder of a video's frames, or its id if they do not lie in a folder."""
    parent = Path(video.file_names[0]).parent.as_posix()
    return f"video {video.id}" if parent == "." else parent


def correspondence(params: Params, longest: int) -> list[dict[str, Any]]:
    """Whether ``auto`` learns correspondence (Sec. 3.3), for each clip length in the index and that of the headline run.

    Args:
        longest: length of the longest training video, in frames.
    """
    headline = params.clip_length(params.headline.T)
    return [{"clip_length": length, "learned": longest > length, "headline": length == headline}
            for length in sorted({*params.index.clip_lengths, headline})]


def page(params: Params, splits: Mapping[str, DatasetIndex]) -> str:
    """The page's HTML; it is the same for the same data set and parameters."""
    found = {split: statistics(index) for split, index in splits.items()}
    return render(
        "statistics.html", params=params, splits=found, digests={split: index.digest for split, index in splits.items()},
        rows=list(zip(*(entry["categories"] for entry in found.values()), strict=True)),
        clips=correspondence(params, found["train"]["longest"]),
        lengths=data_uri("image/svg+xml", video_lengths({split: entry["lengths"] for split, entry in found.items()})))


def write_page(params: Params, file: Path) -> None:
    """Writes the page about the indexed data set, whole or not at all.

    Raises:
        UserError: the data set is not indexed, or the file cannot be written.
    """
    html = page(params, {split: load_index(params, split) for split in read_facts(params)["splits"]})
    try:
        with replacing_file(file) as new:
            new.write_text(html, encoding="utf-8")
    except OSError as error:
        raise UserError(file, "--statistics", f"cannot be written ({error.strerror})", "Give another file") from None
