"""Reads the index of a data set, and the facts from which keys are made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.dataset import Category, DatasetIndex, Video
from effvis.data.index import clip_index
from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.indexing import parquet

if TYPE_CHECKING:
    from effvis.data.index import ClipIndex
    from pipeline.settings.params import Params


FACTS = "dataset.json"


@dataclass(frozen=True)
class DatasetFacts:
    """The facts about the data that a plan needs, without the tables.

    Attributes:
        categories: the categories' names, in the order of the labels.
        digests: the digest of each split.
        longest_video: the length of each split's longest video, in frames.
    """

    name: str
    categories: tuple[str, ...]
    digests: dict[str, str]
    longest_video: dict[str, int]


def dataset_facts(params: Params) -> DatasetFacts:
    """The facts of the indexed data set.

    Raises:
        UserError: the data set is not indexed, or the index belongs to another data set than the parameters name.
    """
    facts = read_facts(params)
    splits = facts["splits"]
    return DatasetFacts(
        facts["name"], tuple(category["name"] for category in facts["categories"]),
        {split: entry["digest"] for split, entry in splits.items()},
        {split: entry["longest_video"] for split, entry in splits.items()})


def measured_split(params: Params) -> str:
    """The split that tables, the headline run and ``pipeline.evaluate`` are measured on: val or test.

    It is what ``split`` says; if that says nothing, test where the data set has one with instances, otherwise val.

    Raises:
        UserError: for the reasons of ``dataset_facts``, or the data set has no such split.
    """
    splits = read_facts(params)["splits"]
    wanted = params.split or ("test" if "test" in splits else "val")
    if wanted not in splits:
        give = ("Set shapes.test_videos, and run pipeline.download" if place.is_generated(params) else
                "Put JPEGImages/ and an instances.json with instances there")
        raise UserError(params.dataset_folder / wanted, "split", f"the index of {params.dataset_name} has no such split",
                        f"{give} and python -m pipeline.index; or leave split out, and val is measured")
    return wanted


def dataset_digest(params: Params) -> str:
    """Digest of all splits."""
    return read_facts(params)["digest"]


def load_index(params: Params, split: str) -> DatasetIndex:
    """A split as ``build`` read and checked it, from its tables.

    Raises:
        UserError: for the reasons of ``dataset_facts``.
    """
    facts = read_facts(params)
    entry, folder = facts["splits"][split], params.index_folder / split
    rows = entry["videos"]
    names = parquet.read_file_names(folder, [row["length"] for row in rows])
    videos = tuple(Video(row["id"], row["height"], row["width"], row["fps"], files)
                   for row, files in zip(rows, names, strict=True))
    categories = tuple(Category(category["id"], category["name"]) for category in facts["categories"])
    return DatasetIndex(params.dataset_folder / entry["images"], entry["digest"], categories, videos,
                        parquet.read_tracks(folder, videos))


def load_clips(params: Params, split: str, clip_length: int) -> ClipIndex:
    """The clips of a split, from the tables or, for a length that is not indexed, made from the index.

    Making them takes some 10 ms. They are not added to the tables, because one command writes all tables.

    Raises:
        UserError: for the reasons of ``dataset_facts``.
    """
    folder = params.index_folder / split
    if all(file.is_file() for file in parquet.clip_files(folder, clip_length)):
        read_facts(params)
        return parquet.read_clips(folder, clip_length)
    return clip_index(load_index(params, split), clip_length)


def read_facts(params: Params) -> dict:
    file = params.index_folder / FACTS
    try:
        stat = file.stat()
        facts = _parsed(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError:
        raise UserError(file, "(file)", f"{params.dataset_name} is not indexed", index_remedy(params)) from None
    except ValueError:
        raise UserError(file, "(file)", "unreadable JSON", index_remedy(params)) from None
    if facts["source"] != place.describe(params):
        raise UserError(file, "source", "this index is of another data set than the parameters say", index_remedy(params))
    return facts


@cache
def _parsed(file: Path, version: tuple[int, ...]) -> dict:
    """The content of the file, parsed once per version: it lists all videos, and every row of a grid asks for it."""
    return json.loads(file.read_text(encoding="utf-8"))


def index_remedy(params: Params) -> str:
    return f"Run python -m pipeline.download -S dataset={params.dataset}, then pipeline.index with the same"
