"""Reads KITTI-MOTS and MOTSChallenge masks, as 16-bit PNG or as text, and writes them as a data set.

The format is that of https://www.vision.rwth-aachen.de/page/mots (Voigtlaender et al., MOTS, CVPR 2019). An object's number is
class * 1000 + instance, and stays the same over time; 0 is background, and 10000 a region to ignore.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effvis.data import masks
from effvis.data.frame_files import FRAME_SUFFIXES, by_stem, natural
from effvis.errors import UserError
from effvis.formats import MOTS_IGNORED, MOTS_INSTANCES, number_at_end
from pipeline.importers.categories import check_category, read_rules
from pipeline.importers.writing import ImportedTrack, ImportedVideo, divided, write_data_set
from pipeline.system.files import check_out

if TYPE_CHECKING:
    from effvis.data.masks import RLE
    from pipeline.importers.writing import OnFramesDone

FRAMES = ("images", "image_02", "training/image_02", "JPEGImages")
MASKS = ("instances", "instances_txt", "training/instances", "Annotations")
# The other layout of MOTSChallenge has both in the sequence's own folder.
OWN_FRAMES, OWN_MASKS = "img1", "gt/gt.txt"
SPLITS = ("train", "val")
LARGEST_SIDE = 1 << 15  # pixels

Classes = Mapping[int, str | None]
"""A category, or None for classes to leave out, for each class's number."""


@dataclass(frozen=True)
class MotsSequence:
    """A sequence to import: its frames in temporal order, and the folder or the text file of its masks."""

    name: str
    frames: tuple[Path, ...]
    masks: Path


@dataclass(frozen=True)
class Shown:
    """An object in a frame; ``place`` says where it is written."""

    place: str
    frame: int
    number: int
    class_number: int
    rle: RLE


