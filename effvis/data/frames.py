"""The frame files of a split, each read once: is it there, inside the data set, whole, of the right size; its digest."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from effvis.data.dataset import Video
from effvis.errors import UserError

END_OF_JPEG = b"\xff\xd9"
READERS = 4


def check_frames(
    folder: Path, file: Path, images: Path, videos: Sequence[Video], progress: Callable[[int, int], None] | None,
) -> list[bytes]:
    """The SHA-256 of every frame file, video by video.

    Args:
        folder: the split; no frame may lie outside it, also not through a link.
        file: its annotations, for messages.

    Raises:
        UserError: at the first frame that is missing, outside the folder, cut off, or of another size than its video.
    """
    inside = os.path.realpath(folder) + os.sep
    frames = [(v, f) for v, video in enumerate(videos) for f in range(video.length)]

    def check(frame: tuple[int, int]) -> bytes:
        v, f = frame
        key = f"videos[{v}].file_names[{f}]"
        path = images / videos[v].file_names[f]
        if not os.path.realpath(path).startswith(inside):
            raise UserError(file, key, f"the path {videos[v].file_names[f]!r} leaves the data set folder through a link",
                            f"Copy the frames into {folder}, or give the folder that they are in")
        return check_frame(path, file, key, (videos[v].width, videos[v].height))

    digests: list[bytes] = []
    with ThreadPoolExecutor(READERS) as readers:
        # In batches, so that the first error ends the work and memory stays small.
        for start in range(0, len(frames), 256):
            digests += readers.map(check, frames[start:start + 256])
            if progress:
                progress(len(digests), len(frames))
    return digests


def check_frame(path: Path, file: Path, key: str, size: tuple[int, int]) -> bytes:
    """The SHA-256 of one frame file of the given (width, height), listed in ``file`` at ``key``.

    Raises:
        UserError: it is missing, cut off or of another size.
    """
    try:
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
    if found != size:
        raise UserError(path, key, f"the image is {found[0]}x{found[1]}, its video {size[0]}x{size[1]} (width x height)",
                        "Correct the size in the annotations, or the image") from None
    return hashlib.sha256(content).digest()
