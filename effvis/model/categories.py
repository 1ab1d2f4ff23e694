"""Which classes of two lists are the same, by their names: those of a published detector and those of a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence

# The classes of a published detector that does not name its own, in order.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot",
    "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush")
# YouTube-VIS's words for the same things.
_SAME = {"motorbike": "motorcycle", "sedan": "car", "flyingdisc": "frisbee"}


def plain(name: str) -> str:
    """A name without case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]", "", name).lower()


def partners(categories: Sequence[str], others: Sequence[str]) -> list[int | None]:
    """The place in ``others`` of each category's own name or a word for the same thing; None where there is none.

    A mouse is an animal, but a computer's in a list that has a keyboard, as COCO's.
    """
    place = {name: number for number, name in reversed(list(enumerate(_meanings(others))))}
    return [place.get(name) for name in _meanings(categories)]


def rows_by_name(categories: Sequence[str], theirs: Sequence[str]) -> Sequence[int | None]:
    """The published row of each category. In equal lists each name has its own row, even if two mean the same."""
    return range(len(theirs)) if list(categories) == list(theirs) else partners(categories, theirs)


def _meanings(names: Sequence[str]) -> list[str]:
    plain_names = [plain(name) for name in names]
    same = _SAME | ({"mouse": "computer's mouse"} if "keyboard" in plain_names else {})
    return [same.get(name, name) for name in plain_names]
