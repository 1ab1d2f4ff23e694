"""Reading videos frame by frame, from files (by PyAV) or folders of frames, and writing video files frame by frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effvis.data.frame_files import FRAME_SUFFIXES, by_stem
from effvis.data.orientation import shown_size, turned
from effvis.errors import UserError
from effvis.files import replacing_file

FOLDER_FPS = 6.0  # for frames in a folder, which state no frame rate; YouTube-VIS's rate
UNKNOWN_FPS = 25.0
QUALITY = "18"  # x264's constant rate factor: outlines one pixel wide stay visible
_MEND = "Play it to see whether it is whole; other formats: ffmpeg -i FILE -c:v libx264 -pix_fmt yuv420p new.mp4"


@dataclass(frozen=True)
class Footage:
    """A video that can be read from its start as often as wanted.

    Attributes:
        height, width: size in pixels as displayed (telephones store their videos turned).
        fps: frames per second; where the rate varies, its mean.
        length: number of frames; a damaged file may yield fewer.
        frames: iterates over the frames, each RGB uint8 (H, W, 3); raises UserError where the file is damaged.
        names: the frames' files, for a folder of frames; empty for a video file.
    """

    path: Path
    height: int
    width: int
    fps: float
    length: int
    frames: Callable[[], Iterator[np.ndarray]]
    names: tuple[str, ...] = ()

    def thinned(self, fps: float | None) -> Footage:
        """The video at a lower frame rate: the first frame, then one every ``self.fps / fps``; never more than there are."""
        stride = 1.0 if fps is None else max(1.0, self.fps / fps)
        return replace(self, fps=self.fps / stride, length=math.ceil(self.length / stride),
                       frames=lambda: _one_every(stride, self.frames()), names=tuple(_one_every(stride, iter(self.names))))


def open_video(path: str | Path, *, folder_fps: float = FOLDER_FPS) -> Footage:
    """Opens a video file, or a folder of frames as JPEG or PNG files, in the order of the numbers in their names.
    Frames with an orientation flag are turned, as video files are.

    Raises:
        UserError: the video does not exist, has no frame, or cannot be read; or PyAV is needed but not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, folder_fps)
    if not path.is_file():
        raise UserError(path, "(file)", "there is no such file or folder", "Give a video file, or a folder with its frames")
    return _open_file(path)


def pyav() -> Any:
    """The module ``av``.

    Raises:
        UserError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise UserError("PyAV", "av", "is not installed; video files are read and written with it",
                        "Install the extra: pip install -e '.[video]', or pip install av") from None
    return av


@contextmanager
def writing_video(file: Path, *, height: int, width: int, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields ``write(frame)`` for RGB uint8 (H, W, 3); the mp4 (H.264) takes its place when the block ends without an error.

    Odd sides grow by a pixel that repeats the last one, because players accept only even sides.

    Raises:
        UserError: PyAV is not installed.
    """
    av = pyav()
    with replacing_file(file) as unfinished, av.open(f"file:{unfinished}", "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": QUALITY})
        stream.height, stream.width, stream.pix_fmt = height + height % 2, width + width % 2, "yuv420p"

        def write(frame: np.ndarray) -> None:
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))

        yield write
        container.mux(stream.encode())


def _one_every(stride: float, frames: Iterator[Any]) -> Iterator[Any]:
    kept = 0
    for number, frame in enumerate(frames):
        if number == math.floor(kept * stride):
            kept += 1
            yield frame


def _open_file(path: Path) -> Footage:
    with _container(path) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or UNKNOWN_FPS)
        # Many containers do not say how many frames they hold; their packets can be counted without decoding them.
        length = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    with closing(_file_frames(path)) as frames:
        first = next(frames, None)
    if first is None:
        raise UserError(path, "(video)", "there is no frame in it", _MEND)
    return Footage(path, *first.shape[:2], fps, max(1, length), lambda: _file_frames(path))


def _file_frames(path: Path) -> Iterator[np.ndarray]:
    number = 0
    with _container(path) as (container, stream):
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames, None)
            except pyav().FFmpegError as error:
                raise UserError(path, f"frame {number}", f"cannot be decoded: {error.strerror}", _MEND) from None
            if frame is None:
                return
            # The angle by which the frame must be turned anticlockwise.
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
            number += 1


@contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any]]:
    """The opened file and its video stream."""
    av = pyav()
    try:
        # A playlist must not make it open anything else; "file:" is needed because a name may contain a colon.
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as error:
        raise UserError(path, "(file)", f"is no video that can be read: {error.strerror}", _MEND) from None
    with container:
        stream = container.streams.best("video")
        if stream is None:
            raise UserError(path, "(video)", "there is no video stream in it", "Give a file that has pictures")
        yield container, stream


def _open_folder(folder: Path, fps: float) -> Footage:
    files = list(by_stem(folder, FRAME_SUFFIXES).values())
    if not files:
        raise UserError(folder, "(folder)", f"there is no frame ({', '.join(FRAME_SUFFIXES)}) in it",
                        "Give the folder of one video's frames, or a video file")
    sizes = []
    for file in files:
        with _image(file) as image:
            sizes.append(shown_size(image))
        if sizes[-1] != sizes[0]:
            found, first = ("x".join(map(str, size)) for size in (sizes[-1], sizes[0]))
            raise UserError(file, "size", f"is {found}, {files[0].name} is {first}", "Give frames of one size")
    width, height = sizes[0]
    return Footage(folder, height, width, fps, len(files), lambda: map(_read, files), tuple(file.name for file in files))


def _read(file: Path) -> np.ndarray:
    with _image(file) as image:
        try:
            return np.asarray(turned(image).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(file, "(file)", f"damaged image: {error}", "Copy or extract the file anew") from None


def _image(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(file, "(file)", f"is no image that can be read: {error}", "Copy or extract the file anew") from None
