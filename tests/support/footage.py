"""Video files of a few frames, whole and damaged."""

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV (the extra video) is not installed")


def pictures(count, height=40, width=56):
    """Frames that differ: a bright square moves over grey, with red in the upper left corner."""
    frames = np.full((count, height, width, 3), 90, dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:12, :12] = 220, 30, 30
        frame[height // 2: height // 2 + 8, 2 * number: 2 * number + 8] = 230
    return frames


def film(file, frames, *, codec="ffv1", pixels="bgr0", rotation=None, fps=10, options=None):
    """A video file written by PyAV alone; the default codec keeps every pixel, whatever the size; options of the container."""
    with av.open(str(file), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return file


def cut(file, share):
    """Keeps only the first part of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    return file


def shifted(file, new, seconds):
    """The same pictures with other time stamps; what then lies before zero, players leave out."""
    with av.open(str(file)) as old, av.open(str(new), "w") as container:
        stream = container.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                steps = int(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + steps, packet.dts + steps, stream
                container.mux(packet)
    return new


def damaged(file, start, end):
    """Overwrites the part between two shares of the file's picture data."""
    content = bytearray(file.read_bytes())
    first = max(0, content.find(b"mdat"))
    length = max(content.find(b"moov"), 0) - first if b"moov" in content else len(content)
    low, high = (first + int(share * length) for share in (start, end))
    content[low:high] = b"\xff" * (high - low)
    file.write_bytes(content)
    return file
