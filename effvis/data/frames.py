"""The frame files of a split, each read once: is it there, inside the data set, whole, of the right size; its digest."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from effvis.data.dataset import Video
from effvis.data.problems import Problems
from effvis.errors import UserError

END_OF_JPEG = b"\xff\xd9"
READERS = 4


@dataclass(frozen=True)
class CheckedFrame:
    """A frame file that was found right.

    Attributes:
        size: of the image, (width, height) in pixels.
        stamp: of the file when it was read, as ``file_stamp``.
        digest: SHA-256 of its bytes.
    """

    size: tuple[int, int]
    stamp: tuple[int, int, int]
    digest: bytes


def file_stamp(path: Path | str) -> tuple[int, int, int]:
    """Size in bytes, and when content and metadata were last changed, in nanoseconds.

    The third is set by the system alone: a file that is exchanged for one of the same size and date has another.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_frames(
    folder: Path, file: Path, images: Path, videos: Sequence[Video | None], *, problems: Problems,
    known: Mapping[str, CheckedFrame], progress: Callable[[int, int], None] | None,
) -> list[CheckedFrame]:
    """Every frame file, video by video; what is wrong and only noted is left out.

    Args:
        folder: the split; no frame may lie outside it, also not through a link.
        file: its annotations, for messages.
        known: frames that were checked before, by file name: those whose stamp is still the same are not read again.

    Raises:
        UserError: at the first frame that is missing, outside the folder, cut off, or of another size than its video.
    """
    inside = os.path.realpath(folder) + os.sep
    frames = [(v, f) for v, video in enumerate(videos) if video is not None
              for f, name in enumerate(video.file_names) if name is not None]

    def check(frame: tuple[int, int]) -> CheckedFrame | UserError:
        v, f = frame
        video, name, key = videos[v], videos[v].file_names[f], f"videos[{v}].file_names[{f}]"
        path = images / name
        try:
            if not os.path.realpath(path).startswith(inside):
                raise UserError(file, key, f"the path {name!r} leaves the data set folder through a link",
                                f"Copy the frames into {folder}, or give the folder that they are in")
            return check_frame(path, file, key, (video.width, video.height), known.get(name))
        except UserError as error:
            return error

    checked: list[CheckedFrame] = []
    with ThreadPoolExecutor(READERS) as readers:
        # In batches, so that the first error ends the work and memory stays small.
        for start in range(0, len(frames), 256):
            for result in readers.map(check, frames[start:start + 256]):
                with problems:
                    if isinstance(result, UserError):
                        raise result
                    checked.append(result)
            if progress:
                progress(min(start + 256, len(frames)), len(frames))
    return checked


def check_frame(
    path: Path, file: Path, key: str, size: tuple[int | None, int | None], known: CheckedFrame | None = None,
) -> CheckedFrame:
    """Reads one frame file of the given (width, height; None is any), listed in ``file`` at ``key``.

    Args:
        known: the same file as it was found before; it is not read again if its stamp has not changed.

    Raises:
        UserError: it is missing, cut off or of another size.
    """
    try:
        stamp = file_stamp(path)  # before reading: what is changed meanwhile is noticed the next time
        if known is not None and (known.stamp, known.size) == (stamp, size):
            return known
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(file, key, f"missing frame file {path}", "Restore the file, or remove it from the list") from None
    except OSError as error:
        raise UserError(path, key, f"unreadable frame file ({error.strerror})", "Make the file readable") from None
    try:
        with Image.open(io.BytesIO(content)) as image:  # Reads the header alone.
            found, kind = image.size, image.format
            if kind != "JPEG" or not content.endswith(END_OF_JPEG):
                image.load()  # Maybe bytes follow the end mark; decoding tells for certain.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(path, key, "truncated or damaged image", "Copy or extract the file anew") from None
    if any(asked not in (side, None) for side, asked in zip(found, size, strict=True)):
        raise UserError(path, key, f"the image is {found[0]}x{found[1]}, its video {size[0]}x{size[1]} (width x height)",
                        "Correct the size in the annotations, or the image") from None
    return CheckedFrame(found, stamp, hashlib.sha256(content).digest())
