"""Finds the sequences of a folder of frames and masks, and the files of each; it does not open them.

In DAVIS (https://davischallenge.org) a folder of the resolution lies between, JPEGImages/480p/<sequence>, and ImageSets/<year>
lists the sequences of train and val.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from effvis.data.frame_files import FRAME_SUFFIXES, by_stem, natural
from effvis.data.problems import Problems
from effvis.errors import UserError
from pipeline.importers.categories import Instance, Wanted, best_rule, category_names
from pipeline.importers.meta_file import ListedObject, meta_file, read_objects
from pipeline.importers.writing import held_out

FRAMES, MASKS = "JPEGImages", "Annotations"
VAL_FOLDERS = ("val", "valid")
IMAGE_SETS = "ImageSets"
RESOLUTIONS = ("480p", "Full-Resolution", "1080p")  # the first one that is there is read


@dataclass(frozen=True)
class FrameSequence:
    """A sequence to import.

    Attributes:
        frames: the frames in temporal order.
        mask_folder: the folder of its masks.
        masks: one mask of all instances for every frame; or none, and then
        instances: for each instance, its masks by frame, None where it is not visible.
        meta, listed: the meta.json that names the instances, if any, and what it says of each.
    """

    name: str
    frames: tuple[Path, ...]
    mask_folder: Path
    masks: tuple[Path, ...]
    instances: Mapping[str, tuple[Path | None, ...]]
    wanted: Wanted
    meta: Path | None = None
    listed: Mapping[Instance, ListedObject] = field(default_factory=dict)


def split_folder(folder: Path, val: tuple[str, ...], problems: Problems) -> dict[str, tuple[Path, list[str]]]:
    """For each split, the folder of its sequences and their names."""
    if not folder.is_dir():
        raise UserError(folder, "FOLDER", "no such folder", f"Give the folder that holds {FRAMES}/ and {MASKS}/")
    if (folder / FRAMES).is_dir() or (folder / MASKS).is_dir():
        _tell_resolutions(folder, problems)
        return _listed_in_image_sets(folder, problems) if not val else _held_out(folder, val)
    if not (folder / "train").is_dir():
        raise UserError(folder, "FOLDER", f"neither {FRAMES}/ and {MASKS}/ nor train/ and val/ in it",
                        f"Arrange it as {FRAMES}/<sequence>/*.jpg and {MASKS}/<sequence>/*.png")
    validating = next((folder / name for name in VAL_FOLDERS if (folder / name).is_dir()), None)
    if validating is not None and validating.name != "val" and not _has_all_masks(validating):
        problems.bend(validating, validating.name, "left out: frames in which objects are listed have no mask",
                      "Hold sequences of train/ out with --val")
        validating = None
    if validating is None:
        return _held_out(folder / "train", val)
    if val:
        raise UserError("command line", "--val", f"the folder is already split into train/ and {validating.name}/",
                        "Leave it out")
    return {split: (parent, _sequence_names(parent)) for split, parent in (("train", folder / "train"), ("val", validating))}


def _resolutions(parent: Path) -> list[str]:
    """The folders of DAVIS's resolutions in it that hold sequences."""
    return [name for name in RESOLUTIONS
            if (parent / MASKS / name).is_dir() and any(entry.is_dir() for entry in _entries(parent / FRAMES / name))]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _part(parent: Path, part: str) -> Path:
    """The folder of the frames' or the masks' sequences."""
    return parent / part / next(iter(_resolutions(parent)), "")


def _tell_resolutions(parent: Path, problems: Problems) -> None:
    read, *others = _resolutions(parent) or [None]
    for name in others:
        problems.bend(parent / FRAMES / name, name, f"left out: {read} is read", f"Move {read} elsewhere to read this one")


def _listed_in_image_sets(parent: Path, problems: Problems) -> dict[str, tuple[Path, list[str]]]:
    """The splits of the newest of DAVIS's lists; without lists, all sequences are of train."""
    names = _sequence_names(parent)
    years = [entry for entry in _entries(parent / IMAGE_SETS) if entry.name.isdecimal() and (entry / "train.txt").is_file()]
    if not years or not _resolutions(parent):
        return _held_out(parent, ())
    splits: dict[str, tuple[Path, list[str]]] = {}
    for split in ("train", "val"):
        file = years[-1] / f"{split}.txt"
        listed = file.read_text(encoding="utf-8", errors="replace").split() if file.is_file() else []
        for name in sorted(set(listed) - set(names)):
            problems.bend(file, name, "a sequence that is not there, left out", "Copy its frames and masks")
        splits[split] = parent, [name for name in names if name in listed]
    for name in sorted(set(names).difference(*(found for _, found in splits.values()))):
        problems.bend(parent / FRAMES, name, f"in no list of {IMAGE_SETS}/{years[-1].name}, left out",
                      "Add it to train.txt or val.txt, or give --val, for which the lists do not count")
    return splits


