"""Reads frames and masks, one PNG per frame (DAVIS) or one per instance, and writes them as a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from effvis.data import masks
from effvis.data.frame_files import FRAME_SUFFIXES, by_stem, natural
from effvis.errors import UserError
from effvis.files import replacing_folder
from pipeline.importers.writing import ImportedTrack, ImportedVideo, check_out, counted, held_out, write_split

if TYPE_CHECKING:
    import numpy as np

    from effvis.data.masks import RLE


FRAMES, MASKS = "JPEGImages", "Annotations"
SPLITS = ("train", "val")
VOID = 255

Instance = int | str
"""An instance: a number in masks of all instances, or the name of a folder."""

Wanted = str | Mapping[Instance, str | None]
"""The category of all instances of a sequence, or of each."""


@dataclass(frozen=True)
class Sequence:
    """A sequence to import.

    Attributes:
        frames: the frames in temporal order.
        masks: one mask of all instances for every frame; or none, and then
        instances: for each instance, its masks by frame, None where it is not visible.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    instances: Mapping[str, tuple[Path | None, ...]]
    wanted: Wanted


def import_masks(
    folder: Path, categories_file: Path, out: Path, *, fps: float, val: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, whole or not at all.

    Args:
        val: patterns of the sequences to validate on, for a folder that is not split.
        progress: called with (frames written, frames in all).

    Returns:
        The number of sequences written, per split.

    Raises:
        UserError: something is wrong with the folder, the categories, a frame or a mask (the error names the first problem),
            or ``out`` exists.
    """
    check_out(out)
    rules = read_categories(categories_file)
    layout = _split(folder, val)
    _check_all_have_a_rule([name for _, names in layout.values() for name in names], rules, categories_file)
    splits = {split: find_sequences(parent, names, rules) for split, (parent, names) in layout.items()}
    if not splits["train"]:
        raise UserError(folder, "train", "no sequence to train on", "Give one a category, or leave one out of --val")
    categories = sorted({name for found in splits.values() for sequence in found for name in _names(sequence.wanted)})
    told = counted(progress, sum(len(sequence.frames) for found in splits.values() for sequence in found))
    with replacing_folder(out) as new:
        for split, found in splits.items():
            if found:
                write_split(new / split, map(_imported, found), categories, fps=fps, told=told,
                            description=f"imported from frames and masks, {split}")
    return {split: len(found) for split, found in splits.items()}


def read_categories(file: Path) -> dict[str, Wanted | None]:
    """The mapping from sequence names or patterns to categories.

    Raises:
        UserError: the file is missing or not YAML, or an entry has the wrong form.
    """
    try:
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", "Give --categories FILE") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(file, "(file)", f"is not YAML: {error}", "Correct it") from None
    if not isinstance(rules, dict) or not rules:
        raise UserError(file, "(top)", "is not a mapping", "Write lines such as  car-*: sedan")
    for pattern, wanted in rules.items():
        if not isinstance(pattern, str):
            raise UserError(file, str(pattern), "is not a name or a pattern", "Put it between quotes")
        if isinstance(wanted, dict):
            for instance, name in wanted.items():
                if type(instance) not in (int, str):
                    raise UserError(file, f"{pattern}.{instance}", "is neither a number nor the name of an instance",
                                    "Write the value that its pixels have in the mask, or the name of its folder")
                _check_category(file, f"{pattern}.{instance}", name)
        else:
            _check_category(file, pattern, wanted)
    return rules


def _check_category(file: Path, key: str, name: object) -> None:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise UserError(file, key, f"{name!r} is not a category", "Write a name, or null to leave it out")


def best_rule(rules: Mapping[str, Wanted | None], sequence: str) -> str | None:
    """The entry that counts for a sequence: its name, or else the matching pattern with the most literal characters."""
    if sequence in rules:
        return sequence
    matching = [pattern for pattern in rules if fnmatchcase(sequence, pattern)]
    return max(matching, key=lambda pattern: len(re.sub(r"\[[^]]*\]|[*?]", "", pattern)), default=None)


def _names(wanted: Wanted) -> set[str]:
    return {wanted} if isinstance(wanted, str) else {name for name in wanted.values() if name is not None}


def _split(folder: Path, val: tuple[str, ...]) -> dict[str, tuple[Path, list[str]]]:
    """For each split, the folder of its sequences and their names."""
    if not folder.is_dir():
        raise UserError(folder, "FOLDER", "no such folder", f"Give the folder that holds {FRAMES}/ and {MASKS}/")
    if (folder / FRAMES).is_dir() or (folder / MASKS).is_dir():
        names = _sequence_names(folder)
        validating = held_out(names, val, "sequence")
        return {"train": (folder, [name for name in names if name not in validating]), "val": (folder, validating)}
    if not all((folder / split).is_dir() for split in SPLITS):
        raise UserError(folder, "FOLDER", f"neither {FRAMES}/ and {MASKS}/ nor train/ and val/ in it",
                        f"Arrange it as {FRAMES}/<sequence>/*.jpg and {MASKS}/<sequence>/*.png")
    if val:
        raise UserError("command line", "--val", "the folder is already split into train/ and val/", "Leave it out")
    return {split: (folder / split, _sequence_names(folder / split)) for split in SPLITS}


def _sequence_names(parent: Path) -> list[str]:
    for part in (FRAMES, MASKS):
        if not (parent / part).is_dir():
            raise UserError(parent, part, "no such folder", f"Put {FRAMES}/<sequence>/ and {MASKS}/<sequence>/ into it")
    frames, masks = ({entry.name for entry in (parent / part).iterdir() if entry.is_dir()} for part in (FRAMES, MASKS))
    for name in sorted(frames ^ masks):
        there, missing = (FRAMES, MASKS) if name in frames else (MASKS, FRAMES)
        raise UserError(parent / there / name, name, f"a sequence without {missing}/{name}", "Add it, or remove both")
    if not frames:
        raise UserError(parent / FRAMES, "FOLDER", "no sequence in it", f"Put frames into {FRAMES}/<sequence>/")
    return sorted(frames)


def _check_all_have_a_rule(names: list[str], rules: Mapping[str, Wanted | None], file: Path) -> None:
    without = sorted(name for name in names if best_rule(rules, name) is None)
    if without:
        raise UserError(file, ", ".join(without), "no category for these sequences", "Add each, or null to leave it out")


def find_sequences(parent: Path, names: list[str], rules: Mapping[str, Wanted | None]) -> list[Sequence]:
    """The sequences that have a category, with their files.

    Raises:
        UserError: a frame has no mask, a mask has no frame, or masks lie both beside and inside folders.
    """
    found = []
    for name in names:
        wanted = rules[best_rule(rules, name)]
        if wanted is not None and _names(wanted):
            frames = by_stem(parent / FRAMES / name, FRAME_SUFFIXES)
            if not frames:
                raise UserError(parent / FRAMES / name, name, "a sequence without frames", "Add frames, or remove it")
            stems = sorted(frames, key=natural)
            masks, instances = _masks(parent, name, frames)
            found.append(Sequence(
                name, tuple(frames[stem] for stem in stems), tuple(masks[stem] for stem in stems if masks),
                {instance: tuple(files.get(stem) for stem in stems) for instance, files in instances.items()}, wanted))
    return found


def _masks(parent: Path, name: str, frames: dict[str, Path]) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
    """The masks of all instances by frame, or else the masks of each instance."""
    folder = parent / MASKS / name
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
                            f"Add {parent / FRAMES / name / stem}.jpg, or remove the mask")
    for stem in sorted(frames.keys() - masks.keys(), key=natural) if not folders else []:
        raise UserError(frames[stem], f"{name}/{stem}", "a frame without a mask",
                        f"Add {folder / stem}.png (all 0 where nothing is seen), or remove the frame")
    return masks, instances


def _imported(sequence: Sequence) -> ImportedVideo:
    size, tracks = read_tracks(sequence)
    return ImportedVideo(sequence.name, [(frame, frame.name) for frame in sequence.frames], size,
                         [ImportedTrack(category, rles) for category, rles in tracks])


def read_tracks(sequence: Sequence) -> tuple[tuple[int, int], list[tuple[str, list[RLE | None]]]]:
    """The instances of a sequence, from its masks.

    Returns:
        (width, height) of its masks in pixels, and for each instance its category and its mask in every frame, None
        where it is not visible.

    Raises:
        UserError: a mask is not a picture of numbers, differs in size from the first one, or shows an instance without a
            category; or no mask shows any instance.
    """
    tracks: dict[Instance, list[RLE | None]] = {}
    shape = None
    for frame, instance, file in _mask_files(sequence):
        numbers_HW = _read_mask(file, f"{sequence.name}/{file.stem}", single=instance is not None)
        shape = shape or numbers_HW.shape
        if numbers_HW.shape != shape:
            raise UserError(file, f"{sequence.name}/{file.stem}",
                            f"the mask is {numbers_HW.shape[1]}x{numbers_HW.shape[0]}, the first one of its sequence "
                            f"{shape[1]}x{shape[0]} (width x height)", "Make all masks and frames of a sequence equal in size")
        for shown, mask_HW in _shown(numbers_HW, instance):
            tracks.setdefault(shown, [None] * len(sequence.frames))[frame] = masks.encode(mask_HW)
    if not tracks:
        raise UserError(_mask_folder(sequence), sequence.name, "no instance in any mask",
                        "Number instances from 1 on (255 is left out: write a mask of 0 and 255 as 0 and 1), "
                        "or give each a folder")
    order = list(sequence.instances) if sequence.instances else sorted(tracks)
    chosen = [(_category(sequence, instance), tracks[instance]) for instance in order if instance in tracks]
    return (shape[1], shape[0]), [(category, rles) for category, rles in chosen if category is not None]


def _mask_files(sequence: Sequence) -> Iterator[tuple[int, str | None, Path]]:
    """Every mask with the number of its frame and, if it belongs to one instance, that instance."""
    for frame, file in enumerate(sequence.masks):
        yield frame, None, file
    for instance, files in sequence.instances.items():
        for frame, file in enumerate(files):
            if file is not None:
                yield frame, instance, file


def _shown(numbers_HW: np.ndarray, instance: str | None) -> Iterator[tuple[Instance, np.ndarray]]:
    """The instances that a mask shows."""
    if instance is not None:
        if numbers_HW.any():
            yield instance, numbers_HW > 0
        return
    for number in np.unique(numbers_HW):
        if number not in (0, VOID):
            yield int(number), numbers_HW == number


def _mask_folder(sequence: Sequence) -> Path:
    return sequence.frames[0].parents[2] / MASKS / sequence.name


def _category(sequence: Sequence, instance: Instance) -> str | None:
    if isinstance(sequence.wanted, str):
        return sequence.wanted
    # The categories may name a folder called 1 as a number.
    names = [instance, int(instance)] if isinstance(instance, str) and instance.isdecimal() else [instance]
    for name in names:
        if name in sequence.wanted:
            return sequence.wanted[name]
    raise UserError(_mask_folder(sequence), f"{sequence.name}.{instance}", "no category for this instance",
                    "Add it to the categories, or null to leave it out")


def _read_mask(file: Path, key: str, *, single: bool) -> np.ndarray:
    """(H, W) numbers of instances; for a single instance, the pixels that are not 0."""
    try:
        with Image.open(file) as image:
            if image.mode not in (("P", "L", "1") if single else ("P", "L")):
                raise UserError(file, key, f"not a palette PNG, but of mode {image.mode}",
                                "Save masks with one channel, the value being the number of the instance")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        raise UserError(file, key, "truncated or damaged image", "Copy or extract the file anew") from None