def import_mots(
    folder: Path, categories_file: Path, out: Path, *, fps: float, val: tuple[str, ...] = (),
    progress: OnFramesDone | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, whole or not at all. Regions to ignore become background.

    Args:
        val: patterns of the sequences to validate on, for a folder that is not split.
        progress: called with (frames written, frames in all).

    Returns:
        The number of sequences written, per split.

    Raises:
        UserError: something is wrong with the folder, the classes, a frame or a mask (the error names the first problem),
            or ``out`` exists.
    """
    check_out(out)
    classes = read_classes(categories_file)
    splits = _split(folder, val)
    if not splits["train"]:
        raise UserError(folder, "train", "no sequence to train on", "Leave one out of --val")
    categories = list(dict.fromkeys(name for _, name in sorted(classes.items()) if name is not None))
    return write_data_set(out, splits, categories, source="MOTS masks", fps=fps, progress=progress,
                          video_of=lambda sequence: _imported(sequence, classes, categories_file))


def read_classes(file: Path) -> dict[int, str | None]:
    """The category of each class's number.

    Raises:
        UserError: the file is missing or not YAML, or an entry has the wrong form.
    """
    classes = read_rules(file, "a mapping from class numbers", "1: car")
    for number, name in classes.items():
        if type(number) is not int or number < 0:
            raise UserError(file, str(number), "is not the number of a class", "Write lines such as  1: car")
        check_category(file, str(number), name)
    if all(name is None for name in classes.values()):
        raise UserError(file, "(top)", "every class is left out", "Name one at least")
    return classes


def _split(folder: Path, val: tuple[str, ...]) -> dict[str, list[MotsSequence]]:
    if not folder.is_dir():
        raise UserError(folder, "FOLDER", "no such folder", f"Give the folder that holds {FRAMES[0]}/ and {MASKS[0]}/")
    if not all((folder / split).is_dir() for split in SPLITS):
        # MOTSChallenge has train/, and beside it test/ without masks.
        sequences = find_sequences(folder / "train" if (folder / "train").is_dir() else folder)
        return divided(sequences, val, "sequence")
    if val:
        raise UserError("command line", "--val", "the folder is already split into train/ and val/", "Leave it out")
    return {split: find_sequences(folder / split) for split in SPLITS}


def find_sequences(parent: Path) -> list[MotsSequence]:
    """The sequences of a folder.

    Raises:
        UserError: it has none of the layouts, or a sequence has no frames or no masks.
    """
    own = sorted((entry for entry in parent.iterdir() if (entry / OWN_FRAMES).is_dir()), key=lambda entry: natural(entry.name))
    if own:
        frames = {entry.name: entry / OWN_FRAMES for entry in own}
        found = {entry.name: entry / OWN_MASKS for entry in own if (entry / OWN_MASKS).is_file()}
    else:
        frames = _folders(_first(parent, FRAMES, "frames"))
        masks_folder = _first(parent, MASKS, "masks")
        found = by_stem(masks_folder, (".txt",)) | _folders(masks_folder)
    for name in sorted(frames.keys() ^ found.keys(), key=natural):
        there, missing = (frames[name], "masks") if name in frames else (found[name], "frames")
        raise UserError(there, name, f"a sequence without {missing}", "Add them, or remove the sequence")
    if not frames:
        raise UserError(parent, "FOLDER", "no sequence in it", f"Put frames into {FRAMES[0]}/<sequence>/")
    sequences = []
    for name, folder in frames.items():
        files = by_stem(folder, FRAME_SUFFIXES)
        if not files:
            raise UserError(folder, name, "a sequence without frames", "Add frames, or remove it")
        sequences.append(MotsSequence(name, tuple(files.values()), found[name]))
    return sequences


def _first(parent: Path, names: tuple[str, ...], what: str) -> Path:
    for name in names:
        if (parent / name).is_dir():
            return parent / name
    raise UserError(parent, "FOLDER", f"no folder of {what} in it", f"Name it {', '.join(f'{name}/' for name in names)}")


def _folders(parent: Path) -> dict[str, Path]:
    names = sorted((entry.name for entry in parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")), key=natural)
    return {name: parent / name for name in names}


def _imported(sequence: MotsSequence, classes: Classes, categories_file: Path) -> ImportedVideo:
    """The sequence with the objects whose classes have a category."""
    size: list[int] = []
    tracks: dict[int, tuple[Shown, list[RLE | None]]] = {}
    for shown in _from_png(sequence) if sequence.masks.is_dir() else _from_text(sequence):
        size = size or shown.rle["size"]
        if shown.rle["size"] != size:
            (height, width), (first_height, first_width) = shown.rle["size"], size
            raise UserError(sequence.masks, shown.place, f"the mask is {width}x{height}, the first one of its sequence "
                            f"{first_width}x{first_height} (width x height)", "Make all masks of a sequence equal in size")
        if shown.number == MOTS_IGNORED:
            continue
        if shown.class_number not in classes:
            raise UserError(categories_file, str(shown.class_number), "no category for this class, which object "
                            f"{shown.number} in {sequence.masks}, {shown.place}, has", "Add it, or null to leave it out")
        first, rles = tracks.setdefault(shown.number, (shown, [None] * len(sequence.frames)))
        if shown.class_number != first.class_number:
            raise UserError(sequence.masks, shown.place, f"object {shown.number} is of class {shown.class_number}, of class "
                            f"{first.class_number} in {first.place}", "Give an object one class, or two numbers")
        if rles[shown.frame] is not None:
            raise UserError(sequence.masks, shown.place, f"object {shown.number} has a mask in this frame already",
                            "Write one line for each object and frame")
        rles[shown.frame] = shown.rle
    named = [ImportedTrack(classes[first.class_number], rles) for _, (first, rles) in sorted(tracks.items())
             if classes[first.class_number] is not None]
    return ImportedVideo(sequence.name, [(frame, frame.name) for frame in sequence.frames],
                         (size[1], size[0]) if size else _size(sequence.frames[0]), named)


def _size(frame: Path) -> tuple[int, int]:
    """(width, height) of a frame of a sequence whose masks are all empty."""
    try:
        with Image.open(frame) as image:
            return image.size
    except (OSError, ValueError):
        raise UserError(frame, frame.stem, "truncated or damaged image", "Copy or extract the file anew") from None


def _from_png(sequence: MotsSequence) -> Iterator[Shown]:
    files = by_stem(sequence.masks, (".png",))
    stems = {frame.stem: number for number, frame in enumerate(sequence.frames)}
    for stem in sorted(files.keys() ^ stems.keys(), key=natural):
        what = "a frame without a mask" if stem in stems else "a mask without a frame"
        raise UserError(files.get(stem) or sequence.frames[stems[stem]], f"{sequence.name}/{stem}", what,
                        "Name frames and masks alike; a mask is all 0 where nothing is seen")
    for stem, file in files.items():
        numbers_HW = _read_png(file, f"{sequence.name}/{stem}")
        for number in np.unique(numbers_HW[numbers_HW > 0]).tolist():
            yield Shown(f"{stem}.png", stems[stem], number, number // MOTS_INSTANCES, masks.encode(numbers_HW == number))


def _read_png(file: Path, key: str) -> np.ndarray:
    """(H, W) numbers of objects."""
    try:
        with Image.open(file) as image:
            numbers_HW = np.asarray(image)
            # An 8-bit file can only say that nothing is seen, and some tools write it so.
            if image.mode not in ("I;16", "I;16B", "I") and (image.mode != "L" or numbers_HW.any()):
                raise UserError(file, key, f"not a 16-bit PNG of one channel, but of mode {image.mode}", "Save class * 1000 + "
                                "instance as 16-bit numbers; masks as DAVIS has them are read without --layout")
            return numbers_HW
    except (OSError, SyntaxError, ValueError):
        raise UserError(file, key, "truncated or damaged image", "Copy or extract the file anew") from None


def _from_text(sequence: MotsSequence) -> Iterator[Shown]:
    frames: dict[int, int] = {}
    for position, frame in enumerate(sequence.frames):
        number = number_at_end(frame.name)
        if number is None or number in frames:
            raise UserError(frame, f"{sequence.name}/{frame.stem}", "its name does not end in a number of its own",
                            "The text tells frames by number: name them 000000.png and so on")
        frames[number] = position
    try:
        lines = sequence.masks.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(sequence.masks, "(file)", "is not a text file that can be read", "Copy or extract it anew") from None
    for i, line in enumerate(lines, start=1):
        if line.strip():
            yield from _from_line(line.split(), f"line {i}", sequence.masks, frames)


def _from_line(fields: list[str], place: str, file: Path, frames: Mapping[int, int]) -> Iterator[Shown]:
    """The object of a line, unless its mask is empty."""
    if len(fields) != 6 or not all(re.fullmatch("[0-9]{1,18}", field) for field in fields[:5]):
        raise UserError(file, place, "is not  time_frame id class_id img_height img_width rle", "Correct it as MOTS text")
    frame, number, class_number, height, width = map(int, fields[:5])
    if frame not in frames:
        raise UserError(file, place, f"there is no frame {frame}", "Add it, or correct the number: it is the one at the end of "
                        f"the frame's file name, here {min(frames)} to {max(frames)}")
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise UserError(file, place, f"{width}x{height} is no size in pixels", "Write the size of the frames, height first")
    try:
        rle = masks.to_compressed({"size": [height, width], "counts": fields[5]}, height, width)
    except ValueError as error:
        raise UserError(file, place, str(error), "Write the mask as COCO's compressed RLE") from None
    if masks.area(rle):
        yield Shown(place, frames[frame], number, class_number, rle)
