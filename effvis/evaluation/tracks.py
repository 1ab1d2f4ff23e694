"""Tracks as sorted run boundaries, so that the overlap of two tracks is one interpolation.

A run-length encoded mask says where foreground begins and ends on the line of its pixels (column by column). Laying the
frames of a track one after another on one long line makes the whole track a single sorted list of such boundaries. The
pixels that two tracks share are then found by asking, at each boundary of one, how much of the other lies before it:
a piecewise linear function that ``numpy.interp`` evaluates exactly, all values being integers below 2^53.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

# Room on the line for each frame; runs in an RLE are 32-bit, so no mask that can be read is longer.
FRAME_ROOM = 2.0**32
# COCO's compressed counts: 6 bits in each character from '0' on, of which 5 carry the number and one says "more follows".
FIRST_CHARACTER, LAST_CHARACTER, CONTINUED = 48, 111, 80
LONGEST_NUMBER = 7


class MalformedMask(ValueError):
    """An RLE that cannot be read; ``frame`` is its position in the segmentation list."""

    def __init__(self, frame: int, problem: str):
        super().__init__(problem)
        self.frame, self.problem = frame, problem


@dataclass(frozen=True)
class Track:
    """The masks of one tracklet, F frames long.

    Attributes:
        areas_F: foreground pixels (int64); 0 where absent.
        totals_F: all pixels that the runs cover (int64); -1 where absent.
        sizes_F: number of each mask's frame size (int64, see ``build_track``); -1 where absent.
        bounds: float64 [2R], where each run of foreground begins and ends on the line of all frames.
    """

    areas_F: np.ndarray
    totals_F: np.ndarray
    sizes_F: np.ndarray
    bounds: np.ndarray


def build_track(segmentations: Sequence[Mapping | None], sizes: dict[tuple, int], line_frames: int) -> Track:
    """Decodes the masks of a track.

    Args:
        segmentations: RLEs with ``size`` and ``counts`` (compressed: str or bytes; plain: a list or array of integers);
            None or empty where absent.
        sizes: numbers of the frame sizes (height, width), shared by all tracks that are to be compared; sizes met for
            the first time are added. Each has a line of its own, so that masks of different sizes share nothing.
        line_frames: frames on each line; no list of the compared tracks is longer.

    Raises:
        MalformedMask: an RLE that cannot be decoded.
    """
    present = [frame for frame, mask in enumerate(segmentations) if mask]
    areas_F, (totals_F, sizes_F) = np.zeros(len(segmentations), np.int64), np.full((2, len(segmentations)), -1)
    if not present:
        return Track(areas_F, totals_F, sizes_F, np.empty(0))
    sizes_F[present] = [sizes.setdefault(tuple(segmentations[f]["size"]), len(sizes)) for f in present]
    slots = sizes_F[present] * line_frames + present
    if len(sizes) > 1:
        order = np.argsort(slots)
        present, slots = [present[i] for i in order], slots[order]

    try:
        runs, first = _runs([segmentations[frame]["counts"] for frame in present])
    except MalformedMask as error:
        raise MalformedMask(present[error.frame], error.problem) from None
    areas_F[present] = np.add.reduceat(runs[1::2], first // 2)
    totals_F[present] = areas_F[present] + np.add.reduceat(runs[::2], first // 2)
    if totals_F.max() >= FRAME_ROOM:
        raise MalformedMask(int(np.argmax(totals_F)), "covers more than 2^32 pixels")

    # Before each frame, the line is skipped from the end of the previous mask to this frame's own place.
    bounds = runs.astype(np.float64)
    ends = slots * FRAME_ROOM + totals_F[present]
    bounds[first] += slots * FRAME_ROOM - np.concatenate([[0.0], ends[:-1]])
    return Track(areas_F, totals_F, sizes_F, np.cumsum(bounds, out=bounds))


def overlaps(tracks: Sequence[Track], others: Sequence[Track]) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union, in pixels summed over the frames, of every track with every other: two int64 [D, G].

    As in the official evaluator, frames after the end of the shorter list do not count, a frame where one is absent adds
    the other's area to the union, and one where the sizes differ adds nothing to either.
    """
    intersection_DG, union_DG = np.zeros((2, len(tracks), len(others)), np.int64)
    for g, other in enumerate(others):
        covered = _covered(other.bounds)
        for d, track in enumerate(tracks):
            length = min(track.areas_F.size, other.areas_F.size)
            sizes, other_sizes = track.sizes_F[:length], other.sizes_F[:length]
            counted = (sizes == other_sizes) | (sizes < 0) | (other_sizes < 0)
            both = int(((track.areas_F[:length] + other.areas_F[:length]) * counted).sum())
            intersection_DG[d, g] = _shared(track.bounds, other.bounds, covered)
            union_DG[d, g] = both - intersection_DG[d, g]
    return intersection_DG, union_DG


def disagreeing_frame(track: Track, other: Track) -> int | None:
    """The first frame where both masks claim one size but do not cover equally many pixels: one of them is damaged."""
    length = min(track.areas_F.size, other.areas_F.size)
    wrong = (track.sizes_F[:length] == other.sizes_F[:length]) & (track.totals_F[:length] != other.totals_F[:length])
    return int(np.argmax(wrong)) if wrong.any() else None


def mask_areas(segmentations: Sequence[Mapping | None]) -> np.ndarray:
    """Foreground pixels of the compressed masks that are present (int64), at a third of the cost of building a track.

    Raises:
        MalformedMask: an RLE that cannot be decoded.
    """
    present = [frame for frame, mask in enumerate(segmentations) if mask]
    if not present:
        return np.zeros(0, np.int64)
    texts = [_text(segmentations[frame]["counts"]) for frame in present]
    try:
        _check_texts(texts, np.frombuffer("".join(texts).encode("latin-1", "replace"), np.uint8))
    except MalformedMask as error:
        raise MalformedMask(present[error.frame], error.problem) from None
    return coco_mask.area([segmentations[frame] for frame in present]).astype(np.int64)


