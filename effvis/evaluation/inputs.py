"""Reading and checking what is scored: the ground truth and the results, as the YouTube-VIS protocol takes them.

What stops the official evaluator is a UserError here; what it silently drops is dropped too, with a warning.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pydantic_core import from_json

from effvis.errors import UserError
from effvis.evaluation import rle_json

COUNTS, SIZE = itemgetter("counts"), itemgetter("size")
Group = tuple[int, int]  # video id, category id


@dataclass(frozen=True)
class Truth:
    """One annotation. ``key`` says where it stands in the file; ``area`` is the mean of its ``areas`` over frames."""

    key: str
    id: int
    crowd: bool
    area: float
    segmentations: Sequence[Mapping | None]


@dataclass(frozen=True)
class Detection:
    """One result. ``key`` says where it stands in the file."""

    key: str
    score: float
    segmentations: Sequence[Mapping | None]


@dataclass(frozen=True)
class GroundTruth:
    where: str
    videos: tuple[int, ...]  # ids, ascending
    categories: dict[int, str]  # id to name, ascending by id
    truths: Mapping[Group, Sequence[Truth]]
    warnings: list[str]


@dataclass(frozen=True)
class Results:
    where: str
    detections: Mapping[Group, Sequence[Detection]]  # in the order of the file
    warnings: list[str]


def read_ground_truth(source: Path | str | dict) -> GroundTruth:
    """Reads ``{videos, categories, annotations}``; masks are RLE, uncompressed RLE or polygons.

    As in the official evaluator, annotations of a video or category that is not listed are left out, and the last of
    several annotations with one id replaces the others.

    Raises:
        UserError: names the file, the key and the remedy.
    """
    where, data = _load(source, "ground truth", rle_json.loads)
    _expect(isinstance(data, dict), where, "(top)", "is not an object",
            "Give the ground truth: {videos, categories, annotations}")
    videos, categories, annotations = (_list(data, name, where, name) for name in ("videos", "categories", "annotations"))
    frame_sizes = {_identity(video, "id", where, f"videos[{index}]"): _frame_size(video, where, f"videos[{index}]")
                   for index, video in enumerate(videos)}
    names = {_identity(category, "id", where, f"categories[{index}]"): str(category.get("name", category["id"]))
             for index, category in enumerate(categories)}
    truths, warnings = _group_truths(annotations, frame_sizes, names, where)
    return GroundTruth(where, tuple(sorted(frame_sizes)), dict(sorted(names.items())), truths, warnings)


def _group_truths(annotations: list, frame_sizes: Mapping, names: Mapping, where: str):
    """The annotations by (video, category), and warnings about those that are replaced or left out."""
    ids, groups = [], []
    for index, annotation in enumerate(annotations):
        values = [_identity(annotation, name, where, f"annotations[{index}]") for name in ("id", "video_id", "category_id")]
        ids.append(values[0])
        groups.append((values[1], values[2]))
    last_of_id = {identity: index for index, identity in enumerate(ids)}
    listed = [video in frame_sizes and category in names for video, category in groups]

    truths, warnings, parsed, known = defaultdict(list), [], {}, set()
    # Ascending videos, then the order of the file: among equal overlaps the later annotation wins.
    for index in sorted(range(len(ids)), key=lambda index: groups[index][0]):
        last = last_of_id[ids[index]]
        if not (listed[index] and listed[last]):
            warnings.append(f"{where}: annotations[{index}]: left out, its video or category is not listed")
            continue
        if last != index:
            warnings.append(f"{where}: annotations[{index}]: annotations[{last}] has the same id and is used in its place")
        if last not in parsed:
            frame_size = frame_sizes[groups[last][0]]
            parsed[last] = _truth(annotations[last], frame_size, known, where, f"annotations[{last}]")
        truths[groups[last]].append(parsed[last])
    return truths, warnings


def read_results(source: Path | str | list, ground_truth: GroundTruth, *, allow_empty: bool = False) -> Results:
    """Reads a list of ``{video_id, category_id, score, segmentations}`` with compressed RLE.

    Results of a category that the ground truth does not list are left out, as in the official evaluator.

    Raises:
        UserError: names the file, the key and the remedy.
    """
    where, data = _load(source, "results", _loads)
    _expect(isinstance(data, list), where, "(top)", "is not a list",
            "Give a list of {video_id, category_id, score, segmentations}")
    _expect(data or allow_empty, where, "(top)", "is an empty list", "Give at least one result: nothing can be scored")
    videos, known, detections, unlisted = set(ground_truth.videos), set(), defaultdict(list), Counter()
    for index, result in enumerate(data):
        key = f"results[{index}]"
        video, category = (_identity(result, name, where, key) for name in ("video_id", "category_id"))
        _expect(video in videos, where, f"{key}.video_id", f"{video!r} is not a video of {ground_truth.where}",
                "Score results against the ground truth that they were made for")
        score = _score(result, where, key)
        segmentations = _list(result, "segmentations", where, f"{key}.segmentations")
        masks = _checked(segmentations, _compressed_mask, known, where, f"{key}.segmentations")
        if category in ground_truth.categories:
            detections[video, category].append(Detection(key, score, masks))
        else:
            unlisted[category] += 1
    warnings = [f"{where}: {count} results left out, category {category} is not listed in {ground_truth.where}"
                for category, count in unlisted.items()]
    return Results(where, detections, warnings)


def _load(source: Path | str | dict | list, kind: str, loads: Callable[[bytes], Any]) -> tuple[str, Any]:
    if not isinstance(source, (str, Path)):
        return kind, source
    try:
        with _no_garbage_collection():
            return str(source), loads(Path(source).read_bytes())
    except OSError as error:
        raise UserError(source, "(file)", f"cannot be read ({error.strerror})", f"Give the {kind} as a JSON file") from None
    except json.JSONDecodeError as error:
        raise UserError(source, f"line {error.lineno}, column {error.colno}", f"is not JSON ({error.msg})",
                        f"Write the {kind} anew; a file that ends early was not written to its end") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(source, "(file)", f"is not JSON ({error})", f"Give the {kind} as a JSON file") from None


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Pauses garbage collection where many objects are made and none discarded: it takes a third of the time of reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _loads(text: bytes) -> Any:
    """Like ``json.loads``, in less than half the time."""
    try:
        return from_json(text)
    except ValueError:
        return json.loads(text)  # this accepts a little more, and names the line of what it rejects


def _truth(annotation: dict, frame_size: tuple[int, int], known: set, where: str, key: str) -> Truth:
    crowd = annotation.get("iscrowd")
    _expect(crowd in (0, 1), where, f"{key}.iscrowd", "is missing" if crowd is None else f"is {crowd!r}",
            "Write 0, or 1 for a group that is not to be counted")
    areas = [area for area in _list(annotation, "areas", where, f"{key}.areas") if area]
    _expect(all(map(_is_number, areas)), where, f"{key}.areas", "holds something other than numbers",
            "Write the pixels of each frame, or null")
    segmentations = _list(annotation, "segmentations", where, f"{key}.segmentations")
    masks = _checked(segmentations, partial(_any_mask, frame_size=frame_size), known, where, f"{key}.segmentations")
    return Truth(key, annotation["id"], bool(crowd), float(np.mean(areas)) if areas else 0.0, masks)


def _checked(segmentations: Sequence, check: Callable, known: set, where: str, key: str) -> Sequence[Mapping | None]:
    """The result of ``check(mask, where, key)`` for each mask that is present.

    Nearly all masks are alike, and checking each one closely takes longer than decoding it. So masks pass at once where
    the type of their counts and their size, as written, are among the ``known`` good ones.
    """
    try:
        present = [mask for mask in segmentations if mask]
        kinds = set(map(type, map(COUNTS, present))) | set(map(repr, map(SIZE, present)))
    except (TypeError, KeyError):
        kinds = set()
    else:
        if kinds <= known:
            return segmentations
    masks = [check(mask, where, f"{key}[{frame}]") if mask else None for frame, mask in enumerate(segmentations)]
    known |= kinds
    return masks


def _any_mask(mask: Any, where: str, key: str, frame_size: tuple[int, int]) -> Mapping:
    """Returns an RLE of either kind as it is; draws polygons at the video's size."""
    if isinstance(mask, list):
        try:
            return coco_mask.merge(coco_mask.frPyObjects(mask, *frame_size))
        # pycocotools raises whatever its conversions stumble over: Exception itself, TypeError, ValueError, KeyError.
        except Exception as error:
            raise UserError(where, key, f"is not a list of polygons ({error})",
                            "Write each as [x, y, x, y, ...] with at least three points, or use an RLE") from None
    _expect(isinstance(mask, dict) and isinstance(mask.get("counts"), (str, bytes, list, np.ndarray)), where, key,
            "is neither an RLE nor polygons", 'Write {"size": [height, width], "counts": ...}, or null where absent')
    return _with_size(mask, where, key)