def _has_all_masks(parent: Path) -> bool:
    """Whether each frame that meta.json lists has a mask: in YouTube-VOS's valid/, those where objects first appear do."""
    try:
        names = _sequence_names(parent)
        meta = meta_file(parent, parent.parent)
        objects = read_objects(meta, names, Problems()) if meta else {}
        return all(one.frames <= {mask.stem for mask in (_part(parent, MASKS) / name).iterdir()}
                   for name, listed in objects.items() for one in listed.values())
    except UserError:
        return False


def _held_out(parent: Path, val: tuple[str, ...]) -> dict[str, tuple[Path, list[str]]]:
    names = _sequence_names(parent)
    validating = held_out(names, val, "sequence")
    return {"train": (parent, [name for name in names if name not in validating]), "val": (parent, validating)}


def _sequence_names(parent: Path) -> list[str]:
    for part in (FRAMES, MASKS):
        if not (parent / part).is_dir():
            raise UserError(parent, part, "no such folder", f"Put {FRAMES}/<sequence>/ and {MASKS}/<sequence>/ into it")
    frames, masks = ({entry.name for entry in _entries(_part(parent, part)) if entry.is_dir()} for part in (FRAMES, MASKS))
    for name in sorted(frames ^ masks):
        there, missing = (FRAMES, MASKS) if name in frames else (MASKS, FRAMES)
        raise UserError(_part(parent, there) / name, name, f"a sequence without {missing}/{name}", "Add it, or remove both")
    if not frames:
        raise UserError(parent / FRAMES, "FOLDER", "no sequence in it", f"Put frames into {FRAMES}/<sequence>/")
    return sorted(frames)


def find_sequences(
    parent: Path, names: list[str], rules: Mapping[str, Wanted | None], problems: Problems, meta: Path | None = None,
    objects: Mapping[str, Mapping[Instance, ListedObject]] | None = None,
) -> list[FrameSequence]:
    """The sequences that have a category, with their files.

    Args:
        meta: the file that says that this is the YouTube-VOS layout, where frames without a mask are left out.
        objects: what it says of the objects of each sequence.

    Raises:
        UserError: a frame has no mask, a mask has no frame, or masks lie both beside and inside folders.
    """
    found = []
    for name in names:
        wanted = rules[best_rule(rules, name)]
        if wanted is not None and category_names(wanted):
            folder = _part(parent, FRAMES) / name
            frames = by_stem(folder, FRAME_SUFFIXES)
            if not frames:
                raise UserError(folder, name, "a sequence without frames", "Add frames, or remove it")
            masks, instances = _masks(parent, name, frames, problems if meta else None)
            listed = (objects or {}).get(name, {})
            if masks:
                frames = {stem: file for stem, file in frames.items() if stem in masks}
                _check_listed_have_masks(meta, listed, masks)
            stems = sorted(frames, key=natural)
            found.append(FrameSequence(
                name, tuple(frames[stem] for stem in stems), _part(parent, MASKS) / name,
                tuple(masks[stem] for stem in stems if masks),
                {instance: tuple(files.get(stem) for stem in stems) for instance, files in instances.items()}, wanted,
                meta, listed))
    return found


def _check_listed_have_masks(meta: Path | None, listed: Mapping[Instance, ListedObject], masks: Mapping[str, Path]) -> None:
    for one in listed.values():
        for stem in sorted(one.frames - masks.keys(), key=natural):
            raise UserError(meta, f"{one.place}.frames", f"{stem} is listed, but has no mask",
                            "Copy the masks of all frames; a split with masks of first frames alone cannot be learned from")


def _masks(
    parent: Path, name: str, frames: dict[str, Path], sparse: Problems | None,
) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
    """The masks of all instances by frame, or else the masks of each instance.

    Args:
        sparse: if given, frames need no mask, and it is told of those without.
    """
    folder = _part(parent, MASKS) / name
    masks = by_stem(folder, (".png",))
    folders = sorted((entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
                     key=lambda entry: natural(entry.name))
    if masks and folders:
        raise UserError(folder, name, f"both masks and folders of masks: {next(iter(masks.values())).name}, {folders[0].name}/",
                        "Either one PNG for every frame, or a folder for every instance")
    instances = {entry.name: by_stem(entry, (".png",)) for entry in folders}
    for files in instances.values() if folders else [masks]:
        for stem in sorted(files.keys() - frames.keys(), key=natural):
            raise UserError(files[stem], f"{name}/{stem}", "a mask without a frame",
                            f"Add {_part(parent, FRAMES) / name / stem}.jpg, or remove the mask")
    for stem in sorted(frames.keys() - masks.keys(), key=natural) if not folders else []:
        if sparse is not None and masks:
            sparse.bend(frames[stem], f"{name}/{stem}", "a frame without a mask, left out",
                        "Give --fps as the rate of the frames that have one")
            continue
        raise UserError(frames[stem], f"{name}/{stem}", "a frame without a mask",
                        f"Add {folder / stem}.png (all 0 where nothing is seen), or remove the frame")
    return masks, instances
