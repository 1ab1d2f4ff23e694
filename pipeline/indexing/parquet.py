"""Writes a split's index as Parquet tables, and reads it back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from effvis.data.dataset import Track, Video
from effvis.data.index import ClipIndex

if TYPE_CHECKING:
    import pyarrow

    from effvis.data.dataset import DatasetIndex


TABLES = ("frames.parquet", "tracks.parquet", "instances.parquet")


def files(folder: Path, clip_lengths: Sequence[int]) -> list[Path]:
    """All files of a split's index."""
    return [*(folder / name for name in TABLES), *(file for length in clip_lengths for file in clip_files(folder, length))]


def write_split(index: DatasetIndex, folder: Path) -> None:
    """Writes frames.parquet, tracks.parquet and instances.parquet of a split into ``folder``."""
    _write(folder / "frames.parquet", _frames(index))
    _write(folder / "tracks.parquet", _tracks(index))
    _write(folder / "instances.parquet", _instances(index))


def write_clips(clips: ClipIndex, index: DatasetIndex, folder: Path) -> None:
    """Writes clips_T<T>.parquet and pairs_T<T>.parquet into ``folder``, where T is the length of the clips."""
    clips_file, pairs_file = clip_files(folder, clips.clip_length)
    _write(clips_file, _clips(clips, index))
    _write(pairs_file, {"first_clip": clips.pair_first_P, "second_clip": clips.pair_second_P})


def clip_files(folder: Path, clip_length: int) -> tuple[Path, Path]:
    return folder / f"clips_T{clip_length}.parquet", folder / f"pairs_T{clip_length}.parquet"


def read_file_names(folder: Path, lengths: Sequence[int]) -> list[tuple[str, ...]]:
    """The frame files of each video, from frames.parquet."""
    names = _read(folder / "frames.parquet", ["file"])["file"].to_pylist()
    ends = np.cumsum(lengths)
    return [tuple(names[end - length:end]) for end, length in zip(ends, lengths, strict=True)]


def read_tracks(folder: Path, videos: Sequence[Video]) -> tuple[Track, ...]:
    """The tracks of a split, from tracks.parquet and instances.parquet, as they were read and checked."""
    rows = _read(folder / "tracks.parquet").to_pylist()
    columns = ["frame", "x0", "y0", "x1", "y1", "area", "counts"]
    instances = _read(folder / "instances.parquet", columns)
    frames, areas = _numbers(instances["frame"]), _numbers(instances["area"])
    boxes = np.stack([_numbers(instances[name]) for name in ("x0", "y0", "x1", "y1")], axis=1)
    counts = instances["counts"].to_pylist()
    tracks, first = [], 0
    for row in rows:
        video = videos[row["video_index"]]
        own = slice(first, first + row["frames_present"])
        first = own.stop
        boxes_L4 = np.full((video.length, 4), np.nan, np.float32)
        areas_L = np.zeros(video.length, np.float32)
        rles: list[dict | None] = [None] * video.length
        boxes_L4[frames[own]], areas_L[frames[own]] = boxes[own], areas[own]
        for frame, text in zip(frames[own], counts[own], strict=True):
            rles[frame] = {"size": [video.height, video.width], "counts": text}
        tracks.append(Track(row["track_id"], row["video_index"], row["label"], row["iscrowd"], boxes_L4, areas_L,
                            tuple(rles)))
    return tuple(tracks)


def read_clips(folder: Path, clip_length: int) -> ClipIndex:
    """The clips and pairs that ``write_clips`` wrote."""
    clips_file, pairs_file = clip_files(folder, clip_length)
    clips, pairs = _read(clips_file, ["video_index", "start", "track_ids"]), _read(pairs_file)
    track_ids = clips["track_ids"].combine_chunks()
    return ClipIndex(
        clip_length=clip_length, clip_video_K=_numbers(clips["video_index"]), clip_start_K=_numbers(clips["start"]),
        pair_first_P=_numbers(pairs["first_clip"]), pair_second_P=_numbers(pairs["second_clip"]),
        track_offsets_K1=_numbers(track_ids.offsets).astype(np.int64), track_ids=_numbers(track_ids.values))


