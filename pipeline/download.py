"""Puts the data set in place: draws shapes-vis, or checks that a folder in the YouTube-VIS format is there.

A generated data set is drawn into data/<name>, unless the same one is there already. A folder of your own is only
looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params

SPLITS = ("train", "val")


def is_generated(params: Params) -> bool:
    """Whether the data set is one that this project draws: by its folder, which may be given by its name alone."""
    return params.generated_name is not None


def take(params: Params, progress: Callable[[int, int], None] | None = None) -> bool:
    """Draws the data set where that is needed; of a folder of the user's it only makes sure that it can be one.

    Args:
        progress: called with (videos drawn, videos in all).

    Returns:
        Whether anything was drawn.

    Raises:
        UserError: the folder is not there or has not both splits, or something else is in the way.
    """
    if is_generated(params):
        return _draw(params, progress)
    _check_folder(params)
    return False


def in_place(params: Params) -> bool:
    """Whether ``take`` would have nothing to do.

    Raises:
        UserError: a folder of the user's is not there or has not both splits.
    """
    if is_generated(params):
        from effvis.data import shapes

        return shapes.is_written(params.drawn, params.dataset_folder)
    _check_folder(params)
    return True


def describe(params: Params) -> dict:
    """What the parameters say that the data set is, as JSON values: the recipe of a generated one, or a folder."""
    if is_generated(params):
        from effvis.data import shapes

        return {"dataset": params.dataset_name, "kind": "generated", **shapes.describe(params.drawn)}
    return {"dataset": params.dataset_name, "kind": "folder", "folder": params.dataset}


def _draw(params: Params, progress: Callable[[int, int], None] | None) -> bool:
    from effvis.data import shapes

    folder = params.dataset_folder
    if shapes.is_written(params.drawn, folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / shapes.STAMP).is_file():
        raise UserError(folder, "dataset", "this folder was not drawn by this command, and would be replaced",
                        "Move it away, or set data_dir to another folder")
    shapes.write(params.drawn, folder, progress)
    return True


def _check_folder(params: Params) -> None:
    from effvis.data.parsing import annotation_file

    folder = params.dataset_folder
    if ".." in Path(params.dataset).parts:
        raise UserError(params.root / "params.yaml", "dataset", f"{params.dataset} has .. in it",
                        f"Give the whole path: {folder.resolve()}")
    if not folder.is_dir():
        raise UserError(params.root / "params.yaml", "dataset", f"no such folder: {folder}",
                        "Give data/shapes-vis, or a folder in the YouTube-VIS format (with train/ and val/)")
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise UserError(folder / split, "dataset", "no such folder",
                            "A data set has the folders train and val, each with JPEGImages/ and instances.json")
        if annotation_file(folder / split) is None:
            raise UserError(folder / split, "dataset", "no instances.json in it", "Put the annotations of this split there")


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
