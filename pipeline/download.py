"""Puts the data set in place: draws shapes-vis, or checks that a folder in the YouTube-VIS format is there.

A generated data set is drawn into data/<name>, unless the same one is there already. A folder of your own is only
looked at. Either way data/source/<name>.json says what was taken; pipeline.index works from that.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params

SPLITS = ("train", "val")


def source_file(params: Params) -> Path:
    """Says what was taken as the data set."""
    return params.data_dir / "source" / f"{params.dataset_name}.json"


def is_generated(params: Params) -> bool:
    from pipeline.settings import GENERATED_DATASETS

    return params.dataset in GENERATED_DATASETS


def take(params: Params, progress: Callable[[int, int], None] | None = None) -> bool:
    """Draws the data set where that is needed, and writes ``source_file``.

    Args:
        progress: called with (videos drawn, videos in all).

    Returns:
        Whether anything was drawn.

    Raises:
        UserError: the folder is not there or has not both splits, or something else is in the way.
    """
    from effvis.data.atomic import replacing_file

    drawn = is_generated(params) and _draw(params, progress)
    source = describe(params)
    if source != _read_source(params):
        with replacing_file(source_file(params)) as file:
            file.write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
    return drawn


def recorded(params: Params) -> dict | None:
    """What is to be taken as the data set, by the parameters for a generated one, else by what ``take`` found last;
    None if it found nothing yet. Looks at no frame."""
    return describe(params) if is_generated(params) else _read_source(params)


def taken(params: Params) -> dict | None:
    """What ``take`` wrote, if the data set is still just that; else None.

    Raises:
        UserError: as ``describe``.
    """
    from effvis.data import shapes

    source = describe(params)
    in_place = not is_generated(params) or shapes.is_written(params.shapes, params.dataset_folder)
    return source if in_place and source == _read_source(params) else None


def _read_source(params: Params) -> dict | None:
    try:
        return json.loads(source_file(params).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _draw(params: Params, progress: Callable[[int, int], None] | None) -> bool:
    from effvis.data import shapes

    folder = params.dataset_folder
    if shapes.is_written(params.shapes, folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / shapes.STAMP).is_file():
        raise UserError(folder, "dataset", "this folder was not drawn by this command, and would be replaced",
                        "Move it away, or set data_dir to another folder")
    shapes.write(params.shapes, folder, progress)
    return True


def describe(params: Params) -> dict:
    """What the data set is, as JSON values: the recipe of a generated one, the files of a folder.

    Raises:
        UserError: the folder is not there, or has not both splits.
    """
    if is_generated(params):
        from effvis.data import shapes

        return {"dataset": params.dataset_name, "kind": "generated", **shapes.describe(params.shapes)}
    folder = params.dataset_folder
    if not folder.is_dir():
        raise UserError(params.root / "params.yaml", "dataset", f"no such folder: {folder}",
                        "Give shapes-vis, or a folder in the YouTube-VIS format (with train/ and val/)")
    return {"dataset": params.dataset_name, "kind": "folder", "folder": params.dataset,
            "splits": {split: _describe_split(folder / split) for split in SPLITS}}


def _describe_split(folder: Path) -> dict:
    """The annotations' digest, and one of all frames' names, sizes and times of change: quick, and new when they are."""
    from effvis.data.parsing import IMAGES, annotation_file

    if not folder.is_dir():
        raise UserError(folder, "dataset", "no such folder",
                        "A data set has the folders train and val, each with JPEGImages/ and instances.json")
    annotations = annotation_file(folder)
    if annotations is None:
        raise UserError(folder, "dataset", "no instances.json in it", "Put the annotations of this split there")
    listing, count = hashlib.sha256(), 0
    for parent, folders, names in os.walk(folder / IMAGES):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            state = os.stat(path, follow_symlinks=False)
            listing.update(f"{os.path.relpath(path, folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
            count += 1
    with annotations.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"annotations": annotations.name, "annotations_sha256": digest, "frame_files": count,
            "frame_listing_sha256": listing.hexdigest()}


def main(argv: list[str] | None = None) -> int:
    from pipeline import cli

    args = cli.parser(__doc__, "pipeline.download").parse_args(argv)
    from pipeline.config import load_params

    params = load_params(args.params, args.set)
    with cli.progress_bar("drawing videos") as progress:
        drawn = take(params, progress)
    done = "drawn" if drawn else "already there" if is_generated(params) else "found"
    print(f"{params.dataset_name}: {done}, {params.dataset_folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
