"""Reads mutated annotation files: ``python -m benchmarks.torture.fuzz_annotations``.

A small correct file is damaged in one to four places: values are replaced by strange ones, entries removed, doubled or swapped,
digits and letters changed, bytes flipped, or the end is cut off. Each is read as a split in the YouTube-VIS format, and checked
for all problems; another correct file is mutated and read as COCO with tracks. Anything but a result or a UserError is a defect
and is printed with the number that reproduces it; so is a file that reading accepts and the check does not, or the reverse.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import annotation_entry, check_split, read_split
from effvis.errors import UserError
from pipeline.importers.coco_file import CocoFile

HEIGHT, WIDTH, LENGTH = 6, 8, 3
STRANGE = (None, True, False, 0, 1, -1, 2, 3, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"),
           "", "0", "é", "\ud800", "\0", "..", "../x.jpg", "/etc/passwd", "C:\\x", "a" * 5000, [], [[]], [None], [[0] * 6],
           [[0, 0, 1e9, 0, 0, 1e9]], {}, {"size": [HEIGHT, WIDTH], "counts": ""}, {"size": [HEIGHT, WIDTH], "counts": [-1, 49]},
           {"size": [HEIGHT, WIDTH], "counts": [10**30]}, {"size": [HEIGHT, WIDTH], "counts": "~" * 40},
           {"size": None, "counts": None})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture.fuzz_annotations", description=__doc__,
                                     allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="files of each format (default: 10000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first file (default: 0)")
    args = parser.parse_args(argv)
    defects = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, start, read in (("YouTube-VIS", youtube_vis(), read_youtube_vis), ("COCO", coco(), read_coco)):
            split = Path(folder) / name
            write_frames(split)
            outcomes = Counter(outcome(split, name, start, read, number)
                               for number in range(args.first, args.first + args.count))
            defects += outcomes["defect"]
            print(f"{name}: {args.count} mutated files, {outcomes['refused']} refused with a clean error, "
                  f"{outcomes['read']} read, {outcomes['defect']} defects", flush=True)
    return 1 if defects else 0


def outcome(split: Path, name: str, start: dict, read: Callable[[Path], None], number: int) -> str:
    """The outcome for one mutated file: read, refused, or a defect, which is printed."""
    (split / "instances.json").write_bytes(mutated(start, random.Random(number)))
    try:
        read(split)
    except UserError as error:
        if error.key and error.problem and error.remedy:
            return "refused"
        print(f"{name} {number}: an error that names no place, problem or remedy: {error}")
        return "defect"
    except Exception:
        print(f"{name} {number}: {traceback.format_exc()}")
        return "defect"
    return "read"


def read_youtube_vis(split: Path) -> None:
    problems, _ = check_split(split)
    try:
        read_split(split)
    except UserError:
        if not problems.errors:
            raise AssertionError("reading refuses what the check accepts") from None
        raise
    if problems.errors:
        raise AssertionError(f"reading accepts what the check does not: {problems.errors[0]}")


def read_coco(split: Path) -> None:
    CocoFile(split / "instances.json").read(split / "JPEGImages")


def write_frames(split: Path) -> None:
    for v in range(2):
        (split / "JPEGImages" / f"v{v}").mkdir(parents=True)
        for f in range(LENGTH):
            Image.new("RGB", (WIDTH, HEIGHT), (v * 80, f * 40, 0)).save(split / "JPEGImages" / f"v{v}" / f"{f}.jpg")


def youtube_vis() -> dict:
    videos = [{"id": v + 1, "height": HEIGHT, "width": WIDTH, "length": LENGTH, "fps": 6.0,
               "file_names": [f"v{v}/{f}.jpg" for f in range(LENGTH)]} for v in range(2)]
    annotations = [annotation_entry(track_id=i + 1, video_id=i % 2 + 1, category_id=i % 2 + 1, height=HEIGHT, width=WIDTH,
                                    rles=[masks.encode(square(i, f)) if f != i else None for f in range(LENGTH)])
                   for i in range(3)]
    annotations[2]["segmentations"][0] = [[1, 1, 5, 1, 5, 4]]
    annotations[2]["segmentations"][1] = {"size": [HEIGHT, WIDTH], "counts": [10, 3, 35]}
    del annotations[2]["bboxes"]
    return {"videos": videos, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}], "annotations": annotations}


def coco() -> dict:
    images = [{"id": 10 * v + f, "video_id": v, "frame_id": f, "file_name": f"v{v}/{f}.jpg", "height": HEIGHT, "width": WIDTH}
              for v in range(2) for f in range(LENGTH)]
    annotations = [{"id": i, "image_id": image["id"], "category_id": 1, "track_id": 1, "iscrowd": 0,
                    "segmentation": masks.encode(square(0, 1)) if i % 2 else [[1, 1, 5, 1, 5, 4]]}
                   for i, image in enumerate(images)]
    return {"videos": [{"id": 0, "name": "v0"}, {"id": 1, "name": "v1"}], "images": images,
            "categories": [{"id": 1, "name": "cat"}], "annotations": annotations}


def square(instance: int, frame: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[instance:instance + 3, frame:frame + 4] = True
    return mask_HW


def mutated(start: dict, rng: random.Random) -> bytes:
    content = copy.deepcopy(start)
    for _ in range(rng.randint(1, 3)):
        mutate(content, rng)
    text = json.dumps(content).encode()
    return damaged(text, rng) if rng.random() < 0.25 else text


def mutate(content: Any, rng: random.Random) -> None:
    """Changes one value somewhere inside."""
    places = [(parent, key) for parent in containers(content)
              for key in (parent if isinstance(parent, dict) else range(len(parent)))]
    if not places:
        return
    parent, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            parent[key] = copy.deepcopy(rng.choice(STRANGE))
        case 1:
            del parent[key]
        case 2:
            other, place = rng.choice(places)
            parent[key] = copy.deepcopy(other[place])
        case 3 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case _:
            parent[key] = nudged(parent[key], rng)


def containers(value: Any) -> list[dict | list]:
    if not isinstance(value, dict | list):
        return []
    children = value.values() if isinstance(value, dict) else value
    return [value, *(inner for child in children for inner in containers(child))]


def nudged(value: Any, rng: random.Random) -> Any:
    """A slightly different value, so that it passes the first checks."""
    if isinstance(value, str) and value:
        at = rng.randrange(len(value))
        return value[:at] + chr(rng.randrange(33, 127)) + value[at + rng.randrange(2):]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value + rng.choice((-1, 1, 1000) if abs(value) > 1e300 else (-1, 1, 0.5, 1000))
    return copy.deepcopy(rng.choice(STRANGE))


def damaged(text: bytes, rng: random.Random) -> bytes:
    """The text with some bytes changed, or without its end."""
    if rng.random() < 0.2:
        return text[:rng.randrange(len(text))]
    changed = bytearray(text)
    for _ in range(rng.randint(1, 3)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


if __name__ == "__main__":
    raise SystemExit(main())
