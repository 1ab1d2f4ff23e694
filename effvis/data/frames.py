"""Reading each frame file of a split once: is it there, inside the data set, whole, of the right size? And its digest."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from effvis.data import orientation
from effvis.data.dataset import Video
from effvis.data.problems import Problems
from effvis.errors import UserError

END_OF_JPEG = b"\xff\xd9"
READERS = 4


@dataclass(frozen=True)
class CheckedFrame:
    """A frame file that has passed all checks.

    Attributes:
        size: the image's (width, height) in pixels; of the image as shown, if its video is of that size.
        stamp: the file's ``file_stamp`` when it was read.
        digest: SHA-256 of its bytes.
    """

    size: tuple[int, int]
    stamp: tuple[int, int, int]
    digest: bytes


def file_stamp(path: Path | str) -> tuple[int, int, int]:
    """Size in bytes, and the times of the last change of content and of metadata, in nanoseconds.

    Only the system sets the third: it differs where a file is replaced by one of the same size and date.

    Raises:
        OSError: there is no such file.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_frames(
    folder: Path, file: Path, images: Path, videos: Sequence[Video | None], *, problems: Problems,
    known: Mapping[str, CheckedFrame], progress: Callable[[int, int], None] | None,
) -> list[CheckedFrame]:
    """Checks every frame file, video by video; wrong files whose errors are only collected are left out.

    Args:
        folder: the split's folder; no frame may lie outside it, not even through a link.
        file: the split's annotation file, for messages.
        known: frames that were checked before, by file name; those whose stamp is still the same are not read again.

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
    """Reads and checks one frame file of the given (width, height; None is any), listed in ``file`` at ``key``.

    If an orientation flag (``effvis.data.orientation``) exchanges the sides, the given size may be that of the stored image or
    of the turned one.

    Args:
        known: the result of an earlier check of this file, which is not read again if its stamp has not changed.

    Raises:
        UserError: the file is missing, cut off or of another size; or its flag turns it without changing its size, so that
            masks may be of either.
    """
    try:
        stamp = file_stamp(path)  # before reading, so that a change made meanwhile is noticed the next time
        if known is not None and (known.stamp, known.size) == (stamp, size):
            return known
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(file, key, f"missing frame file {path}", "Restore the file, or remove it from the list") from None
    except OSError as error:
        raise UserError(path, key, f"unreadable frame file ({error.strerror})", "Make the file readable") from None
    try:
        with Image.open(io.BytesIO(content)) as image:  # Reads the header alone.
            found, kind, flag = image.size, image.format, orientation.flag(image)
            if kind != "JPEG" or not content.endswith(END_OF_JPEG):
                image.load()  # Bytes may follow the end mark; only decoding is certain.
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(path, key, "truncated or damaged image", "Copy or extract the file anew") from None
    if flag in orientation.EXCHANGING and found != size and found[::-1] == size:
        found = size
    elif flag > 1 and found == size and (flag not in orientation.EXCHANGING or found[0] == found[1]):
        raise UserError(path, key, f"an orientation flag ({flag}) that leaves the size as it is, so masks may be of the stored "
                        "or of the turned image", "Save it without the flag; turned, if its masks are of what viewers show")
    if any(asked not in (side, None) for side, asked in zip(found, size, strict=True)):
        raise UserError(path, key, f"the image is {found[0]}x{found[1]}, its video {size[0]}x{size[1]} (width x height)",
                        "Correct the size in the annotations, or the image") from None
    return CheckedFrame(found, stamp, hashlib.sha256(content).digest())
