"""Reads frames and masks, one PNG per frame (DAVIS, YouTube-VOS) or one per instance, and writes them as a data set."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from effvis.data import masks
from effvis.data.frame_files import FRAME_SUFFIXES, by_stem, natural
from effvis.data.problems import Problems
from effvis.errors import UserError
from effvis.files import replacing_folder
from pipeline.importers.meta_file import ListedObject, meta_file, read_objects
from pipeline.importers.writing import ImportedTrack, ImportedVideo, check_out, counted, held_out, write_split

if TYPE_CHECKING:
    import numpy as np

    from effvis.data.masks import RLE


FRAMES, MASKS = "JPEGImages", "Annotations"
VAL_FOLDERS = ("val", "valid")
VOID = 255  # in masks of 8 bits
# In masks of 16 bits these may be numbers like others, or what is ignored.
UNCLEAR = (VOID, 65535)

Instance = int | str
"""An instance: a number in masks of all instances, or the name of a folder."""

Wanted = str | Mapping[Instance, str | None]
"""The category of all instances of a sequence, or of each."""


@dataclass(frozen=True)
class FrameSequence:
    """A sequence to import.

    Attributes:
        frames: the frames in temporal order.
        masks: one mask of all instances for every frame; or none, and then
        instances: for each instance, its masks by frame, None where it is not visible.
        meta, listed: the meta.json that names the instances, if any, and what it says of each.
    """

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    instances: Mapping[str, tuple[Path | None, ...]]
    wanted: Wanted
    meta: Path | None = None
    listed: Mapping[Instance, ListedObject] = field(default_factory=dict)


def import_masks(
    folder: Path, categories_file: Path | None, out: Path, *, fps: float, val: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None, warn: Callable[[UserError], None] | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, whole or not at all.

    Args:
        categories_file: None takes the categories from meta.json.
        val: patterns of the sequences to validate on, for a folder that is not split.
        progress: called with (frames written, frames in all).
        warn: called once for each kind of thing that was left out or is not as its format says.

    Returns:
        The number of sequences written, per split.

    Raises:
        UserError: something is wrong with the folder, the categories, a frame or a mask (the error names the first problem),
            or ``out`` exists.
    """
    check_out(out)
    problems = Problems()
    rules = None if categories_file is None else read_categories(categories_file)
    layout = _split(folder, val, problems)
    if rules is not None:
        _check_all_have_a_rule([name for _, names in layout.values() for name in names], rules, categories_file)
    splits = _find_all(folder, layout, rules, problems)
    if not splits["train"]:
        raise UserError(folder, "train", "no sequence to train on", "Give one a category, or leave one out of --val")
    categories = sorted({name for found in splits.values() for sequence in found for name in _names(sequence.wanted)})
    told = counted(progress, sum(len(sequence.frames) for found in splits.values() for sequence in found))
    with replacing_folder(out) as new:
        for split, found in splits.items():
            if found:
                write_split(new / split, (_imported(sequence, problems) for sequence in found), categories, fps=fps,
                            told=told, description=f"imported from frames and masks, {split}")
    for bend in problems.bent if warn else ():
        warn(bend)
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


def _split(folder: Path, val: tuple[str, ...], problems: Problems) -> dict[str, tuple[Path, list[str]]]:
    """For each split, the folder of its sequences and their names."""
    if not folder.is_dir():
        raise UserError(folder, "FOLDER", "no such folder", f"Give the folder that holds {FRAMES}/ and {MASKS}/")
    if (folder / FRAMES).is_dir() or (folder / MASKS).is_dir():
        return _held_out(folder, val)
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


