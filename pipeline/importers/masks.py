"""Reads frames and masks, one PNG per frame (DAVIS, YouTube-VOS) or one per instance, and writes them as a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.data import masks
from effvis.data.problems import Problems
from effvis.errors import UserError
from pipeline.importers.categories import Instance, Wanted, best_rule, category_names, read_categories
from pipeline.importers.mask_folders import FrameSequence, find_sequences, split_folder
from pipeline.importers.mask_images import UNCLEAR, MaskImage, read_mask
from pipeline.importers.meta_file import meta_file, read_objects
from pipeline.importers.writing import ImportedTrack, ImportedVideo, write_data_set
from pipeline.system.files import check_out

if TYPE_CHECKING:
    import numpy as np

    from effvis.data.masks import RLE

# Where edges are smoothed, each shade would be an instance.
MOST_COLOURS = 255


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
    layout = split_folder(folder, val, problems)
    if rules is not None:
        _check_all_have_a_rule([name for _, names in layout.values() for name in names], rules, categories_file)
    splits = _find_all(folder, layout, rules, problems)
    if not splits["train"]:
        raise UserError(folder, "train", "no sequence to train on", "Give one a category, or leave one out of --val")
    categories = sorted({name for found in splits.values() for sequence in found for name in category_names(sequence.wanted)})
    written = write_data_set(out, splits, categories, source="frames and masks", fps=fps, progress=progress,
                             video_of=lambda sequence: _imported(sequence, problems))
    for bend in problems.bent if warn else ():
        warn(bend)
    return written


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
        UserError: a mask is not a picture of numbers or colours, differs in size from the first one, or shows an instance
            without a category; or no mask shows any instance.
    """
    tracks: dict[Instance, list[RLE | None]] = {}
    shape = None
    for frame, instance, file in _mask_files(sequence):
        key = f"{sequence.name}/{file.stem}"
        image = read_mask(file, key)
        shape = shape or image.values_HW.shape
        if image.values_HW.shape != shape:
            height, width = image.values_HW.shape
            raise UserError(file, key, f"the mask is {width}x{height}, the first one of its sequence {shape[1]}x{shape[0]} "
                            "(width x height)", "Make all masks and frames of a sequence equal in size")
        for shown, mask_HW in image.instances() if instance is None else _one_instance(image, instance):
            if shown in UNCLEAR[image.bits] and isinstance(sequence.wanted, str):
                raise UserError(file, f"{sequence.name}.{shown}", "may be an instance, or what is to be ignored",
                                "List the instances of this sequence in the categories, with "
                                f"{_as_key(shown)}: null to ignore it")
            tracks.setdefault(shown, [None] * len(sequence.frames))[frame] = masks.encode(mask_HW)
        if instance is None and image.is_coloured:
            _check_colours(tracks, file, key)
            problems.bend(file, key, "a mask of colours, each of which but black is an instance",
                          "See that objects keep their colours through their sequence")
    if not tracks:
        raise UserError(sequence.mask_folder, sequence.name, "no instance in any mask",
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


def _one_instance(image: MaskImage, instance: str) -> Iterator[tuple[Instance, np.ndarray]]:
    """The instance that a mask of its own shows, if it does."""
    if image.values_HW.any():
        yield instance, image.values_HW > 0


def _check_colours(tracks: Mapping[Instance, list[RLE | None]], file: Path, key: str) -> None:
    """Refuses a sequence of masks with colours, of which a new mask was read, if the instances cannot be told by them."""
    number = next((shown for shown in tracks if isinstance(shown, int)), None)
    if number is not None and len(tracks) > 1:
        raise UserError(file, key, f"a mask of colours; others of its sequence are of numbers, e.g. {number}",
                        "Save all masks of a sequence in one way")
    if len(tracks) > MOST_COLOURS:
        raise UserError(file, key, f"more than {MOST_COLOURS} colours in the masks of this sequence",
                        "Save masks without smoothed edges and lossy compression; one colour is one instance")


def _as_key(instance: Instance) -> str:
    """An instance as a key of the categories: YAML takes # for the beginning of a comment."""
    return f'"{instance}"' if isinstance(instance, str) else str(instance)


def _category(sequence: FrameSequence, instance: Instance) -> str | None:
    if isinstance(sequence.wanted, str):
        return sequence.wanted
    # The categories may name a folder called 1 as a number, and write a colour in capitals.
    names = [instance, int(instance) if instance.isdecimal() else instance.upper()] if isinstance(instance, str) else [instance]
    for name in names:
        if name in sequence.wanted:
            return sequence.wanted[name]
    raise UserError(sequence.mask_folder, f"{sequence.name}.{instance}", "no category for this instance",
                    f"Add {_as_key(instance)} to the categories, with null to leave it out")


def _compare_listed(sequence: FrameSequence, tracks: Mapping[Instance, list[RLE | None]], problems: Problems) -> None:
    """Tells where meta.json lists other frames for an object than those that show it."""
    for instance, rles in tracks.items():
        one = sequence.listed.get(int(instance) if str(instance).isdecimal() else instance)
        seen = {frame.stem for frame, rle in zip(sequence.frames, rles, strict=True) if rle is not None}
        if one is not None and one.frames and one.frames != seen:
            problems.bend(sequence.meta, f"{one.place}.frames", "not the frames whose masks show the object; the masks count",
                          "See whether the masks are of this version of the data set")
