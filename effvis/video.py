"""Reading videos frame by frame, from files (by PyAV) or folders of frames, and writing video files frame by frame."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
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

# Containers whose header says how long the video is. That of others is unknown, or measured on what is there.
_STATING = {"matroska", "webm", "mov", "mp4", "avi"}
# Durations in headers are rounded, and sometimes count a last frame that is not there.
_LACKING_SECONDS, _LACKING_FRAMES = 0.25, 2


class BrokenVideo(UserError):
    """A video that can be read up to a frame, and no further.

    Attributes:
        frame: the number, from 0, of the first frame that cannot be read.
    """

    def __init__(self, where: object, frame: int, problem: str, remedy: str):
        super().__init__(where, f"frame {frame}", problem, remedy)
        self.frame = frame

    def __reduce__(self):
        return (type(self), (self.where, self.frame, self.problem, self.remedy))


class UntilBroken:
    """The frames of a video up to where it breaks; iterate over it only once.

    Attributes:
        error: where and why the video broke, once that has happened.

    Raises:
        BrokenVideo: while iterating, if there is no frame before the break.
    """

    def __init__(self, frames: Iterable[np.ndarray]):
        self._frames = frames
        self.error: BrokenVideo | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            yield from self._frames
        except BrokenVideo as error:
            if not error.frame:
                raise
            self.error = error


@dataclass(frozen=True)
class Footage:
    """A video that can be read from its start as often as wanted.

    Attributes:
        height, width: size in pixels as displayed (telephones store their videos turned).
        fps: frames per second; where the rate varies, its mean.
        length: number of frames; a damaged file may yield fewer.
        frames: iterates over the frames, each RGB uint8 (H, W, 3); raises BrokenVideo where it cannot be read on.
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
        fps = _rate(stream)
        # Many containers do not say how many frames they hold; their packets can be counted without decoding them.
        length = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    with closing(_file_frames(path)) as frames:
        first = next(frames, None)
    if first is None:
        raise UserError(path, "(video)", "there is no frame in it", _MEND)
    return Footage(path, *first.shape[:2], fps, max(1, length), lambda: _file_frames(path))


def _file_frames(path: Path) -> Iterator[np.ndarray]:
    number, reached, cut = 0, 0.0, False
    with _container(path) as (container, stream):
        try:
            for packet in container.demux():
                if packet.size and packet.pts is not None:
                    reached = max(reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index:
                    continue
                cut = packet.is_corrupt if packet.size else cut
                for frame in packet.decode():
                    # The angle by which the frame must be turned anticlockwise.
                    yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))
                    number += 1
        except pyav().FFmpegError as error:
            raise BrokenVideo(path, number, f"cannot be decoded: {error.strerror}", _MEND) from None
        stated = _stated_seconds(container)
        tolerance = max(_LACKING_SECONDS, _LACKING_FRAMES / _rate(stream))
        if number and (cut or stated - reached > tolerance):
            of = f" of {stated:.1f} s" if stated > reached else ""
            raise BrokenVideo(path, number, f"is missing: the file ends at {reached:.1f} s{of}, it is cut off", _MEND)


def _stated_seconds(container: Any) -> float:
    """How long the video is by its header; 0 if that does not say."""
    stating = not _STATING.isdisjoint(container.format.name.split(","))
    return container.duration / 1e6 if stating and container.duration else 0.0


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or UNKNOWN_FPS)


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
    with _image(files[0], 0) as image:
        width, height = shown_size(image)
    for number, file in enumerate(files):
        try:
            with _image(file, number) as image:
                size = shown_size(image)
        except BrokenVideo:
            break  # whoever reads the frames comes as far as this one
        if size != (width, height):
            raise UserError(file, "size", f"is {size[0]}x{size[1]}, {files[0].name} is {width}x{height}",
                            "Give frames of one size")
    names = tuple(file.name for file in files)
    return Footage(folder, height, width, fps, len(files), lambda: map(_read, files, itertools.count()), names)


def _read(file: Path, number: int) -> np.ndarray:
    with _image(file, number) as image:
        try:
            return np.asarray(turned(image).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenVideo(file, number, f"damaged image: {error}", "Copy or extract the file anew") from None


def _image(file: Path, number: int) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenVideo(file, number, f"is no image that can be read: {error}", "Copy or extract the file anew") from None
