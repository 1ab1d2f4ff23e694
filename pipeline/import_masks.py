"""Turns frames and palette-PNG masks (the DAVIS layout) into a data set in the YouTube-VIS format.

FOLDER holds JPEGImages/<sequence>/*.jpg and Annotations/<sequence>/*.png, or train/ and val/ with both in each. In a
mask, a pixel's value is the number of its instance, 0 is background, 255 is left out. Frames are copied.

CATEGORIES is a YAML mapping from a sequence's name, or a pattern such as car-*, to a category, or to a mapping from
instance number to category where a sequence shows several. The most specific entry counts. null leaves a sequence, or
an instance, out.

Where FOLDER is not split into train/ and val/, --val names the sequences to validate on.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data.frame_files import FRAME_SUFFIXES, by_stem, natural
from effvis.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from effvis.data.masks import RLE

FRAMES, MASKS = "JPEGImages", "Annotations"
SPLITS = ("train", "val")
VOID = 255

Wanted = str | Mapping[int, str | None]
"""The category of all instances of a sequence, or of each."""


@dataclass(frozen=True)
class Sequence:
    """A sequence to import: frames and masks in order of time, as many of one as of the other."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    wanted: Wanted


def import_masks(
    folder: Path, categories_file: Path, out: Path, *, fps: float, val: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, as a whole or not at all.

    Args:
        val: patterns of the sequences to validate on, for a folder that is not split.
        progress: called with (frames written, frames in all).

    Returns:
        Sequences written per split.

    Raises:
        UserError: the first thing that is wrong with the folder, the categories, a frame or a mask; or ``out`` exists.
    """
    from effvis.data.atomic import replacing_folder

    if not fps > 0:
        raise UserError("command line", "--fps", f"{fps} is no frame rate", "Give frames per second above 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "--out", "exists already", "Remove it, or choose another folder")
    rules = read_categories(categories_file)
    layout = _split(folder, val)
    _check_all_have_a_rule([name for _, names in layout.values() for name in names], rules, categories_file)
    splits = {split: find_sequences(parent, names, rules) for split, (parent, names) in layout.items()}
    if not splits["train"]:
        raise UserError(folder, "train", "no sequence to train on", "Give one a category, or leave one out of --val")
    categories = sorted({name for found in splits.values() for sequence in found for name in _names(sequence.wanted)})
    total, done = sum(len(sequence.frames) for found in splits.values() for sequence in found), 0

    def told() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    with replacing_folder(out) as new:
        for split, found in splits.items():
            if found:
                _write_split(new / split, split, found, categories, fps, told)
    return {split: len(found) for split, found in splits.items()}


def read_categories(file: Path) -> dict[str, Wanted | None]:
    """The mapping from sequence names or patterns to categories.

    Raises:
        UserError: the file is missing, no YAML, or an entry is of another kind.
    """
    import yaml

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
            for number, name in wanted.items():
                if type(number) is not int or not 0 < number < VOID:
                    raise UserError(file, f"{pattern}.{number}", "is not the number of an instance (1 to 254)",
                                    "Write the value that its pixels have in the mask")
                _check_category(file, f"{pattern}.{number}", name)
        else:
            _check_category(file, pattern, wanted)
    return rules


def _check_category(file: Path, key: str, name: object) -> None:
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise UserError(file, key, f"{name!r} is not a category", "Write a name, or null to leave it out")


def best_rule(rules: Mapping[str, Wanted | None], sequence: str) -> str | None:
    """The entry that counts for a sequence: its name, else the matching pattern with most literal characters."""
    if sequence in rules:
        return sequence
    matching = [pattern for pattern in rules if fnmatchcase(sequence, pattern)]
    return max(matching, key=lambda pattern: len(re.sub(r"\[[^]]*\]|[*?]", "", pattern)), default=None)


def _names(wanted: Wanted) -> set[str]:
    return {wanted} if isinstance(wanted, str) else {name for name in wanted.values() if name is not None}


def _split(folder: Path, val: tuple[str, ...]) -> dict[str, tuple[Path, list[str]]]:
    """Per split, the folder of its sequences and their names."""
    if not folder.is_dir():
        raise UserError(folder, "FOLDER", "no such folder", f"Give the folder that holds {FRAMES}/ and {MASKS}/")
    if (folder / FRAMES).is_dir() or (folder / MASKS).is_dir():
        names = _sequence_names(folder)
        for pattern in val:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError("command line", f"--val {pattern}", "matches no sequence", f"There are {', '.join(names)}")
        held_out = [name for name in names if any(fnmatchcase(name, pattern) for pattern in val)]
        return {"train": (folder, [name for name in names if name not in held_out]), "val": (folder, held_out)}
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
        UserError: a frame has no mask, or a mask no frame.
    """
    found = []
    for name in names:
        wanted = rules[best_rule(rules, name)]
        if wanted is not None and _names(wanted):
            frames = by_stem(parent / FRAMES / name, FRAME_SUFFIXES)
            masks = by_stem(parent / MASKS / name, (".png",))
            _check_pairs(frames, masks, parent, name)
            found.append(Sequence(name, tuple(frames.values()), tuple(masks[stem] for stem in frames), wanted))
    return found


def _check_pairs(frames: dict[str, Path], masks: dict[str, Path], parent: Path, name: str) -> None:
    for stem in sorted(frames.keys() - masks.keys(), key=natural):
        raise UserError(frames[stem], f"{name}/{stem}", "a frame without a mask",
                        f"Add {parent / MASKS / name / stem}.png (all 0 where nothing is seen), or remove the frame")
    for stem in sorted(masks.keys() - frames.keys(), key=natural):
        raise UserError(masks[stem], f"{name}/{stem}", "a mask without a frame",
                        f"Add {parent / FRAMES / name / stem}.jpg, or remove the mask")
    if not frames:
        raise UserError(parent / FRAMES / name, name, "a sequence without frames", "Add frames, or remove it")


def _write_split(
    folder: Path, split: str, sequences: list[Sequence], categories: list[str], fps: float, told: Callable[[], None],
) -> None:
    from effvis.data.youtube_vis import annotation_entry, write_annotations

    videos, annotations = [], []
    for number, sequence in enumerate(sequences, start=1):
        target = folder / FRAMES / sequence.name
        target.mkdir(parents=True)
        size, tracks = read_tracks(sequence)
        file_names = []
        for frame in sequence.frames:
            _copy_frame(frame, target / frame.name, sequence.name, size)
            file_names.append(f"{sequence.name}/{frame.name}")
            told()
        width, height = size
        videos.append({"id": number, "height": height, "width": width, "length": len(file_names), "fps": fps,
                       "file_names": file_names})
        for category, rles in tracks:
            annotations.append(annotation_entry(
                track_id=len(annotations) + 1, video_id=number, category_id=categories.index(category) + 1, rles=rles,
                height=height, width=width))
    write_annotations(
        folder / "instances.json", description=f"imported from frames and masks, {split}", videos=videos,
        categories=[{"id": i, "name": name} for i, name in enumerate(categories, start=1)], annotations=annotations)


def _copy_frame(frame: Path, target: Path, name: str, size: tuple[int, int]) -> None:
    from effvis.data.frames import check_frame

    check_frame(frame, frame, f"{name}/{frame.stem}", size)
    shutil.copyfile(frame, target)


def read_tracks(sequence: Sequence) -> tuple[tuple[int, int], list[tuple[str, list[RLE | None]]]]:
    """The instances of a sequence, from its masks.

    Returns:
        (width, height) of its masks in pixels, and for each instance its category and its mask in every frame, None
        where it is not seen.

    Raises:
        UserError: a mask is no picture of numbers, is of another size than the first, or shows an instance that has no
            category; or no mask shows any instance.
    """
    import numpy as np

    from effvis.data import masks

    tracks: dict[int, list[RLE | None]] = {}
    shape = None
    for frame, file in enumerate(sequence.masks):
        numbers_HW = _read_mask(file, f"{sequence.name}/{file.stem}")
        shape = shape or numbers_HW.shape
        if numbers_HW.shape != shape:
            raise UserError(file, f"{sequence.name}/{file.stem}",
                            f"the mask is {numbers_HW.shape[1]}x{numbers_HW.shape[0]}, the first one of its sequence "
                            f"{shape[1]}x{shape[0]} (width x height)", "Make all masks and frames of a sequence equal in size")
        for number in np.unique(numbers_HW):
            if number not in (0, VOID):
                rles = tracks.setdefault(int(number), [None] * len(sequence.masks))
                rles[frame] = masks.encode(numbers_HW == number)
    if not tracks:
        raise UserError(sequence.masks[0].parent, sequence.name, "no instance in any mask",
                        "Number instances from 1 on (255 is left out: write a mask of 0 and 255 as 0 and 1)")
    chosen = [(_category(sequence, number), rles) for number, rles in sorted(tracks.items())]
    return (shape[1], shape[0]), [(category, rles) for category, rles in chosen if category is not None]


def _category(sequence: Sequence, number: int) -> str | None:
    if isinstance(sequence.wanted, str):
        return sequence.wanted
    if number not in sequence.wanted:
        raise UserError(sequence.masks[0].parent, f"{sequence.name}.{number}", "no category for this instance",
                        "Add it to the categories, or null to leave it out")
    return sequence.wanted[number]


def _read_mask(file: Path, key: str) -> np.ndarray:
    """(H, W) uint8 instance numbers."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L"):
                raise UserError(file, key, f"not a palette PNG, but of mode {image.mode}",
                                "Save masks with one channel, the value being the number of the instance")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError):
        raise UserError(file, key, "truncated or damaged image", "Copy or extract the file anew") from None


def main(argv: list[str] | None = None) -> int:
    import argparse

    from pipeline import cli

    parser = argparse.ArgumentParser(prog="python -m pipeline.import_masks", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="frames and masks")
    parser.add_argument("--categories", type=Path, required=True, metavar="FILE", help="YAML, see above")
    parser.add_argument("--out", type=Path, required=True, metavar="DATASET", help="the folder to write; must not exist")
    parser.add_argument("--fps", type=float, default=6.0, help="frames per second of the frames given (default: 6)")
    parser.add_argument("--val", action="append", default=[], metavar="PATTERN",
                        help="a sequence, or a pattern, to validate on (may be repeated)")
    args = parser.parse_args(argv)
    with cli.progress_bar("copying frames") as progress:
        written = import_masks(args.folder, args.categories, args.out, fps=args.fps, val=tuple(args.val),
                               progress=progress)
    print(f"{args.out}: {written['train']} sequences to train on, {written['val']} to validate on", file=sys.stderr)
    if not written["val"]:
        print("The pipeline needs some to validate on: name them with --val", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
