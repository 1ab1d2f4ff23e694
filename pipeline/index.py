"""Checks the data set and writes its index: frames, instances, clips and clip pairs as Parquet, one digest per split.

The first thing that is wrong with the data set ends it, named with its file and key, and leaves an earlier index as it was.
--check writes nothing and lists everything that is wrong, also what indexing does not mind: boxes that are not those of
their masks, which are computed anew. It exits with 2 if there is anything.

What has not changed since it was last indexed is not read again: --anew reads everything.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import download

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.data.index import ClipIndex
    from effvis.data.problems import Problems
    from pipeline.config import Params
    from pipeline.stamps import SplitStamp

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


def build(params: Params, progress: Callable[[int, int, str], None] | None = None, *, anew: bool = False) -> bool:
    """Reads and checks both splits and replaces ``params.index_folder`` with their index, as a whole.

    Args:
        progress: called with (frame files checked, frame files in all, split).
        anew: believe nothing that was found earlier (``pipeline.stamps``).

    Returns:
        Whether anything had to be done.

    Raises:
        UserError: the first thing that is wrong with the data set, or it is not in place.
    """
    from effvis.data.youtube_vis import read_split
    from pipeline import holdout, stamps

    if not download.in_place(params):
        raise UserError(params.dataset_folder, "dataset", "the data set is not in place", _remedy(params))
    known = {} if anew else stamps.read(params, holdout.splits_needed(params))
    if _is_current(params, known):
        return False
    splits, frames, annotations = {}, {}, {}
    for split in holdout.splits_needed(params):
        folder = params.dataset_folder / split
        annotations[split] = _annotations(folder)
        frames[split] = {}
        splits[split] = read_split(
            folder, require_annotations=split == "train", known=known[split].frames if split in known else {},
            remember=frames[split].__setitem__, progress=_told(progress, split))
    used = holdout.apply(params, splits)
    _check_same_categories(params, used)
    _write(params, used)
    stamps.write(params, {
        split: stamps.SplitStamp(*annotations[split], frames[split], index.digest, _file_sizes(params, split))
        for split, index in splits.items()})
    return True


def check(params: Params, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Problems]:
    """All that is wrong with each split. Everything is read, nothing is written.

    Args:
        progress: as in ``build``.

    Raises:
        UserError: there is no data set to check.
    """
    from effvis.data.youtube_vis import check_split
    from pipeline import holdout

    # Of a user's folder, what is missing in it is for the check to say.
    if (download.is_generated(params) or not params.dataset_folder.is_dir()) and not download.in_place(params):
        raise UserError(params.dataset_folder, "dataset", "the data set is not in place", _remedy(params))
    found, categories = {}, []
    for split in holdout.splits_needed(params):
        found[split], listed = check_split(params.dataset_folder / split, require_annotations=split == "train",
                                           progress=_told(progress, split))
        categories.append(listed)
    if None not in categories and categories[0] != categories[-1]:
        found["val"].errors.append(_other_categories(params))
    return found


def _told(progress: Callable[[int, int, str], None] | None, split: str) -> Callable[[int, int], None] | None:
    return progress and (lambda done, total: progress(done, total, split))


def _annotations(folder: Path) -> tuple[Path, tuple[int, int, int]]:
    """The annotations of a split, and their stamp before they are read."""
    from effvis.data.frames import file_stamp
    from effvis.data.parsing import annotation_file

    file = annotation_file(folder)
    return file, file_stamp(file)


def _is_current(params: Params, known: dict[str, SplitStamp]) -> bool:
    """Whether the index is there and whole, of these parameters, and of the data set as it is."""
    from pipeline import stamps

    # What is held out depends on more than a split's files.
    if params.holdout is not None or set(known) != set(download.SPLITS):
        return False
    try:
        facts = _read_facts(params)
        return all(
            facts["splits"][split]["digest"] == stamp.digest and _file_sizes(params, split) == stamp.index_files
            and stamps.unchanged(stamp, params.dataset_folder / split) for split, stamp in known.items())
    except (UserError, OSError):
        return False


def _file_sizes(params: Params, split: str) -> dict[str, int]:
    """Of the files of a split's index that the parameters ask for, in bytes."""
    from pipeline import parquet

    files = parquet.files(params.index_folder / split, _clip_lengths(params))
    return {file.name: file.stat().st_size for file in files}