def _has_all_masks(parent: Path) -> bool:
    """Whether each frame that meta.json lists has a mask: in YouTube-VOS's valid/, those where objects first appear do."""
    try:
        names = _sequence_names(parent)
        meta = meta_file(parent, parent.parent)
        objects = read_objects(meta, names, Problems()) if meta else {}
        return all(one.frames <= {mask.stem for mask in (parent / MASKS / name).iterdir()}
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


def _find_all(
    folder: Path, layout: Mapping[str, tuple[Path, list[str]]], rules: Mapping[str, Wanted | None] | None, problems: Problems,
) -> dict[str, list[FrameSequence]]:
    """The sequences of each split; without rules, with the categories of the meta.json beside them."""
    names_of: dict[Path, list[str]] = {}
    for parent, names in layout.values():
        names_of.setdefault(parent, []).extend(names)
    found: dict[str, FrameSequence] = {}
    for parent, names in names_of.items():
        meta = meta_file(parent, folder)
        if rules is None and meta is None:
            raise UserError("command line", "--categories", f"missing, and there is no {parent / 'meta.json'}",
                            "Give a YAML file that says what the instances are")
        objects = read_objects(meta, names, problems) if rules is None else {}
        of_meta = {name: {number: one.category for number, one in listed.items()} for name, listed in objects.items()}
        for sequence in find_sequences(parent, names, of_meta if rules is None else rules, problems, meta, objects):
            found[parent, sequence.name] = sequence
    return {split: [found[parent, name] for name in names if (parent, name) in found]
            for split, (parent, names) in layout.items()}


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
        if wanted is not None and _names(wanted):
            frames = by_stem(parent / FRAMES / name, FRAME_SUFFIXES)
            if not frames:
                raise UserError(parent / FRAMES / name, name, "a sequence without frames", "Add frames, or remove it")
            masks, instances = _masks(parent, name, frames, problems if meta else None)
            listed = (objects or {}).get(name, {})
            if masks:
                frames = {stem: file for stem, file in frames.items() if stem in masks}
                _check_listed_have_masks(meta, listed, masks)
            stems = sorted(frames, key=natural)
            found.append(FrameSequence(
                name, tuple(frames[stem] for stem in stems), tuple(masks[stem] for stem in stems if masks),
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
        if sparse is not None and masks:
            sparse.bend(frames[stem], f"{name}/{stem}", "a frame without a mask, left out",
                        "Give --fps as the rate of the frames that have one")
            continue
        raise UserError(frames[stem], f"{name}/{stem}", "a frame without a mask",
                        f"Add {folder / stem}.png (all 0 where nothing is seen), or remove the frame")
    return masks, instances


def _imported(sequence: FrameSequence, problems: Problems) -> ImportedVideo:
    size, tracks = read_tracks(sequence, problems)
    return ImportedVideo(sequence.name, [(frame, frame.name) for frame in sequence.frames], size,
                         [ImportedTrack(category, rles) for category, rles in tracks])


def read_tracks(sequence: FrameSequence, problems: Problems) -> tuple[tuple[int, int], list[tuple[str, list[RLE | None]]]]:
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
        numbers_HW = _read_mask(file, f"{sequence.name}/{file.stem}")
        shape = shape or numbers_HW.shape
        if numbers_HW.shape != shape:
            raise UserError(file, f"{sequence.name}/{file.stem}",
                            f"the mask is {numbers_HW.shape[1]}x{numbers_HW.shape[0]}, the first one of its sequence "
                            f"{shape[1]}x{shape[0]} (width x height)", "Make all masks and frames of a sequence equal in size")
        for shown, mask_HW in _shown(numbers_HW, instance):
            if numbers_HW.itemsize > 1 and shown in UNCLEAR and isinstance(sequence.wanted, str):
                raise UserError(file, f"{sequence.name}.{shown}", "may be the number of an instance, or what is to be ignored",
                                f"List the numbers of this sequence in the categories, with {shown}: null to ignore it")
            tracks.setdefault(shown, [None] * len(sequence.frames))[frame] = masks.encode(mask_HW)
    if not tracks:
        raise UserError(_mask_folder(sequence), sequence.name, "no instance in any mask",
                        "Number instances from 1 on (255 is left out: write a mask of 0 and 255 as 0 and 1), "
                        "or give each a folder")
    _compare_listed(sequence, tracks, problems)
    order = list(sequence.instances) if sequence.instances else sorted(tracks)
    chosen = [(_category(sequence, instance), tracks[instance]) for instance in order if instance in tracks]
    return (shape[1], shape[0]), [(category, rles) for category, rles in chosen if category is not None]


def _mask_files(sequence: FrameSequence) -> Iterator[tuple[int, str | None, Path]]:
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
    ignored = (0, VOID) if numbers_HW.itemsize == 1 else (0,)
    for number in np.unique(numbers_HW):
        if number not in ignored:
            yield int(number), numbers_HW == number


def _mask_folder(sequence: FrameSequence) -> Path:
    return sequence.frames[0].parents[2] / MASKS / sequence.name


def _category(sequence: FrameSequence, instance: Instance) -> str | None:
    if isinstance(sequence.wanted, str):
        return sequence.wanted
    # The categories may name a folder called 1 as a number.
    names = [instance, int(instance)] if isinstance(instance, str) and instance.isdecimal() else [instance]
    for name in names:
        if name in sequence.wanted:
            return sequence.wanted[name]
    raise UserError(_mask_folder(sequence), f"{sequence.name}.{instance}", "no category for this instance",
                    "Add it to the categories, or null to leave it out")


def _compare_listed(sequence: FrameSequence, tracks: Mapping[Instance, list[RLE | None]], problems: Problems) -> None:
    """Tells where meta.json lists other frames for an object than those that show it."""
    for instance, rles in tracks.items():
        one = sequence.listed.get(int(instance) if str(instance).isdecimal() else instance)
        seen = {frame.stem for frame, rle in zip(sequence.frames, rles, strict=True) if rle is not None}
        if one is not None and one.frames and one.frames != seen:
            problems.bend(sequence.meta, f"{one.place}.frames", "not the frames whose masks show the object; the masks count",
                          "See whether the masks are of this version of the data set")


def _read_mask(file: Path, key: str) -> np.ndarray:
    """(H, W) numbers of instances, uint8 or int32."""
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
                raise UserError(file, key, f"not a palette PNG, but of mode {image.mode}",
                                "Save masks with one channel, the value being the number of the instance")
            return np.asarray(image).astype(np.int32 if image.mode.startswith("I") else np.uint8)
    except (OSError, SyntaxError, ValueError):
        raise UserError(file, key, "truncated or damaged image", "Copy or extract the file anew") from None
