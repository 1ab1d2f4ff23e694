"""A split whose videos differ in ratio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from effvis.data.dataset import DatasetIndex
from effvis.data.sizes import KeptRatio
from effvis.data.synthetic.shapes import ShapesConfig, write
from effvis.data.youtube_vis import read_split

# (height, width) of the videos, two of each, and of their frames under RULE, where the cut of 4:3 is less wide.
SIZES = ((64, 96), (96, 64), (64, 72))
RULE = KeptRatio(shorter=32, longer=48)
KEPT = ((32, 48), (48, 32), (32, 36))


def mixed_index(folder: Path) -> DatasetIndex:
    """Six drawn videos of seven frames: two lie, two are upright, two are nearly square."""
    parts = []
    for height, width in SIZES:
        place = folder / f"{height}x{width}"
        write(ShapesConfig(train_videos=2, val_videos=1, frames=7, height=height, width=width, min_radius=10, max_radius=16,
                           seed=width), place, workers=1)
        parts.append(read_split(place / "train"))
    videos = [replace(video, id=2 * p + v + 1, file_names=tuple(
                  str((part.images / name).relative_to(folder)) for name in video.file_names))
              for p, part in enumerate(parts) for v, video in enumerate(part.videos)]
    tracks = [replace(track, id=100 * p + track.id, video_index=2 * p + track.video_index)
              for p, part in enumerate(parts) for track in part.tracks]
    return DatasetIndex(folder, "mixed", parts[0].categories, tuple(videos), tuple(tracks))
