"""The content of a split after reading: categories, videos, and the tracks of their instances.

It is separate from the reading, because trained weights depend on these types and not on how a file is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from effvis.data import masks
from effvis.data.masks import RLE


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
        rles: compressed RLEs; None where absent.
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
    """A split that has been read and has passed all checks.

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
        """Number of frames of the longest video."""
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
