"""The splits of a data set, and the training videos that ``holdout`` sets aside to validate on, with the file that lists them.

The official validation splits come without instances, so only a competition's server can score them.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import Field, StrictInt, field_validator

from effvis.config import Config
from effvis.data.holdout import choose, divide, keep_videos, videos_by_category
from effvis.data.parsing import annotation_file
from effvis.errors import UserError
from effvis.evaluation.ground_truth_file import read_ground_truth_file
from pipeline.system.models import read_model

if TYPE_CHECKING:
    from pathlib import Path

    from effvis.data.dataset import DatasetIndex
    from pipeline.settings.params import Params

TEST = "test"
FILE = "holdout.json"  # in the index's folder
_REMEDY = f"Give as holdout.file a {FILE} as pipeline.index writes it, or {{\"val\": [{{\"id\": 7}}]}}"
_LEFT_OUT_REMEDY = f"Give as holdout.without a {FILE} as pipeline.index writes it for this data set"
_INDEX_REMEDY = "Index the data set anew: python -m pipeline.index"


class HeldOutVideo(Config):
    """A listed video; ``first_frame`` shows whether it belongs to this data set."""

    id: StrictInt
    first_frame: str | None = Field(None, exclude_if=lambda name: name is None)


class HoldoutFile(Config):
    """The file of held-out videos; everything except ``val`` is for people."""

    dataset: str | None = Field(None, exclude_if=lambda name: name is None)
    fraction: float | None = Field(None, exclude_if=lambda fraction: fraction is None)
    seed: int | None = Field(None, exclude_if=lambda seed: seed is None)
    videos_by_category: dict[str, dict[str, int]] = Field({}, description="category: split: videos that show it")
    val: tuple[HeldOutVideo, ...] = Field(min_length=1)

    @field_validator("val")
    @classmethod
    def _each_once(cls, val: tuple[HeldOutVideo, ...]) -> tuple[HeldOutVideo, ...]:
        video, count = Counter(video.id for video in val).most_common(1)[0]
        if count > 1:
            raise ValueError(f"video {video} is listed {count} times")
        return val


def splits_needed(params: Params) -> tuple[str, ...]:
    """The splits that the data set needs on disk."""
    return ("train", "val") if params.holdout is None else ("train",)


def splits_on_disk(params: Params) -> tuple[str, ...]:
    """The splits that the data set needs, and test if it has instances: a server's test split is of no use here."""
    return (*splits_needed(params), *((TEST,) if _lists_instances(annotation_file(params.dataset_folder / TEST)) else ()))


def _lists_instances(file: Path | None) -> bool:
    """Whether annotations list an instance. Unreadable ones count as if they did: who reads them says what is wrong."""
    if file is None:
        return False
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return True
    return not isinstance(content, dict) or bool(content.get("annotations"))


def describe(params: Params) -> dict[str, Any]:
    """The facts that an index depends on besides the data set; empty without a holdout.

    Raises:
        UserError: the holdout's file is wrong.
    """
    if params.holdout is None:
        return {}
    if params.holdout_file is not None:
        return {"holdout": {"videos": sorted(_listed(params.holdout_file))}}
    facts = params.holdout.model_dump(include={"fraction", "seed"})
    if params.left_out_file is not None:
        facts["without"] = sorted(_listed(params.left_out_file, _LEFT_OUT_REMEDY))
    return {"holdout": facts}


def apply(params: Params, splits: dict[str, DatasetIndex]) -> dict[str, DatasetIndex]:
    """The splits as they were read or, with a holdout, the two parts of the training split, to train on and to validate on.
    A test split stays as it is.

    Raises:
        UserError: the holdout's file belongs to another data set, or nothing would be left to train or to validate on.
    """
    if params.holdout is None:
        return splits

    train = _not_left_out(params, splits["train"])
    file = params.holdout_file
    if file is None:
        where, key = params.root / "params.yaml", "holdout.fraction"
        held_out = choose(train, params.holdout.fraction, params.holdout.seed)
    else:
        where, key = file, "val"
        held_out = _of_this_data_set(file, _listed(file), train)
    left, validation = divide(train, held_out)
    if not validation.videos or not left.tracks:
        raise UserError(where, key, f"holds out {len(held_out)} of {len(train.videos)} videos",
                        "Leave some with instances to train on, and some to validate on")
    return splits | {"train": left, "val": validation}


