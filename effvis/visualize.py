"""Overlays: one colour per identity, masks and proposals over frames, frames of a video side by side; heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from effvis.colours import RGB, colour
from effvis.data.masks import RLE, boxes_xyxy, decode
from effvis.labels import Label, draw_labels

GREY = (128, 128, 128)
_HEAT = ((0, 0, 40), (80, 10, 110), (190, 50, 80), (245, 130, 20), (255, 250, 170))


@dataclass(frozen=True)
class Overlay:
    """What is drawn of one tracklet in one frame.

    Attributes:
        rle: its mask at the frame's size.
        identity: decides the colour.
        text: written beside the mask; empty for none.
        box_4: its proposal, xyxy in pixels of the frame; None for none.
    """

    rle: RLE
    identity: int
    text: str = ""
    box_4: np.ndarray | None = None


def sketch(frame: Image.Image) -> Image.Image:
    """The edges of a frame as grey lines on white: shows where things are without showing the photograph."""
    edges = np.asarray(frame.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES), dtype=float)
    lines = np.clip((edges - 14) * 6, 0, 200)  # faint texture is left out
    lines[[0, -1], :] = lines[:, [0, -1]] = 0  # the filter has no neighbours to compare there
    return Image.fromarray((255 - lines).astype(np.uint8)).convert("RGB")


def draw(frame: Image.Image, overlays: Sequence[Overlay], *, scale: float = 1, opacity: float = 0.5) -> Image.Image:
    """A frame with masks, their outlines, their proposals and their texts.

    Args:
        scale: how many times larger the picture is than the frame; below 1 it is smaller.
        opacity: the masks' opacity, 0 to 1.
    """
    pixels = np.asarray(frame.convert("RGB"), dtype=np.float32).copy()
    boxes_N4 = boxes_xyxy([overlay.rle for overlay in overlays])
    for overlay, (x0, y0, x1, y1) in zip(overlays, boxes_N4.astype(int), strict=True):
        # Only the mask's box is painted, and a pixel around it, which shows where the mask ends.
        around = np.s_[max(0, y0 - 1):y1 + 1, max(0, x0 - 1):x1 + 1]
        _paint(pixels[around], decode(overlay.rle)[around], colour(overlay.identity), opacity)
    picture = Image.fromarray(pixels.astype(np.uint8))
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)),
        Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX)
    pen = ImageDraw.Draw(picture)
    labels = []
    for overlay, box_4 in zip(overlays, boxes_N4.astype(float) * scale, strict=True):
        if overlay.box_4 is not None:
            pen.rectangle([float(side) * scale for side in overlay.box_4], outline=colour(overlay.identity))
        if overlay.text and box_4.any():
            labels.append(Label(overlay.text, colour(overlay.identity), tuple(box_4.tolist())))
    draw_labels(picture, labels)
    return picture


def _paint(pixels_HW3: np.ndarray, mask_HW: np.ndarray, rgb: RGB, opacity: float) -> None:
    """Paints a mask into pixels (float), with an opaque outline inside it."""
    paint = np.array(rgb, dtype=np.float32)
    pixels_HW3[mask_HW] = (1 - opacity) * pixels_HW3[mask_HW] + opacity * paint
    inner = mask_HW.copy()
    inner[1:-1, 1:-1] &= mask_HW[:-2, 1:-1] & mask_HW[2:, 1:-1] & mask_HW[1:-1, :-2] & mask_HW[1:-1, 2:]
    pixels_HW3[mask_HW & ~inner] = paint


def crop(frame: Image.Image, box_4: np.ndarray, side: int) -> Image.Image:
    """The content of a box (xyxy in pixels of the frame) as a square of ``side`` pixels; black beyond the frame."""
    corners = tuple(float(edge) for edge in box_4)
    return frame.convert("RGB").transform((side, side), Image.Transform.EXTENT, corners, Image.Resampling.BILINEAR)


def heat(values_PQ: np.ndarray, side: int) -> Image.Image:
    """Values from 0 to 1 as a square of colours, from dark blue over red to light yellow."""
    levels = np.linspace(0, 1, len(_HEAT))
    pixels = np.stack([np.interp(values_PQ, levels, channel) for channel in np.transpose(_HEAT)], axis=-1)
    return Image.fromarray(pixels.round().astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)


def strip(pictures: Sequence[Image.Image], *, gap: int = 2) -> Image.Image:
    """Equally large pictures in a row, grey between them."""
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), GREY)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (width + gap), 0))
    return sheet


def side_by_side(rows: Sequence[Sequence[Image.Image]], titles: Sequence[str], *, gap: int = 3) -> Image.Image:
    """Rows of equally large pictures below each other, each row with its title on the left."""
    width, height = rows[0][0].size
    margin = max(7 * max(len(title) for title in titles), 1) + 8
    sheet = Image.new(
        "RGB", (margin + max(len(row) for row in rows) * (width + gap), len(rows) * (height + gap)), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for r, (row, title) in enumerate(zip(rows, titles, strict=True)):
        pen.text((4, r * (height + gap) + height // 2 - 6), title, fill=(0, 0, 0))
        for c, picture in enumerate(row):
            sheet.paste(picture, (margin + c * (width + gap), r * (height + gap)))
    return sheet
