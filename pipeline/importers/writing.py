"""Code that the importers share: it chooses the validation videos, and writes frames and tracks in the YouTube-VIS format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from effvis.data.frames import check_frame
from effvis.data.parsing import ANNOTATIONS, IMAGES
from effvis.data.youtube_vis import annotation_entry, write_annotations
from effvis.errors import UserError
from effvis.files import replacing_folder

if TYPE_CHECKING:
    from effvis.data.masks import RLE

OnFramesDone = Callable[[int, int], None]


class Named(Protocol):
    """A sequence of frames as an importer finds it, with or without its masks."""

    name: str
    frames: Sequence


Found = TypeVar("Found", bound=Named)


@dataclass(frozen=True)
class ImportedTrack:
    """One instance: its category and its mask in every frame, None where it is not visible."""

    category: str
    rles: Sequence[RLE | None]
    iscrowd: bool = False


@dataclass(frozen=True)
class ImportedVideo:
    """A video to write.

    Attributes:
        name: the folder of its frames in the new data set.
        frames: the frames in temporal order, each as a file and the name of its copy.
        size: (width, height) of every frame, in pixels.
    """

    name: str
    frames: Sequence[tuple[Path, str]]
    size: tuple[int, int]
    tracks: Sequence[ImportedTrack]


def held_out(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names to validate on.

    Raises:
        UserError: a pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError("command line", f"--val {pattern}", f"matches no {what}", f"There are {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def divided(sequences: Sequence[Found], patterns: Sequence[str], what: str) -> dict[str, list[Found]]:
    """The sequences to train on and those to validate on, each in their order.

    Raises:
        UserError: a pattern matches no name.
    """
    validating = held_out([one.name for one in sequences], patterns, what)
    return {"train": [one for one in sequences if one.name not in validating],
            "val": [one for one in sequences if one.name in validating]}


def counted(progress: OnFramesDone | None, total: int) -> Callable[[], None]:
    """A function that reports one more frame to ``progress`` each time it is called."""
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return told


def write_data_set(
    out: Path, splits: Mapping[str, Sequence[Found]], categories: Sequence[str], *, source: str, fps: float,
    progress: OnFramesDone | None, video_of: Callable[[Found], ImportedVideo] = lambda video: video,
) -> dict[str, int]:
    """Writes the splits that are not empty, whole or not at all.

    Args:
        source: what they were, for people.
        progress: called with (frames written, frames in all).
        video_of: reads the masks of a sequence, one after the other, so that only one's are in memory.

    Returns:
        The number of sequences, per split.

    Raises:
        UserError: for the reasons of ``write_split``, and those of ``video_of``.
    """
    told = counted(progress, sum(len(one.frames) for found in splits.values() for one in found))
    with replacing_folder(out) as new:
        for split, found in splits.items():
            if found:
                write_split(new / split, map(video_of, found), categories, fps=fps, told=told,
                            description=f"imported from {source}, {split}")
    return {split: len(found) for split, found in splits.items()}


def write_split(
    folder: Path, videos: Iterable[ImportedVideo], categories: Sequence[str], *, description: str, fps: float,
    told: Callable[[], None],
) -> None:
    """Copies the frames and writes the annotations of a split.

    Args:
        videos: the videos; they are read one after the other, so only one video's masks are in memory uncompressed.
        told: called after each frame.

    Raises:
        UserError: a frame is missing, cut off or of another size.
    """
    entries, annotations = [], []
    for number, video in enumerate(videos, start=1):
        width, height = video.size
        (folder / IMAGES / video.name).mkdir(parents=True)
        for file, name in video.frames:
            check_frame(file, file, f"{video.name}/{file.stem}", video.size)
            shutil.copyfile(file, folder / IMAGES / video.name / name)
            told()
        entries.append({"id": number, "height": height, "width": width, "length": len(video.frames), "fps": fps,
                        "file_names": [f"{video.name}/{name}" for _, name in video.frames]})
        annotations += [
            annotation_entry(track_id=len(annotations) + i, video_id=number, iscrowd=int(track.iscrowd), rles=track.rles,
                             category_id=categories.index(track.category) + 1, height=height, width=width)
            for i, track in enumerate(video.tracks, start=1)]
    write_annotations(
        folder / ANNOTATIONS, description=description, videos=entries, annotations=annotations,
        categories=[{"id": i, "name": name} for i, name in enumerate(categories, start=1)])
