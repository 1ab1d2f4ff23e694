"""The network, the pair of frames and the video of the reference numbers in tests/crossvis/oracle_data."""

import numpy as np
from support.made_numbers import made, made_whole

CLASSES, WIDTH, MASK_WIDTH, IDENTITIES = 5, 64, 16, 3774
SIZE, PADDED = (180, 312), (192, 320)
LEVELS = ((24, 40), (12, 20), (6, 10), (3, 5), (2, 3))
STRIDES = (8, 16, 32, 64, 128)
# In whose pixels objects are found.
VIDEO_SIZE = (240, 416)
# (identity, class, x0, y0, x1, y1) of the objects of each frame. Identity 900 is in the first alone, 41 in the second alone.
FRAMES = (
    ((17, 0, 20, 16, 60, 50), (3774, 3, 90, 30, 250, 160), (5, 1, 100, 60, 140, 120), (900, 4, 4, 100, 310, 178)),
    ((5, 1, 150, 70, 200, 150), (41, 2, 10, 10, 34, 40), (3774, 3, 110, 20, 270, 172), (17, 0, 30, 100, 75, 140)),
)


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """AdelaiDet's names of the weights of everything above the pyramid, and their shapes."""
    head, shapes = "proposal_generator.fcos_head.", {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name: str, width: int, statistics: bool) -> None:
        kinds = ("weight", "bias", "running_mean", "running_var") if statistics else ("weight", "bias")
        shapes.update({f"{name}.{kind}": (width,) for kind in kinds})

    for tower in ("cls", "bbox", "reid"):
        layer(f"{head}{tower}_tower.0", WIDTH, WIDTH, 3, 3)
        norm(f"{head}{tower}_tower.1", WIDTH, statistics=False)
    layer(f"{head}cls_logits", CLASSES, WIDTH, 3, 3)
    layer(f"{head}reid_pred", 256, WIDTH, 1, 1)
    norm(f"{head}reid_pred_bn", 256, statistics=True)
    layer(f"{head}bbox_pred", 4, WIDTH, 3, 3)
    layer(f"{head}ctrness", 1, WIDTH, 3, 3)
    shapes.update({f"{head}scales.{level}.scale": (1,) for level in range(len(LEVELS))})
    for name, inner in (*((f"refine.{level}", WIDTH) for level in range(3)), ("tower.0", MASK_WIDTH)):
        layer(f"mask_branch.{name}.0", MASK_WIDTH, inner, 3, 3, bias=False)
        norm(f"mask_branch.{name}.1", MASK_WIDTH, statistics=True)
    layer("mask_branch.tower.1", 8, MASK_WIDTH, 1, 1)
    layer("controller", 169, WIDTH, 3, 3)
    layer("cls", IDENTITIES, 256)
    return shapes


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weight of this name in AdelaiDet, so that values stay near 1 through the network and a few dozen locations show
    something."""
    part = name.rpartition(".")[2]
    if name.endswith("cls_logits.bias"):
        return made(name, shape, -4, -3)
    if name == "cls.bias":
        return made(name, shape, -5, -4)
    if name.endswith("bbox_pred.bias"):
        return made(name, shape, 1, 3)
    if part in ("running_var", "scale") or part == "weight" and len(shape) == 1:
        return made(name, shape, 0.5, 1.5)
    if len(shape) == 1:
        return made(name, shape, -0.2, 0.2)
    gain = 3.0 if "cls_logits" in name else 0.05 if name == "cls.weight" else 1.5
    limit = gain * int(np.prod(shape[1:])) ** -0.5
    return made(name, shape, -limit, limit)


def pyramid(frame: int) -> list[np.ndarray]:
    """The levels (WIDTH, H, W) that the network sees instead of a backbone's."""
    return [made(f"frame {frame}, level {number}", (WIDTH, *shape)) for number, shape in enumerate(LEVELS)]


def masks(frame: int) -> np.ndarray:
    """The objects' masks (I, H, W): the upper left six tenths of their boxes, below a falling diagonal."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    found = []
    for *_, x0, y0, x1, y1 in FRAMES[frame]:
        width, height = x1 - x0, y1 - y0
        inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
        found.append(inside & (5 * ((x - x0) * height + (y - y0) * width) <= 6 * width * height))
    return np.stack(found)


# How many objects each frame of the video of the memory shows.
VIDEO = (3, 5, 6, 0, 4, 7, 6, 5)


def seen(frame: int) -> dict[str, np.ndarray]:
    """What a frame of the video shows: four objects in turns, with noise, so that several may want one tracklet.

    Returns:
        ``embeddings`` (N, 6), ``boxes`` (N, 4), ``labels`` (N,).
    """
    name, count = f"video, frame {frame}", VIDEO[frame]
    which = made_whole(f"{name}, objects", (count,), 0, 4)
    corner, side = made_whole("video, corners", (4, 2), 0, 100), made_whole("video, sides", (4, 2), 20, 80)
    boxes = np.concatenate((corner, corner + side), axis=1)[which] + made_whole(f"{name}, moves", (count, 4), -8, 9)
    labels = (which + (made_whole(f"{name}, mistakes", (count,), 0, 6) == 0)) % 2
    looks = made("video, looks", (4, 6))[which] + made(f"{name}, noise", (count, 6), -0.8, 0.8)
    return {"embeddings": looks, "boxes": boxes.astype(np.float32), "labels": labels}
