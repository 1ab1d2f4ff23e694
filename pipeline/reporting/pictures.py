"""Pictures of videos and of their regions, and their form inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageDraw

from effvis.data.orientation import turned
from effvis.visualize import Overlay, crop, draw, heat, sketch, strip

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from effvis.data.dataset import DatasetIndex
    from pipeline.reporting.feature_maps import Seen
    from pipeline.reporting.tracklets import DrawnTracklet

# sketch: edges alone, for photographs that may not be shown; grey: all colour marks identities.
Backdrop = Literal["photograph", "grey", "sketch"]
FRAME_WIDTH = 192  # pixels per frame in a strip, whatever the video's size
REGION_SIDE = 96
JPEG_QUALITY = 80


def frame_image(index: DatasetIndex, v: int, frame: int, backdrop: Backdrop) -> Image:
    """A frame of a video, in RGB."""
    video = index.videos[v]
    with Image.open(index.images / video.file_names[frame]) as stored:
        image = stored if stored.size == (video.width, video.height) else turned(stored)
        if backdrop == "sketch":
            return sketch(image)
        return image.convert("L" if backdrop == "grey" else "RGB").convert("RGB")


def frames_with(
    index: DatasetIndex, v: int, frames: Sequence[int], drawn: Sequence[DrawnTracklet], identities: Sequence[int], *,
    scale: float, backdrop: Backdrop, texts: bool = False,
) -> list[Image]:
    """Frames of a video with what is drawn over them, each in the colour of its identity, and with texts if wanted."""
    return [
        draw(frame_image(index, v, frame, backdrop), [
            Overlay(one.rles[frame], identity, one.text if texts else "", one.boxes.get(frame))
            for one, identity in zip(drawn, identities, strict=True) if frame in one.rles
        ], scale=scale)
        for frame in frames
    ]


def frame_scale(index: DatasetIndex, v: int) -> float:
    """The factor that scales a video's frames to their width in strips."""
    return FRAME_WIDTH / index.videos[v].width


def region_pictures(index: DatasetIndex, v: int, frames: Sequence[int], seen: Seen, backdrop: Backdrop) -> list[list[Image]]:
    """Pictures of where the proposal is in each frame, and pictures of what it crops."""
    images = [(frame_image(index, v, frame, backdrop), box_4) for frame, box_4 in zip(frames, seen.boxes_T4, strict=False)]
    return [
        [_with_box(image, box_4, frame_scale(index, v)) for image, box_4 in images],
        [crop(image, box_4, REGION_SIDE) for image, box_4 in images],
    ]


def heat_pictures(values: Sequence[np.ndarray]) -> list[Image]:
    """Heat maps of (S, S) values, all on one scale from the least value to the largest."""
    least, largest = min(float(one.min()) for one in values), max(float(one.max()) for one in values)
    return [heat((one - least) / max(largest - least, 1e-12), REGION_SIDE) for one in values]


def _with_box(image: Image, box_4: np.ndarray, scale: float) -> Image:
    picture = draw(image, [], scale=scale)
    ImageDraw.Draw(picture).rectangle([float(edge) * scale for edge in box_4], outline=(255, 255, 255), width=2)
    return picture


def jpeg_uri(pictures: Sequence[Image]) -> str:
    """A strip of pictures as a data: URI. Colours keep their full resolution, because outlines are a pixel wide."""
    buffer = io.BytesIO()
    strip(pictures).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