def _compressed_mask(mask: Any, where: str, key: str) -> Mapping:
    remedy = 'Write {"size": [height, width], "counts": "..."} (pycocotools.mask.encode), or null where absent'
    _expect(isinstance(mask, dict), where, key, "is not an RLE (results may not hold polygons)", remedy)
    plain = isinstance(mask.get("counts"), (list, np.ndarray))
    _expect(not plain, where, f"{key}.counts", "is an uncompressed RLE, which results may not hold", remedy)
    _expect(isinstance(mask.get("counts"), (str, bytes)), where, f"{key}.counts", "is missing or not a text", remedy)
    return _with_size(mask, where, key)


def _with_size(mask: Mapping, where: str, key: str) -> Mapping:
    size = mask.get("size")
    sound = isinstance(size, (list, tuple)) and len(size) == 2 and all(_is_integer(side) and side > 0 for side in size)
    _expect(sound, where, f"{key}.size", f"is {size!r}", "Write [height, width] in pixels")
    return mask


# The types that JSON yields are checked first: a check against an abstract class takes ten times as long.
def _is_integer(value: Any) -> bool:
    return type(value) is int or (isinstance(value, Integral) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) or (isinstance(value, Real) and not isinstance(value, bool))


def _expect(holds: Any, where: str, key: str, problem: str, remedy: str) -> None:
    if not holds:
        raise UserError(where, key, problem, remedy)


