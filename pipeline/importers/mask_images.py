"""Reads the picture of a mask, whose pixels are the numbers or the colours of instances."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from effvis.errors import UserError
from pipeline.importers.categories import Instance

VOID = 255  # in masks of 8 bits
# These may be instances like others, or what is ignored, by the bits of a pixel.
UNCLEAR = {8: (), 16: (VOID, 65535), 24: ("#ffffff",)}


@dataclass(frozen=True)
class MaskImage:
    """A mask.

    Attributes:
        values_HW: the number of each pixel's instance, or its colour, 0xRRGGBB; 0 is background.
        bits: 8 or 16 for numbers, 24 for colours.
    """

    values_HW: np.ndarray
    bits: int

    @property
    def is_coloured(self) -> bool:
        return self.bits == 24

    def instances(self) -> Iterator[tuple[Instance, np.ndarray]]:
        """The number of each instance, or its colour as "#rrggbb", with its bool mask (H, W)."""
        ignored = (0, VOID) if self.bits == 8 else (0,)
        for value in np.unique(self.values_HW):
            if value not in ignored:
                yield f"#{value:06x}" if self.is_coloured else int(value), self.values_HW == value


def read_mask(file: Path, key: str) -> MaskImage:
    """
    Raises:
        UserError: the file is damaged, or its pixels are neither numbers nor opaque colours.
    """
    try:
        with Image.open(file) as image:
            pixels, mode = np.asarray(image), image.mode
    except (OSError, SyntaxError, ValueError):
        raise UserError(file, key, "truncated or damaged image", "Copy or extract the file anew") from None
    if mode in ("RGB", "RGBA"):
        return MaskImage(_colours(pixels, file, key), 24)
    if mode in ("P", "L", "1"):
        return MaskImage(pixels.astype(np.uint8), 8)
    if mode.startswith("I"):
        return MaskImage(pixels.astype(np.int32), 16)
    raise UserError(file, key, f"neither a palette PNG nor one of colours, but of mode {mode}",
                    "Save masks with one channel, the value being the number of the instance, or as RGB")


def _colours(pixels_HWC: np.ndarray, file: Path, key: str) -> np.ndarray:
    """(H, W) int32 0xRRGGBB; a pixel without opacity is background."""
    if pixels_HWC.shape[2] == 4:
        alpha_HW = pixels_HWC[..., 3]
        if not np.isin(alpha_HW, (0, 255)).all():
            raise UserError(file, key, "a mask with pixels that are half transparent", "Save masks without transparency")
        pixels_HWC = pixels_HWC[..., :3] * (alpha_HW == 255)[..., None]
    return pixels_HWC.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
