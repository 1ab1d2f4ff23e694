"""The orientation flag of photographs (EXIF tag 0x0112): how the stored pixels must be turned to be seen as they were taken.

The frames of a data set are turned only if their masks are: the size that the annotations state tells, where the two sizes
differ.
"""

from __future__ import annotations

import struct

from PIL import ExifTags, Image

# What is done to the stored pixels, by flag; from 5 on, height and width change places.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}
EXCHANGING = (5, 6, 7, 8)
# Where Pillow finds the flag; most images have none of these.
_PLACES = {"exif", "xmp", "Raw profile type exif"}


def flag(image: Image.Image) -> int:
    """The flag of an opened image; 1 where it has none, or one that cannot be read."""
    if _PLACES.isdisjoint(image.info):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, OSError, KeyError, TypeError, struct.error):
        return 1
    return value if isinstance(value, int) and value in TURNS else 1


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of an opened image once it is turned."""
    width, height = image.size
    return (height, width) if flag(image) in EXCHANGING else (width, height)


def turned(image: Image.Image) -> Image.Image:
    """The image as its flag says; the same object where it says nothing."""
    turn = TURNS.get(flag(image))
    return image if turn is None else image.transpose(turn)
