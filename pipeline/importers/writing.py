"""Code that the importers share: it chooses the validation videos, and writes frames and tracks in the YouTube-VIS format."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.frames import check_frame
from effvis.data.parsing import ANNOTATIONS, IMAGES
from effvis.data.youtube_vis import annotation_entry, write_annotations
from effvis.errors import UserError

if TYPE_CHECKING:
    from effvis.data.masks import RLE

Progress = Callable[[int, int], None]


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


def check_out(out: Path) -> None:
    """
    Raises:
        UserError: there is something at ``out`` already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "--out", "exists already", "Remove it, or choose another folder")


def held_out(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """The names to validate on.

    Raises:
        UserError: a pattern matches no name.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UserError("command line", f"--val {pattern}", f"matches no {what}", f"There are {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def counted(progress: Progress | None, total: int) -> Callable[[], None]:
    """A function that reports one more frame to ``progress`` each time it is called."""
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    return told


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
