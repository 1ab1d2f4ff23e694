"""Puts the parameters' data set in place: it is drawn here, imported from archives, or the user's own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.parsing import annotation_file
from effvis.data.synthetic import shapes
from effvis.errors import UserError
from pipeline.datasets import holdout, intake
from pipeline.datasets.holdout import splits_needed
from pipeline.datasets.layouts import OnFilesDone

if TYPE_CHECKING:
    from pipeline.settings.params import ArchiveSettings, Params


def is_generated(params: Params) -> bool:
    """Whether this project draws the data set, judged by its folder; the parameters may give only the folder's name."""
    return params.generated_name is not None


def put_in_place(params: Params, progress: OnFilesDone | None = None, given: Sequence[ArchiveSettings] = ()) -> bool:
    """Draws or imports the data set if needed; a folder of the user's own is only checked to have the form of a data set.

    Args:
        progress: called as the work goes on.
        given: the archives of a published data set; if empty, those under ``sources`` in the parameters.

    Returns:
        Whether anything was drawn or imported.

    Raises:
        UserError: the folder or a split is missing, something else is in the way, or the given files are not a data set.
    """
    if params.published_name is not None:
        taken = intake.install(params, given, progress)
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
        UserError: the user's own folder or one of its splits is missing.
    """
    if is_generated(params):
        return shapes.is_written(params.shapes_config, params.dataset_folder)
    if params.published_name is not None and not params.dataset_folder.is_dir():
        return False
    _check_folder(params)
    return True


def describe(params: Params) -> dict:
    """The data set according to the parameters, as JSON values: the recipe of a generated data set, or a folder."""
    if is_generated(params):
        found = {"dataset": params.dataset_name, "kind": "generated", **shapes.describe(params.shapes_config)}
    else:
        folder = params.published_name or params.dataset
        found = {"dataset": params.dataset_name, "kind": "folder", "folder": folder}
    return found | holdout.describe(params)


def _draw(params: Params, progress: OnFilesDone | None) -> bool:
    folder = params.dataset_folder
    if shapes.is_written(params.shapes_config, folder):
        return False
    if folder.exists() and any(folder.iterdir()) and not (folder / shapes.STAMP).is_file():
        raise UserError(folder, "dataset", "this folder was not drawn by this command, and would be replaced",
                        "Move it away, or set data_dir to another folder")
    shapes.write(params.shapes_config, folder, (lambda done, total: progress(done, total, "videos")) if progress else None)
    return True


def _check_folder(params: Params) -> None:
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
