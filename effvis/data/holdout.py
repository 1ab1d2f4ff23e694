"""Holding out videos of an annotated split for validation: chosen by category, and always the same ones for a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from effvis.data.dataset import DatasetIndex


def choose(index: DatasetIndex, fraction: float, seed: int) -> frozenset[int]:
    """Ids of the videos to hold out: about this fraction of all videos, and about the same fraction for each category.

    Iterative stratification (Sechidis et al., ECML PKDD 2011): the videos of the rarest category are assigned first, each to
    the part that still needs most of that category. The order of the videos in the file does not matter.

    Args:
        fraction: above 0 and below 1.
    """
    shown = _categories_shown(index)
    waiting = sorted(shown, key=lambda video: _draw(seed, video))
    counts = {category: sum(category in labels for labels in shown.values()) for category in set().union(*shown.values())}
    # For each category, and for all videos (None): how many videos are still to be held out and still to be kept.
    lacking = {category: [fraction * count, (1 - fraction) * count] for category, count in counts.items()}
    lacking[None] = [fraction * len(shown), (1 - fraction) * len(shown)]
    held_out = set()
    while waiting:
        rarest = min(counts, key=lambda category: (counts[category], category)) if counts else None
        for video in [video for video in waiting if rarest is None or rarest in shown[video]]:
            held, kept = lacking[rarest]
            keep = (kept, lacking[None][1]) >= (held, lacking[None][0])
            if not keep:
                held_out.add(video)
            for category in (None, *shown[video]):
                lacking[category][keep] -= 1
            for category in shown[video] & counts.keys():
                counts[category] -= 1
            waiting.remove(video)
        counts.pop(rarest, None)
    return frozenset(held_out)


def divide(index: DatasetIndex, held_out: Collection[int]) -> tuple[DatasetIndex, DatasetIndex]:
    """Divides a split into the videos left to train on and those held out, each in the order of the file.

    Their digests follow from the split's digest and from the ids: a changed frame changes both.

    Args:
        held_out: ids of the videos to hold out.
    """
    return select(index, [v for v, video in enumerate(index.videos) if video.id not in held_out]), \
        select(index, [v for v, video in enumerate(index.videos) if video.id in held_out])


def select(index: DatasetIndex, places: list[int]) -> DatasetIndex:
    """The videos at these places, as a split of their own; its digest follows from the split's digest and their ids."""
    new_place = {old: new for new, old in enumerate(places)}
    videos = tuple(index.videos[v] for v in places)
    digest = hashlib.sha256(f"{index.digest} {[video.id for video in videos]}".encode()).hexdigest()
    tracks = tuple(replace(track, video_index=new_place[track.video_index])
                   for track in index.tracks if track.video_index in new_place)
    return DatasetIndex(index.images, digest, index.categories, videos, tracks)


def videos_by_category(index: DatasetIndex) -> dict[str, int]:
    """How many videos show each category, in the order of the categories."""
    shown = _categories_shown(index).values()
    return {category.name: sum(label in labels for labels in shown) for label, category in enumerate(index.categories)}


def keep_videos(annotations: Mapping[str, Any], ids: Collection[int]) -> dict[str, Any]:
    """The JSON content of a split with only these videos."""
    return {**annotations, "videos": [video for video in annotations["videos"] if video["id"] in ids],
            "annotations": [entry for entry in annotations["annotations"] if entry["video_id"] in ids]}


def _categories_shown(index: DatasetIndex) -> dict[int, set[int]]:
    """The labels that each video shows, by video id."""
    return {video.id: {track.label for track in index.tracks_of(v)} for v, video in enumerate(index.videos)}


def _draw(seed: int, video: int) -> bytes:
    """A sort key for a random order that is the same on every machine and with every version of every library."""
    return hashlib.sha256(f"{seed}:{video}".encode()).digest()
