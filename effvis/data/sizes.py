"""The size at which the network sees a video's frames: one for all videos, or each video's own, with its ratio kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PositiveInt, TypeAdapter, WrapValidator

from effvis.config import Config


class KeptRatio(Config):
    """Frames are as large as these two bounds allow, upright or not, and keep their ratio.

    Attributes:
        shorter: pixels of the shorter side; fewer where the longer one would pass its bound.
        longer: pixels that the longer side has at most.
    """

    shorter: PositiveInt
    longer: PositiveInt


_Pair = TypeAdapter(tuple[PositiveInt, PositiveInt])


def _read(value: Any, _: Any) -> tuple[int, int] | KeptRatio:
    """A pair or a mapping, so that an error is that of what was meant."""
    return KeptRatio.model_validate(value) if isinstance(value, Mapping | KeptRatio) else _Pair.validate_python(value)


# (height, width) to which the frames of every video are stretched, or the rule by which each keeps its ratio.
InputSize = Annotated[tuple[int, int] | KeptRatio, WrapValidator(_read)]


def frame_size(input_size: InputSize, height: int, width: int) -> tuple[int, int]:
    """The (height, width) that frames of a height and width are resized to.

    Kept ratios are rounded as in mmdetection, whose weights the paper starts from: one factor for both sides, halves up.
    """
    if not isinstance(input_size, KeptRatio):
        return input_size
    factor = min(input_size.longer / max(height, width), input_size.shorter / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def scaled(input_size: InputSize, scale: float) -> InputSize:
    """The input size with both of its numbers multiplied, each at least one pixel."""
    def side(pixels: int) -> int:
        return max(1, round(pixels * scale))

    if isinstance(input_size, KeptRatio):
        return KeptRatio(shorter=side(input_size.shorter), longer=side(input_size.longer))
    return side(input_size[0]), side(input_size[1])


def widest(input_size: InputSize) -> tuple[int, int]:
    """The (height, width) of the largest frames that are not upright."""
    return (input_size.shorter, input_size.longer) if isinstance(input_size, KeptRatio) else input_size


def written(input_size: InputSize) -> list[int] | dict[str, int]:
    """The input size as plain values, as it stands in parameters and keys."""
    return input_size.model_dump() if isinstance(input_size, KeptRatio) else list(input_size)
