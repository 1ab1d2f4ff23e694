"""Checks a data set and writes its index."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.frames import file_stamp
from effvis.data.index import clip_index
from effvis.data.parsing import annotation_file
from effvis.data.youtube_vis import check_split, read_split
from effvis.errors import UserError
from effvis.files import replacing_folder
from pipeline.datasets import holdout, place
from pipeline.indexing import parquet, stamps
from pipeline.indexing.read import FACTS, index_remedy, read_facts

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.data.problems import Problems
    from pipeline.indexing.stamps import SplitStamp
    from pipeline.settings.params import Params


def build(
    params: Params, progress: Callable[[int, int, str], None] | None = None, *, anew: bool = False,
    warn: Callable[[UserError], None] | None = None, test: bool = True,
) -> bool:
    """Reads and checks all splits and replaces ``params.index_folder`` with their index, all at once.

    Args:
        progress: called with (frame files checked, frame files in all, split).
        anew: ignore everything that was found earlier (``pipeline.indexing.stamps``).
        warn: called for what bends the format in files that are read.
        test: False leaves a test split out, for who is about to choose something and must not look at it.

    Returns:
        Whether anything had to be done.

    Raises:
        UserError: something is wrong with the data set (the error names the first problem), or it is not in place.
    """
    if not place.in_place(params):
        raise UserError(params.dataset_folder, "dataset", "the data set is not in place", index_remedy(params))
    wanted = holdout.splits_on_disk(params) if test else holdout.splits_needed(params)
    known = {} if anew else stamps.read(params, wanted)
    if _is_current(params, wanted, known):
        return False
    splits, frames, annotations = {}, {}, {}
    for split in wanted:
        folder = params.dataset_folder / split
        annotations[split] = _annotations(folder)
        frames[split] = {}
        splits[split] = read_split(
            folder, require_annotations=split != "val", known=known[split].frames if split in known else {},
            remember=frames[split].__setitem__, progress=_told(progress, split), warn=warn)
    used = holdout.apply(params, splits)
    _check_same_categories(params, used)
    _write(params, used)
    stamps.write(params, {
        split: stamps.SplitStamp(*annotations[split], frames[split], index.digest, _file_sizes(params, split))
        for split, index in splits.items()})
    return True


def check(params: Params, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Problems]:
    """All problems of each split. It reads everything and writes nothing.

    Args:
        progress: as in ``build``.

    Raises:
        UserError: there is no data set to check.
    """
    # In a user's own folder, the check itself reports what is missing.
    if (place.is_generated(params) or not params.dataset_folder.is_dir()) and not place.in_place(params):
        raise UserError(params.dataset_folder, "dataset", "the data set is not in place", index_remedy(params))
    found, categories = {}, {}
    for split in holdout.splits_on_disk(params):
        found[split], categories[split] = check_split(params.dataset_folder / split, require_annotations=split != "val",
                                                      progress=_told(progress, split))
    for split, listed in categories.items():
        if None not in (listed, categories["train"]) and listed != categories["train"]:
            found[split].errors.append(_other_categories(params, split))
    return found


def _told(progress: Callable[[int, int, str], None] | None, split: str) -> Callable[[int, int], None] | None:
    return progress and (lambda done, total: progress(done, total, split))


def _annotations(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    """The annotations' file of a split, and its stamp before it is read."""
    file = annotation_file(folder)
    return file, file_stamp(file)


def _is_current(params: Params, wanted: Sequence[str], known: dict[str, SplitStamp]) -> bool:
    """Whether the index is there and whole, and belongs to these parameters and to the present data set."""
    # The held-out videos depend on more than a split's files.
    if params.holdout is not None or set(known) != set(wanted):
        return False
    try:
        facts = read_facts(params)
        return set(facts["splits"]) == set(wanted) and all(
            facts["splits"][split]["digest"] == stamp.digest and _file_sizes(params, split) == stamp.index_files
            and stamps.unchanged(stamp, params.dataset_folder / split) for split, stamp in known.items())
    except (UserError, OSError):
        return False


def _file_sizes(params: Params, split: str) -> dict[str, int]:
    """Sizes in bytes of the files of a split's index that the parameters ask for."""
    files = parquet.files(params.index_folder / split, _clip_lengths(params))
    return {file.name: file.stat().st_size for file in files}


def _clip_lengths(params: Params) -> list[int]:
    return sorted(set(params.index.clip_lengths))


def _write(params: Params, splits: dict[str, DatasetIndex]) -> None:
    with replacing_folder(params.index_folder) as folder:
        for split, index in splits.items():
            (folder / split).mkdir()
            parquet.write_split(index, folder / split)
            for clip_length in _clip_lengths(params):
                parquet.write_clips(clip_index(index, clip_length), index, folder / split)
        text = json.dumps(_facts(params, splits), indent=1) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")
        holdout.write(params, splits, folder)


def _facts(params: Params, splits: dict[str, DatasetIndex]) -> dict:
    combined = hashlib.sha256("".join(index.digest for index in splits.values()).encode()).hexdigest()
    return {
        "name": params.dataset_name,
        "source": place.describe(params),
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


def _check_same_categories(params: Params, splits: dict[str, DatasetIndex]) -> None:
    for split, index in splits.items():
        if index.categories != splits["train"].categories:
            raise _other_categories(params, split)


def _other_categories(params: Params, split: str) -> UserError:
    return UserError(params.dataset_folder / split, "categories", "not the categories of train, in their order",
                     "List the same categories with the same ids in both splits")