def _clip_lengths(params: Params) -> list[int]:
    return sorted(set(params.index.clip_lengths))


def _write(params: Params, splits: dict[str, DatasetIndex]) -> None:
    from effvis.data.atomic import replacing_folder
    from effvis.data.index import clip_index
    from pipeline import holdout, parquet

    with replacing_folder(params.index_folder) as folder:
        for split, index in splits.items():
            (folder / split).mkdir()
            parquet.write_split(index, folder / split)
            for clip_length in _clip_lengths(params):
                parquet.write_clips(clip_index(index, clip_length), index, folder / split)
        text = json.dumps(_facts(params, splits), indent=1) + "\n"
        (folder / FACTS).write_text(text, encoding="utf-8")
        holdout.write(params, splits, folder)


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
        stat = file.stat()
        facts = _parsed(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
    except OSError:
        raise UserError(file, "(file)", f"{params.dataset_name} is not indexed", _remedy(params)) from None
    except ValueError:
        raise UserError(file, "(file)", "unreadable JSON", _remedy(params)) from None
    if facts["source"] != download.describe(params):
        raise UserError(file, "source", "this index is of another data set than the parameters say", _remedy(params))
    return facts


@cache
def _parsed(file: Path, version: tuple[int, ...]) -> dict:
    """Once per version of the file: it lists all videos, and every row of a grid asks for it."""
    return json.loads(file.read_text(encoding="utf-8"))


def _remedy(params: Params) -> str:
    return f"Run python -m pipeline.download -S dataset={params.dataset}, then pipeline.index with the same"


def _check_same_categories(params: Params, splits: dict[str, DatasetIndex]) -> None:
    if splits["train"].categories != splits["val"].categories:
        raise _other_categories(params)


def _other_categories(params: Params) -> UserError:
    return UserError(params.dataset_folder / "val", "categories", "not the categories of train, in their order",
                     "List the same categories with the same ids in both splits")


def _print_problems(found: dict[str, Problems], as_json: bool) -> int:
    """Prints all problems, a line each or as JSON, and returns how many there are."""
    problems = [(split, severity, error) for split, of_split in found.items()
                for severity, errors in (("error", of_split.errors), ("warning", of_split.warnings)) for error in errors]
    if as_json:
        print(json.dumps({"problems": [
            {"split": split, "severity": severity, "file": error.where, "key": error.key, "problem": error.problem,
             "remedy": error.remedy} for split, severity, error in problems]}, indent=1))
    else:
        for _, severity, error in problems:
            print(f"{severity}: " + " ".join(str(error).split()))
    return len(problems)


def main(argv: list[str] | None = None) -> int:
    from pathlib import Path

    from pipeline import cli

    parser = cli.parser(__doc__, "pipeline.index")
    parser.add_argument("--check", action="store_true", help="list all problems and write nothing")
    parser.add_argument("--json", action="store_true", help="with --check: print them as JSON")
    parser.add_argument("--anew", action="store_true", help="read also what has not changed since it was last indexed")
    parser.add_argument("--statistics", type=Path, metavar="FILE.html",
                        help="also write a page on the data set: lengths, instances, where correspondence is learned")
    args = parser.parse_args(argv)
    if args.json and not args.check:
        parser.error("--json goes with --check")
    if args.check and (args.anew or args.statistics):
        parser.error("--check reads everything and writes nothing: leave out --anew and --statistics")
    from pipeline import holdout
    from pipeline.config import load_params

    params = load_params(args.params, args.set)
    with cli.progress_bar("checking frames") as progress:
        if args.check:
            found = check(params, progress)
        else:
            done = build(params, progress, anew=args.anew)
    if args.check:
        count = _print_problems(found, args.json)
        print(f"{params.dataset_folder}: {count or 'no'} problem{'s' * (count != 1)}", file=sys.stderr)
        return cli.EXIT_USER_ERROR if count else 0
    splits = _read_facts(params)["splits"]
    for split, entry in splits.items():
        print(f"{split}: {len(entry['videos'])} videos, {entry['frames']} frames, {entry['instances']} instances, "
              f"digest {entry['digest'][:12]}{'' if done else ', unchanged'}", file=sys.stderr)
    for remark in holdout.remarks(params, splits["val"]["instances"]):
        print(remark, file=sys.stderr)
    if args.statistics:
        from pipeline.statistics import write_page

        write_page(params, args.statistics)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