def _list(item: Mapping, name: str, where: str, key: str) -> list:
    _expect(isinstance(item.get(name), (list, tuple)), where, key, "is missing" if name not in item else "is not a list",
            f"Write a list as {name}")
    return item[name]


def _identity(item: Any, name: str, where: str, key: str) -> int:
    _expect(isinstance(item, dict), where, key, "is not an object", f"Write an object with {name}")
    _expect(_is_integer(item.get(name)), where, f"{key}.{name}",
            "is missing" if name not in item else f"is {item[name]!r}, not a whole number", "Write an integer id")
    return item[name]


def _frame_size(video: Mapping, where: str, key: str) -> tuple[int, int]:
    for name in ("height", "width"):
        _expect(_is_integer(video.get(name)) and video[name] > 0, where, f"{key}.{name}",
                "is missing" if name not in video else f"is {video[name]!r}", "Write the pixels as a positive integer")
    return video["height"], video["width"]


def _score(result: Mapping, where: str, key: str) -> float:
    score = result.get("score")
    # NaN is the one number that differs from itself; infinities can be ranked, integers beyond a float cannot.
    sound = _is_number(score) and score == score and (isinstance(score, float) or abs(score) < 1e300)
    _expect(sound, where, f"{key}.score",
            "is missing" if score is None else f"is {score!r}", "Write a number")
    return float(score)