def write(params: Params, splits: dict[str, DatasetIndex], folder: Path) -> None:
    """Writes the list of held-out videos into ``folder``, in the form of ``holdout.file``, if there is a holdout."""
    if params.holdout is None:
        return

    counts = {split: videos_by_category(splits[split]) for split in ("train", "val")}
    content = HoldoutFile(
        dataset=params.dataset_folder.resolve().name,
        **({} if params.holdout_file else params.holdout.model_dump(include={"fraction", "seed"})),
        videos_by_category={name: {split: counts[split][name] for split in counts} for name in counts["train"]},
        val=[HeldOutVideo(id=video.id, first_frame=video.file_names[0]) for video in splits["val"].videos],
    )
    (folder / FILE).write_text(json.dumps(content.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")


def ground_truth(params: Params, index: DatasetIndex) -> dict[str, Any]:
    """The annotations of a split's videos, in the evaluator's form.

    Args:
        index: the index of the split; with a holdout, val is some of the videos of train.
    """
    folder = index.images.parent
    annotations = read_ground_truth_file(annotation_file(folder)).content
    if params.holdout is None or folder.name == TEST:
        return annotations
    return keep_videos(annotations, {video.id for video in index.videos})


def remarks(params: Params, instances: int) -> list[str]:
    """Warnings about the videos to be scored for users who are about to train for hours, from the files of the index.

    Args:
        instances: the number of instances in the validation videos.
    """
    test = params.dataset_folder / TEST
    left_out = [] if not test.is_dir() or TEST in splits_on_disk(params) else [f"{test} has no instances and is left out"]
    return [*_remarks_on_val(params, instances), *left_out]


def _remarks_on_val(params: Params, instances: int) -> list[str]:
    if not instances:
        return ["val has no instances, so that nothing can be scored on it here. Hold some training videos out: "
                "-S holdout.fraction=0.1 (docs/datasets.md)"]
    if params.holdout is None:
        return []
    file = params.index_folder / FILE
    counts = read_model(HoldoutFile, file, _INDEX_REMEDY).videos_by_category
    missing = [name for name, count in counts.items() if count["val"] == 0]
    unscored = f"no video held out shows {', '.join(missing)}: these count in no score"
    return [f"held out: {file}", *([unscored] if missing else [])]


def _not_left_out(params: Params, train: DatasetIndex) -> DatasetIndex:
    """The videos that are not listed in ``holdout.without``."""
    file = params.left_out_file
    if file is None:
        return train
    listed = _listed(file, _LEFT_OUT_REMEDY)
    return divide(train, _of_this_data_set(file, listed, train))[0]


def _listed(file: Path, remedy: str = _REMEDY) -> dict[int, str | None]:
    """First frames by video id; None if the file does not name the frame."""
    return {video.id: video.first_frame for video in read_model(HoldoutFile, file, remedy).val}


def _of_this_data_set(file: Path, listed: dict[int, str | None], index: DatasetIndex) -> frozenset[int]:
    first_frames = {video.id: video.file_names[0] for video in index.videos}
    for i, (number, frame) in enumerate(listed.items()):
        if first_frames.get(number) != (frame or first_frames.get(number)) or number not in first_frames:
            known = f"starts with {first_frames[number]}, not with {frame}" if number in first_frames else "is none of it"
            raise UserError(file, f"val.{i}", f"is not of this data set: video {number} {known}",
                            "Give the file that was written for this data set")
    return frozenset(listed)
