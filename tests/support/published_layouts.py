"""A tiny data set in the layouts in which YouTube-VIS 2019 and 2021 and OVIS are published and passed on."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

from effvis.data.synthetic import shapes

SHAPES = shapes.ShapesConfig(train_videos=12, val_videos=2, frames=3, height=32, width=40, min_radius=5, max_radius=8,
                             min_objects=1, max_objects=2)


def draw(folder: Path) -> Path:
    """Draws train/ and val/ in this project's layout. Videos of both have the same names, unlike the published ones."""
    shapes.write(SHAPES, folder)
    return folder


def _frames(drawn: Path, split: str, folder: Path) -> None:
    shutil.copytree(drawn / split / "JPEGImages", folder)


def _annotations(drawn: Path, split: str, file: Path) -> None:
    """Writes annotations as they are published: validation videos without their instances, some with null in their place."""
    content = json.loads((drawn / split / "instances.json").read_text())
    if split == "val":
        content["annotations"] = None
        if file.name.startswith("annotations_"):
            del content["annotations"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def of_2019(drawn: Path, folder: Path) -> Path:
    """YouTube-VIS 2019's layout: train.json beside train/JPEGImages, and masks as pictures, which nothing needs."""
    for split, name in (("train", "train"), ("val", "valid")):
        _frames(drawn, split, folder / name / "JPEGImages")
        _annotations(drawn, split, folder / f"{name}.json")
    masks = folder / "train" / "Annotations" / "00001"
    masks.mkdir(parents=True)
    (masks / "00000.png").write_bytes(b"no picture")
    # These are frames between the annotated ones, under names that annotated frames have, too.
    shutil.copytree(folder / "train" / "JPEGImages", folder / "train_all_frames" / "JPEGImages")
    return folder


def of_2021(drawn: Path, folder: Path) -> Path:
    """YouTube-VIS 2021's layout: instances.json in train/, and a test split."""
    for split, name in (("train", "train"), ("val", "valid"), ("val", "test")):
        _frames(drawn, split, folder / name / "JPEGImages")
        _annotations(drawn, split, folder / name / "instances.json")
    return folder


def of_ovis(drawn: Path, folder: Path) -> Path:
    """OVIS's layout: no JPEGImages, and annotations_train.json."""
    for split, name in (("train", "train"), ("val", "valid")):
        _frames(drawn, split, folder / name)
        _annotations(drawn, split, folder / f"annotations_{name}.json")
    return folder


def of_vistr(drawn: Path, folder: Path) -> Path:
    """The layout of VisTR's code: annotations/instances_train_sub.json."""
    for split in ("train", "val"):
        _frames(drawn, split, folder / split / "JPEGImages")
        _annotations(drawn, split, folder / "annotations" / f"instances_{split}_sub.json")
    return folder


def packed(file: Path, folder: Path, *parts: str) -> Path:
    """A zip file of some files and folders, under their names relative to ``folder``."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in parts:
            files = sorted((folder / part).rglob("*")) if (folder / part).is_dir() else [folder / part]
            for one in files:
                archive.write(one, one.relative_to(folder))
    return file
