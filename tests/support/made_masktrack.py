"""The inputs of the reference numbers in tests/masktrack_rcnn/oracle_data and tests/tracking/oracle_data."""

import numpy as np
from support.made_numbers import made, made_whole

CHANNELS, ROI, WIDTH = 4, 3, 16
# How many detections each frame of the video has; the last frames see most objects again.
VIDEO = (4, 6, 0, 5, 7, 1, 6, 6)


def linear(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A weight or a bias; values stay near 1 through a layer."""
    limit = 0.2 if len(shape) == 1 else (3 / int(np.prod(shape[1:]))) ** 0.5
    return made(name, shape, -limit, limit)


def head_weights(features: int = CHANNELS * ROI**2, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Of the tracking head, in the names of its authors' code."""
    shapes = {"fcs.0.weight": (width, features), "fcs.0.bias": (width,), "fcs.1.weight": (width, width), "fcs.1.bias": (width,)}
    return {name: linear(name, shape) for name, shape in shapes.items()}


def regions(name: str, count: int) -> np.ndarray:
    """Features of regions (count, CHANNELS, ROI, ROI)."""
    return made(name, (count, CHANNELS, ROI, ROI))


def boxes(name: str, count: int, room: int = 100, least: int = 5, most: int = 60) -> np.ndarray:
    """Boxes (count, 4) xyxy at whole pixels: a corner within the room, and sides from ``least`` to ``most - 1``."""
    corner, size = made_whole(f"{name}, corners", (count, 2), 0, room), made_whole(f"{name}, sizes", (count, 2), least, most)
    return np.concatenate((corner, corner + size), axis=1)


def detections(frame: int) -> dict[str, np.ndarray]:
    """A frame's detections: five objects of three classes in turns, each with some noise, so that several detections may be of
    one object, and some of none.

    Returns:
        ``boxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) and ``regions`` (N, CHANNELS, ROI, ROI).
    """
    count = VIDEO[frame]
    name = f"video, frame {frame}"
    which = made_whole(f"{name}, objects", (count,), 0, 5)
    noise = made(f"{name}, noise", (count, CHANNELS, ROI, ROI))
    shift = made_whole(f"{name}, shifts", (count, 2), -6, 7).repeat(2, axis=0).reshape(count, 2, 2)[:, 0]
    return {
        "boxes": boxes("video, objects", 5)[which] + np.tile(shift, 2),
        "scores": made(f"{name}, scores", (count,), 0.1, 1.0),
        "labels": (which + (made_whole(f"{name}, mistakes", (count,), 0, 5) == 0)) % 3,
        "regions": 2 * regions("video, looks", 5)[which] + 0.5 * noise}


def near(name: str, objects: np.ndarray, count: int, reach: int) -> np.ndarray:
    """``count`` boxes (count, 4) around each object in turn, each side moved by up to ``reach`` pixels, at least 1 wide."""
    of = np.resize(np.arange(len(objects)), count)
    moved = objects[of] + made_whole(name, (count, 4), -reach, reach + 1)
    return np.concatenate((moved[:, :2], np.maximum(moved[:, 2:], moved[:, :2] + 1)), axis=1)


# Mask R-CNN: a frame and its padded pyramid, the widths of its heads, and the frame's objects.
SIZE, LEVELS, STRIDES = (90, 120), ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2)), (4, 8, 16, 32, 64)
DIM, CLASSES, MASK_ROI = 8, 3, 4
OBJECTS = np.array([[10, 12, 50, 40], [30, 20, 110, 84], [70, 5, 90, 30], [0, 60, 21, 90]])
LABELS = np.array([0, 2, 1, 2])


def detector_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of this name in mmdetection's Mask R-CNN. Proposals are moved little; two layers of the box head have
    rows that add up to zero, so that regions differ in their classes."""
    weight = linear(name, shape)
    if name.endswith(("shared_fcs.1.weight", "fc_cls.weight")):
        weight[:, 1::2] = -weight[:, ::2]
        weight = weight * 2
    return weight / 4 if "rpn_reg" in name else weight


def pyramid() -> list[np.ndarray]:
    """The levels (DIM, H, W) that the heads see; the last is every second pixel of the one before."""
    levels = [made(f"level {number}", (DIM, *shape)) for number, shape in enumerate(LEVELS[:-1])]
    return [*levels, levels[-1][:, ::2, ::2]]


def proposals() -> np.ndarray:
    """The boxes (60, 4) that the box head's regions are chosen from."""
    return np.concatenate((near("near the objects", OBJECTS, 40, 8), boxes("elsewhere", 20, 60)))
