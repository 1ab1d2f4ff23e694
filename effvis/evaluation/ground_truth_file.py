"""Ground truth as exporters write it, brought into the form that the evaluator takes.

The evaluator takes what the official one takes. What the reader of data sets understands beside the format
(``effvis.data.json_reader``) is rewritten here, and a file that bends nothing stays as it is. This is apart from the
evaluator, because the keys of evaluations depend on how masks are compared, not on how a file is understood.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effvis.data import masks
from effvis.data.json_reader import JsonReader
from effvis.data.problems import Problems
from effvis.data.variants import BYTES_NOTATION, is_nothing, shows_nothing
from effvis.errors import UserError
from effvis.evaluation import rle_json

UNNAMED = "ground truth"  # how the evaluator's messages call a ground truth that is no file


@dataclass(frozen=True)
class GroundTruthFile:
    """A file's content in the evaluator's form.

    Attributes:
        content: ``{videos, categories, annotations}``.
        warnings: one line for each way in which the file bends the format.
    """

    file: Path
    content: dict[str, Any]
    warnings: list[str]

    @contextlib.contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """The evaluator's errors about the content name the file."""
        try:
            yield
        except UserError as error:
            where = str(self.file) if error.where == UNNAMED else error.where
            raise UserError(where, error.key, self.named(error.problem), error.remedy) from None

    def named(self, message: str) -> str:
        """One of the evaluator's messages about the content, with the file's name."""
        return message.replace(UNNAMED, str(self.file))


def read_ground_truth_file(file: Path) -> GroundTruthFile:
    """Reads ``{videos, categories, annotations}``; what is wrong in another way than the kinds understood is left to the
    evaluator.

    Raises:
        UserError: the file cannot be read or holds no JSON object, a number is not finite, or an annotation contradicts
            itself.
    """
    try:
        reader = _Reader(file, Problems(), format="YouTube-VIS", loads=rle_json.loads)
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read ({error.strerror})", "Give the ground truth as a JSON file") from None
    annotations = reader.content.get("annotations")
    if is_nothing(annotations):
        annotations = []
        reader.bend("annotations", "no ground truth, so that every number is undefined",
                    "Score on a split whose annotations are published")
    elif isinstance(annotations, list):
        annotations = reader.annotations(annotations)
    content = reader.content | {"annotations": annotations}
    return GroundTruthFile(file, content, [str(bend) for bend in reader.problems.bent])


class _Reader(JsonReader):
    """Rewrites annotations; it never changes what it has read."""

    def annotations(self, entries: list) -> list:
        videos = self.content.get("videos")
        numbers = {video["id"]: number for number, video in enumerate(videos if isinstance(videos, list) else [])
                   if isinstance(video, dict) and type(video.get("id")) is int}
        return [self.annotation(entry, f"annotations[{i}]", numbers) if isinstance(entry, dict) else entry
                for i, entry in enumerate(entries)]

    def annotation(self, entry: dict, place: str, video_numbers: dict[int, int]) -> dict:
        """The entry in the evaluator's form; ``video_numbers`` are the places of the videos by id."""
        if type(entry.get("iscrowd")) is not int:
            entry = entry | {"iscrowd": int(self.crowd(entry, place))}
        self.check_numbers(entry.get("areas"), f"{place}.areas")
        if not isinstance(entry.get("segmentations"), list):
            return entry
        entry = entry | {"segmentations": self.segmentations(entry, place)}
        self.note_boxes_alone(entry.get("bboxes"), entry["segmentations"], place)
        # A list of nothing is an area of 0 for the official evaluator, which a mask contradicts.
        areas, video_id = entry.get("areas"), entry.get("video_id")
        lacking = is_nothing(areas) or (isinstance(areas, list) and not any(areas))
        if lacking and type(video_id) is int and video_id in video_numbers:
            entry = entry | {"areas": self.areas(entry["segmentations"], place, video_numbers[video_id])}
        return entry

    def segmentations(self, entry: dict, place: str) -> list:
        """The masks, None where the instance is absent."""
        found = list(entry["segmentations"])
        for frame, mask in enumerate(found):
            if mask is not None and not _is_plain(mask):
                key = f"{place}.segmentations[{frame}]"
                if shows_nothing(mask):
                    self.check_unseen(entry, frame, key, mask)
                    found[frame] = None
                else:
                    found[frame] = self.plain_mask(mask, key)
        return found

    def areas(self, segmentations: Sequence[Any], place: str, video_number: int) -> list[int | None]:
        """The pixels of the mask in each frame, None where there is none."""
        areas: list[int | None] = [None] * len(segmentations)
        seen = [frame for frame, mask in enumerate(segmentations) if mask]
        if seen:
            self.bend(f"{place}.areas", "no areas, computed from the masks", "Write the pixels of the mask in each frame")
            video = self.content["videos"][video_number]
            height, width = (self.size(video, side, f"videos[{video_number}]") for side in ("height", "width"))
            rles = [self.mask(_listed(segmentations[frame]), f"{place}.segmentations[{frame}]", height, width)
                    for frame in seen]
            for frame, area in zip(seen, masks.pixel_counts(rles).tolist(), strict=True):
                areas[frame] = area
        return areas


def _is_plain(mask: Any) -> bool:
    """Whether it is an RLE as the format has it; this is asked of every mask, and most are."""
    counts = mask.get("counts") if isinstance(mask, dict) else None
    if isinstance(counts, str):
        return counts[:2] not in ("", *BYTES_NOTATION)
    return isinstance(counts, list | np.ndarray) and len(counts) > 0


def _listed(mask: Any) -> Any:
    """The mask with run lengths that are an array as a list."""
    is_array = isinstance(mask, dict) and isinstance(mask.get("counts"), np.ndarray)
    return mask | {"counts": mask["counts"].tolist()} if is_array else mask
