"""Pictures of videos and of what the filters of a tracklet see, and how a page holds them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from effvis.data.dataset import DatasetIndex
    from effvis.tracklet_features import FilteredRegion
    from pipeline.drawn import Drawn

FRAME_WIDTH = 192  # pixels of a frame in a strip, whatever the video's size
JPEG_QUALITY = 80


def frame_image(index: DatasetIndex, v: int, frame: int, as_sketch: bool) -> Image:
    """A frame of a video, or only its edges where the photograph may not be shown."""
    from PIL import Image

    from effvis.visualize import sketch

    with Image.open(index.images / index.videos[v].file_names[frame]) as image:
        return sketch(image) if as_sketch else image.convert("RGB")


def frames_with(
    index: DatasetIndex, v: int, frames: Sequence[int], drawn: Sequence[Drawn], identities: Sequence[int], *,
    scale: float, as_sketch: bool,
) -> list[Image]:
    """Frames of a video with what is drawn over them, each in the colour of its identity."""
    from effvis.visualize import Overlay, draw

    return [
        draw(frame_image(index, v, frame, as_sketch), [
            Overlay(one.rles[frame], identity, one.text, one.boxes.get(frame))
            for one, identity in zip(drawn, identities, strict=True) if frame in one.rles
        ], scale=scale)
        for frame in frames
    ]


def frame_scale(index: DatasetIndex, v: int) -> float:
    """What makes a frame of a video as wide as strips have it."""
    return FRAME_WIDTH / index.videos[v].width


def region_rows(
    index: DatasetIndex, v: int, frames: Sequence[int], region: FilteredRegion, input_size: tuple[int, int], as_sketch: bool
) -> list[list[Image]]:
    """A tracklet's regions in some frames of the clip: where they are, what they hold, before and after the filter.

    Heat goes from the least to the largest norm of all the given frames, before and after each for itself.

    Args:
        frames: their numbers in the video; the clip's T begin with them.
    """
    import numpy as np

    from effvis.visualize import crop, heat

    video = index.videos[v]
    boxes_T4 = region.boxes_T4[: len(frames)] * np.array([video.width / input_size[1], video.height / input_size[0]] * 2)
    images = [frame_image(index, v, frame, as_sketch) for frame in frames]
    return [
        [_with_box(image, box_4, frame_scale(index, v)) for image, box_4 in zip(images, boxes_T4, strict=True)],
        [crop(image, box_4, FRAME_WIDTH) for image, box_4 in zip(images, boxes_T4, strict=True)],
        *([heat(values_SS, FRAME_WIDTH) for values_SS in _from_0_to_1(norms_TSS[: len(frames)])]
          for norms_TSS in (region.before_TSS, region.after_TSS)),
    ]


def _with_box(image: Image, box_4: np.ndarray, scale: float) -> Image:
    from PIL import ImageDraw

    from effvis.visualize import colour, draw

    picture = draw(image, [], scale=scale)
    ImageDraw.Draw(picture).rectangle([float(edge) * scale for edge in box_4], outline=colour(0), width=2)
    return picture


def _from_0_to_1(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / max(float(values.max() - values.min()), 1e-12)


def jpeg_uri(pictures: Sequence[Image]) -> str:
    """A strip of pictures as a data: URI. Colours are kept at full resolution: outlines are a pixel wide."""
    from effvis.visualize import strip

    buffer = io.BytesIO()
    strip(pictures).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    return data_uri("image/jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
