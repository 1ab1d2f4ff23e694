"""Checks the data set and writes its index: frames, instances, clips and clip pairs as Parquet, one digest per split.

Whatever is wrong with the data set is found here, before anything trains on it, and is named with its file and key.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import download

if TYPE_CHECKING:
    from effvis.data.dataset import Category, DatasetIndex
    from effvis.data.index import ClipIndex
    from pipeline.config import Params

FACTS = "dataset.json"


@dataclass(frozen=True)
class DatasetFacts:
    """What a plan needs to know of the data, without reading the tables.

    Attributes:
        categories: their names, in the order of the labels.
        digests: per split.
        longest_video: in frames, per split.
    """

    name: str
    categories: tuple[str, ...]
    digests: dict[str, str]
    longest_video: dict[str, int]


def build(params: Params, progress: Callable[[int, int, str], None] | None = None) -> dict[str, DatasetIndex]:
    """Reads and checks both splits and replaces ``params.index_folder`` with their index, as a whole.

    Args:
        progress: called with (frame files checked, frame files in all, split).

    Returns:
        The index of each split.

    Raises:
        UserError: the first thing that is wrong with the data set, or it is not in place.
    """
    from effvis.data.atomic import replacing_folder
    from effvis.data.index import clip_index
    from effvis.data.youtube_vis import read_split
    from pipeline import holdout, parquet

    if not download.in_place(params):
        raise UserError(params.dataset_folder, "dataset", "the data set is not in place", _remedy(params))
    splits = {}
    for split in holdout.splits_needed(params):
        def told(done: int, total: int, split: str = split) -> None:
            if progress:
                progress(done, total, split)

        splits[split] = read_split(params.dataset_folder / split, require_annotations=split == "train", progress=told)
    splits = holdout.apply(params, splits)
    _check_same_categories(params, splits)
    with replacing_folder(params.index_folder) as folder:
        for split, index in splits.items():
            (folder / split).mkdir()
            parquet.write_split(index, folder / split)
            for clip_length in sorted(set(params.index.clip_lengths)):
                parquet.write_clips(clip_index(index, clip_length), index, folder / split)
        text = json.dumps(_facts(params, splits), indent=1) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")
        holdout.write(params, splits, folder)
    return splits


def dataset_facts(params: Params) -> DatasetFacts:
    """The facts of the indexed data set.

    Raises:
        UserError: it is not indexed, or the index is of another data set than the parameters say.
    """
    facts = _read_facts(params)
    splits = facts["splits"]
    return DatasetFacts(
        facts["name"], tuple(category["name"] for category in facts["categories"]),
        {split: entry["digest"] for split, entry in splits.items()},
        {split: entry["longest_video"] for split, entry in splits.items()})


def dataset_digest(params: Params) -> str:
    """Of both splits together."""
    return _read_facts(params)["digest"]


def load_index(params: Params, split: str) -> DatasetIndex:
    """A split as it was read and checked by ``build``, from its tables.

    Raises:
        UserError: as ``dataset_facts``.
    """
    from effvis.data.dataset import Category, DatasetIndex, Video
    from pipeline import parquet

    facts = _read_facts(params)
    entry, folder = facts["splits"][split], params.index_folder / split
    rows = entry["videos"]
    names = parquet.read_file_names(folder, [row["length"] for row in rows])
    videos = tuple(Video(row["id"], row["height"], row["width"], row["fps"], files)
                   for row, files in zip(rows, names, strict=True))
    categories = tuple(Category(category["id"], category["name"]) for category in facts["categories"])
    return DatasetIndex(params.dataset_folder / entry["images"], entry["digest"], categories, videos,
                        parquet.read_tracks(folder, videos))


def load_clips(params: Params, split: str, clip_length: int) -> ClipIndex:
    """The clips of a split: from the tables, or, for a length that was not indexed, made from the index.

    Making them takes some 10 ms; they are not added to the tables, which are the output of one command as a whole.

    Raises:
        UserError: as ``dataset_facts``.
    """
    from effvis.data.index import clip_index
    from pipeline import parquet

    folder = params.index_folder / split
    if all(file.is_file() for file in parquet.clip_files(folder, clip_length)):
        _read_facts(params)
        return parquet.read_clips(folder, clip_length)
    return clip_index(load_index(params, split), clip_length)


def _facts(params: Params, splits: dict[str, DatasetIndex]) -> dict:
    import hashlib

    combined = hashlib.sha256("".join(index.digest for index in splits.values()).encode()).hexdigest()
    return {
        "name": params.dataset_name,
        "source": download.describe(params),
        "digest": combined,
        "categories": [{"id": category.id, "name": category.name} for category in splits["train"].categories],
        "splits": {split: {
            "digest": index.digest,
            "images": str(index.images.relative_to(params.dataset_folder)),
            "longest_video": index.longest_video,
            "frames": sum(video.length for video in index.videos),
            "instances": len(index.tracks),
            "videos": [{"id": video.id, "height": video.height, "width": video.width, "fps": video.fps,
                        "length": video.length} for video in index.videos],
        } for split, index in splits.items()},
    }


def _read_facts(params: Params) -> dict:
    file = params.index_folder / FACTS
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(file, "(file)", f"{params.dataset_name} is not indexed", _remedy(params)) from None
    except ValueError:
        raise UserError(file, "(file)", "unreadable JSON", _remedy(params)) from None
    if facts["source"] != download.describe(params):
        raise UserError(file, "source", "this index is of another data set than the parameters say", _remedy(params))
    return facts


def _remedy(params: Params) -> str:
    return f"Run python -m pipeline.download -S dataset={params.dataset}, then pipeline.index with the same"


def _check_same_categories(params: Params, splits: dict[str, DatasetIndex]) -> None:
    def listed(categories: tuple[Category, ...]) -> list[tuple[int, str]]:
        return [(category.id, category.name) for category in categories]

    if listed(splits["train"].categories) != listed(splits["val"].categories):
        raise UserError(params.dataset_folder / "val", "categories", "not the categories of train, in their order",
                        "List the same categories with the same ids in both splits")


def main(argv: list[str] | None = None) -> int:
    from pipeline import cli

    args = cli.parser(__doc__, "pipeline.index").parse_args(argv)
    from pipeline import holdout
    from pipeline.config import load_params

    params = load_params(args.params, args.set)
    with cli.progress_bar("checking frames") as progress:
        splits = build(params, progress)
    for split, index in splits.items():
        frames = sum(video.length for video in index.videos)
        print(f"{split}: {len(index.videos)} videos, {frames} frames, {len(index.tracks)} instances, "
              f"digest {index.digest[:12]}", file=sys.stderr)
    for remark in holdout.remarks(params, splits):
        print(remark, file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
