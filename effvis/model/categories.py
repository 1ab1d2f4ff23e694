"""Which classes of COCO, on which published detectors were trained, are those of another data set."""

from __future__ import annotations

from collections.abc import Sequence

# In the order of the published detectors' classes.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot",
    "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet", "tv",
    "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book",
    "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush")
# YouTube-VIS's words for the same things, and a word that means another thing there (an animal).
_SAME = {"motorbike": "motorcycle", "sedan": "car", "flying disc": "frisbee"}
_OTHER = {"mouse"}


def coco_partners(categories: Sequence[str]) -> list[int | None]:
    """The number of COCO's class for each category of a data set, None where COCO has none.

    Names count, whatever their case and with ``_`` for a space. COCO's own 80, in order, are themselves.
    """
    names = [name.lower().replace("_", " ") for name in categories]
    if tuple(names) == COCO:
        return list(range(len(COCO)))
    place = {name: number for number, name in enumerate(COCO) if name not in _OTHER}
    return [place.get(_SAME.get(name, name)) for name in names]
