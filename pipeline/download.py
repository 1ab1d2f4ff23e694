"""Puts the data set in place: draws shapes-vis, takes in a published one, or looks at a folder of your own.

A generated data set is drawn into data/<name>, unless the same one is there already. YouTube-VIS 2019 and 2021 and OVIS
(-S dataset=youtube-vis-2019, youtube-vis-2021, ovis) are given to those who register; without --from this command says where.
What you got there is given with --from: archives, annotations, or a folder that holds them or is them unpacked. It is brought
into data/<name>/{train,val}/, each with JPEGImages/ and instances.json. A folder of your own is only looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.settings import ArchiveSettings

SPLITS = ("train", "val")

Progress = Callable[[int, int, str], None]
"""Called with (done, in all, of what)."""


def is_generated(params: Params) -> bool:
    """Whether the data set is one that this project draws: by its folder, which may be given by its name alone."""
    return params.generated_name is not None


def take(params: Params, progress: Progress | None = None, given: Sequence[ArchiveSettings] = ()) -> bool:
    """Draws or takes in the data set where that is needed; of a folder of the user's it only makes sure that it can be one.

    Args:
        progress: called as the work goes on.
        given: what to take a published data set in from; empty: what the parameters have under ``sources``.

    Returns:
        Whether anything was drawn or taken in.

    Raises:
        UserError: the folder is not there or lacks a split, something else is in the way, or what is given is no data set.
    """
    if params.published_name is not None:
        from pipeline import intake

        taken = intake.take(params, given, progress)
        _check_folder(params)
        return taken
    if given:
        raise UserError("--from", given[0].location, f"{params.dataset_name} is no published data set",
                        f"Add -S dataset=<name>, one of {', '.join(params.published_names)}, or a name under sources")
    if is_generated(params):
        return _draw(params, progress)
    _check_folder(params)
    return False


def in_place(params: Params) -> bool:
    """Whether ``take`` would have nothing to do.

    Raises:
        UserError: a folder of the user's is not there or lacks a split.
    """
    if is_generated(params):
        from effvis.data import shapes

        return shapes.is_written(params.drawn, params.dataset_folder)
    if params.published_name is not None and not params.dataset_folder.is_dir():
        return False
    _check_folder(params)
    return True


def describe(params: Params) -> dict:
    """What the parameters say that the data set is, as JSON values: the recipe of a generated one, or a folder."""
    from pipeline import holdout

    if is_generated(params):
        from effvis.data import shapes

        found = {"dataset": params.dataset_name, "kind": "generated", **shapes.describe(params.drawn)}
    else:
        folder = params.published_name or params.dataset
        found = {"dataset": params.dataset_name, "kind": "folder", "folder": folder}
    return found | holdout.describe(params)


def _draw(params: Params, progress: Progress | None) -> bool:
    from effvis.data import shapes

    folder = params.dataset_folder
    if shapes.is_written(params.drawn, folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / shapes.STAMP).is_file():
        raise UserError(folder, "dataset", "this folder was not drawn by this command, and would be replaced",
                        "Move it away, or set data_dir to another folder")
    shapes.write(params.drawn, folder, (lambda done, total: progress(done, total, "videos")) if progress else None)
    return True


def _check_folder(params: Params) -> None:
    from effvis.data.parsing import annotation_file
    from pipeline.holdout import splits_needed

    folder = params.dataset_folder
    if ".." in Path(params.dataset).parts:
        raise UserError(params.root / "params.yaml", "dataset", f"{params.dataset} has .. in it",
                        f"Give the whole path: {folder.resolve()}")
    if not folder.is_dir():
        raise UserError(params.root / "params.yaml", "dataset", f"no such folder: {folder}",
                        f"Give data/shapes-vis, {', '.join(params.published_names)}, or a folder in the YouTube-VIS format "
                        "(with train/ and val/)")
    for split in splits_needed(params):
        if not (folder / split).is_dir():
            raise UserError(folder / split, "dataset", "no such folder",
                            "A data set has the folders train and val, each with JPEGImages/ and instances.json; "
                            "holdout does without val")
        if annotation_file(folder / split) is None:
            raise UserError(folder / split, "dataset", "no instances.json in it", "Put the annotations of this split there")


def _from_here(location: str) -> str:
    """A path of the command line is relative to where the command runs, one of params.yaml to that file."""
    from pipeline.fetch import SCHEMES

    if not location:
        raise UserError("--from", "''", "is empty", "Give a file, a folder or an address")
    return location if location.split(":")[0] in SCHEMES else str(Path.cwd() / location)


def main(argv: list[str] | None = None) -> int:
    from pipeline import cli

    arguments = cli.parser(__doc__, "pipeline.download")
    arguments.add_argument("--from", dest="given", action="append", default=[], metavar="FILE|FOLDER|ADDRESS",
                           help="what a published data set is taken in from (may be repeated; default: what sources.<name> "
                           "has in the parameters)")
    args = arguments.parse_args(argv)
    from pipeline.config import load_params
    from pipeline.settings import ArchiveSettings

    params = load_params(args.params, args.set)
    given = [ArchiveSettings(location=_from_here(location)) for location in args.given]
    with cli.progress_bar("drawing" if is_generated(params) else "taking in") as progress:
        new = take(params, progress, given)
    done = ("drawn" if is_generated(params) else "taken in") if new else \
        "found" if params.generated_name is params.published_name is None else "already there"
    print(f"{params.dataset_name}: {done}, {params.dataset_folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