def _frames(index: DatasetIndex) -> dict[str, Any]:
    """One row per frame."""
    lengths = [video.length for video in index.videos]
    files = [name for video in index.videos for name in video.file_names]
    return {
        "video_id": np.repeat([video.id for video in index.videos], lengths),
        "video_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame": np.concatenate([np.arange(length) for length in lengths]),
        "file": files,
        "height": np.repeat([video.height for video in index.videos], lengths),
        "width": np.repeat([video.width for video in index.videos], lengths),
        "bytes": np.array([(index.images / name).stat().st_size for name in files], np.int64),
    }


def _tracks(index: DatasetIndex) -> dict[str, Any]:
    """One row per instance."""
    return {
        "track_id": _whole(track.id for track in index.tracks),
        **_owner(index, index.tracks, np.ones(len(index.tracks), np.int64)),
        "frames_present": _whole(track.present_L.sum() for track in index.tracks),
    }


def _instances(index: DatasetIndex) -> dict[str, Any]:
    """One row per instance and frame where it is present, track by track as in tracks.parquet."""
    present = [np.flatnonzero(track.present_L) for track in index.tracks]
    times = np.array([len(frames) for frames in present], np.int64)
    boxes = np.concatenate([t.boxes_L4[p] for t, p in zip(index.tracks, present, strict=True)] or [np.zeros((0, 4))])
    areas = np.concatenate([t.areas_L[p] for t, p in zip(index.tracks, present, strict=True)] or [np.zeros(0)])
    return {
        "track_id": np.repeat(_whole(track.id for track in index.tracks), times),
        **_owner(index, index.tracks, times),
        "frame": np.concatenate([*present, np.zeros(0, np.int64)]),
        **{name: boxes[:, i].astype(np.float32) for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "area": areas.astype(np.float32),
        "counts": _text(rle["counts"] for track in index.tracks for rle in track.rles if rle is not None),
    }


def _owner(index: DatasetIndex, tracks: Sequence[Track], times: np.ndarray) -> dict[str, Any]:
    """The video and the category of each track, repeated as often as ``times`` says."""
    return {
        "video_id": np.repeat(_whole(index.videos[track.video_index].id for track in tracks), times),
        "video_index": np.repeat(_whole(track.video_index for track in tracks), times),
        "label": np.repeat(_whole(track.label for track in tracks), times),
        "category_id": np.repeat(_whole(index.categories[track.label].id for track in tracks), times),
        "iscrowd": np.repeat(np.array([track.iscrowd for track in tracks], bool), times),
    }


def _clips(clips: ClipIndex, index: DatasetIndex) -> dict[str, Any]:
    """One row per clip: its video, start, frames (the video's last one is repeated at its end) and the tracks present."""
    lengths_V = np.array([video.length for video in index.videos])
    count = len(clips.clip_start_K)
    frames_KT = clips.clip_start_K[:, None] + np.arange(clips.clip_length)
    frames_KT = np.minimum(frames_KT, lengths_V[clips.clip_video_K][:, None] - 1)
    return {
        "video_index": clips.clip_video_K,
        "video_id": _whole(index.videos[v].id for v in clips.clip_video_K),
        "start": clips.clip_start_K,
        "frames": pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * clips.clip_length,
                                           frames_KT.reshape(-1).astype(np.int32)),
        "track_ids": pa.ListArray.from_arrays(clips.track_offsets_K1.astype(np.int32), clips.track_ids),
    }


def _whole(numbers) -> np.ndarray:
    return np.array([int(number) for number in numbers], np.int64)


def _text(values) -> pyarrow.Array:
    return pa.array(values, pa.string())


def _write(file: Path, columns: dict[str, Any]) -> None:
    pq.write_table(pa.table(columns), file)


def _read(file: Path, columns: list[str] | None = None) -> pyarrow.Table:
    with pq.ParquetFile(file) as table:
        return table.read(columns)


def _numbers(column: pyarrow.ChunkedArray | pyarrow.Array) -> np.ndarray:
    """A column without nulls, by DLPack: pyarrow's own conversion first imports pandas, which takes half a second."""
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