def _covered(bounds: np.ndarray) -> np.ndarray:
    """Foreground before each boundary."""
    lengths = np.zeros(bounds.size)
    lengths[1::2] = bounds[1::2] - bounds[::2]
    return np.cumsum(lengths, out=lengths)


def _shared(bounds: np.ndarray, other_bounds: np.ndarray, other_covered: np.ndarray) -> int:
    if not bounds.size or not other_bounds.size:
        return 0
    before = np.interp(bounds, other_bounds, other_covered)
    return int((before[1::2] - before[::2]).sum())


def _runs(counts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths (int64) of all masks one after another, and the index of each mask's first run.

    Every mask gets an even number of runs (one that ends in background gets a foreground run of length 0 more), so that
    even indices are background and odd ones foreground throughout.
    """
    if all(isinstance(one, (str, bytes)) for one in counts):
        runs, first = _compressed_runs([_text(one) for one in counts])
    else:
        runs, first = _plain_runs([_compressed_runs([_text(one)])[0] if isinstance(one, (str, bytes)) else one
                                   for one in counts])
    if runs.min() < 0:
        mask = int(np.searchsorted(first, np.argmin(runs), side="right")) - 1
        raise MalformedMask(mask, "has a run of negative length")
    return runs, first


def _plain_runs(counts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    pieces, lengths = [], []
    for mask, one in enumerate(counts):
        runs = np.asarray(one)
        if runs.ndim != 1 or not runs.size or runs.dtype.kind not in "iu":
            raise MalformedMask(mask, "has counts that are not a list of integers")
        pieces += [runs, [0]] if runs.size % 2 else [runs]
        lengths.append(runs.size + runs.size % 2)
    return np.concatenate(pieces, dtype=np.int64), np.cumsum([0, *lengths[:-1]])


def _text(counts: str | bytes) -> str:
    return counts if isinstance(counts, str) else counts.decode("latin-1")


def _compressed_runs(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    # A '0' after each text reads as one more run, which makes the usual odd number even; its length is set to 0 below.
    # A text that is even already (the last pixel is foreground, which is rare) must not get one.
    padding = ["0"] * len(texts)
    characters, ends, first = _split(texts, padding)
    already_even = np.flatnonzero(np.diff(first, append=ends.size) % 2)
    if already_even.size:
        for mask in already_even:
            padding[mask] = ""
        characters, ends, first = _split(texts, padding)
    runs = _numbers(characters, ends, first)
    _undo_differences(runs, first)
    last = np.append(first[1:], runs.size) - 1
    runs[last[[bool(one) for one in padding]]] = 0
    return runs, first


def _split(texts: Sequence[str], padding: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The characters of all padded texts (uint8), where each number in them ends, and each text's first number."""
    padded = [text + pad for text, pad in zip(texts, padding, strict=True)]
    characters = np.frombuffer("".join(padded).encode("latin-1", "replace"), np.uint8)
    _check_texts(texts, characters)
    ends = np.flatnonzero(characters < CONTINUED)
    first = np.searchsorted(ends, np.cumsum([0, *map(len, padded[:-1])]))
    return characters, ends, first


def _check_texts(texts: Sequence[str], characters: np.ndarray) -> None:
    """Raises MalformedMask for a text with a foreign character, without any, or cut off inside a number."""
    sound = characters.size and characters.min() >= FIRST_CHARACTER and characters.max() <= LAST_CHARACTER
    if sound and all(text and text[-1] < chr(CONTINUED) for text in texts):
        return
    for mask, text in enumerate(texts):
        if not text or not all(FIRST_CHARACTER <= ord(character) <= LAST_CHARACTER for character in text):
            raise MalformedMask(mask, "has counts that are not a compressed RLE")
        if ord(text[-1]) >= CONTINUED:
            raise MalformedMask(mask, "has counts that are cut off")


def _numbers(characters: np.ndarray, ends: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The signed numbers (int64), each in 5-bit digits whose last character is the most significant and has the sign."""
    last = ((characters[ends] - np.uint8(FIRST_CHARACTER)) ^ np.uint8(16)) - np.uint8(16)
    numbers = last.view(np.int8).astype(np.int64)
    lengths = np.diff(ends, prepend=-1)
    longer, digit = np.flatnonzero(lengths > 1), 1
    while longer.size:
        if digit == LONGEST_NUMBER:
            raise MalformedMask(int(np.searchsorted(first, longer[0], side="right")) - 1, "has a run that is too long")
        low = (characters[ends[longer] - digit] - np.uint8(FIRST_CHARACTER)) & np.uint8(31)
        numbers[longer] = numbers[longer] * 32 + low
        digit += 1
        longer = longer[lengths[longer] > digit]
    return numbers


def _undo_differences(runs: np.ndarray, first: np.ndarray) -> None:
    """From its fourth run on, a compressed mask stores each run as the difference to the run before the last; in place."""
    background, foreground, start = runs[::2], runs[1::2], first // 2
    # The first background run is no part of the chain of differences: the second is stored as it is.
    leading = background[start]
    background[start] = 0
    for stored in (background, foreground):
        # One cumulative sum runs over all masks, so each mask begins by taking the previous one's sum away.
        sums = np.add.reduceat(stored, start)
        stored[start[1:]] -= sums[:-1]
        np.cumsum(stored, out=stored)
    background[start] = leading
