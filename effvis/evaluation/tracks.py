"""Tracks as sorted run boundaries, so that the overlap of two tracks is one interpolation.

A run-length encoded mask says where foreground begins and ends on the line of its pixels (column by column). Laying the
frames of a track one after another on one long line makes the whole track a single sorted list of such boundaries. The
pixels that two tracks share are then found by asking, at each boundary of one, how much of the other lies before it:
a piecewise linear function that ``numpy.interp`` evaluates exactly, all values being integers below 2^53.

Background and foreground runs are kept in two arrays, because NumPy sums these three times as fast as every other number
of one array.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np

from effvis.data.masks import pixel_counts

# Room on the line for each frame; runs in an RLE are 32-bit, so no mask that can be read is longer.
FRAME_ROOM = 2**32
# COCO's compressed counts: 6 bits in each character from '0' on, of which 5 carry the number and one says "more follows".
FIRST_CHARACTER, LAST_CHARACTER, CONTINUED = 48, 111, 80
LONGEST_NUMBER = 7
NO_RUN = np.zeros(1, np.int64)
COMPRESSED = re.compile(r"(?:[P-o]*[0-O])+")

Segmentations = Sequence[Mapping | None]  # an RLE, or None where absent, for each frame


class MalformedMask(ValueError):
    """An RLE that cannot be read, of a track in a frame (both counted from 0)."""

    def __init__(self, track: int, frame: int, problem: str):
        super().__init__(problem)
        self.track, self.frame, self.problem = track, frame, problem


@dataclass(frozen=True)
class Tracks:
    """The masks of N tracks of at most F frames each.

    Attributes:
        lengths_N: number of frames in each track's list.
        areas_NF: foreground pixels (int64); 0 where absent.
        totals_NF: all pixels that the runs cover (int64); -1 where absent.
        sizes_NF: number of each mask's frame size (int64, see ``build_tracks``); -1 where absent.
        begins, ends: float64 [R], where each run of foreground begins and ends on the line of all frames, track after track.
        first_run: int64 [N + 1], each track's first run.
    """

    lengths_N: np.ndarray
    areas_NF: np.ndarray
    totals_NF: np.ndarray
    sizes_NF: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    first_run: np.ndarray


def build_tracks(tracks: Sequence[Segmentations], sizes: dict[tuple, int], line_frames: int) -> Tracks:
    """Decodes the masks of tracks.

    Args:
        tracks: for each frame an RLE with ``size`` and ``counts`` (compressed: str or bytes; plain: a list or array of
            integers); None or empty where absent.
        sizes: numbers of the frame sizes (height, width), shared by all tracks that are to be compared; new sizes are
            added. Each has a line of its own, so that masks of different sizes share nothing.
        line_frames: F, the number of frames on each line; no list of the compared tracks is longer.

    Raises:
        MalformedMask: an RLE that cannot be decoded.
    """
    places = _places(tracks)
    lengths_N = np.array([len(track) for track in tracks], np.int64)
    areas_NF, totals_NF, sizes_NF = np.full((3, len(tracks), line_frames), [[[0]], [[-1]], [[-1]]])
    if not places:
        return Tracks(lengths_N, areas_NF, totals_NF, sizes_NF, *np.empty((2, 0)), np.zeros(len(tracks) + 1, np.int64))
    masks = [tracks[n][frame] for n, frame in places]
    codes = np.array([sizes.setdefault(tuple(mask["size"]), len(sizes)) for mask in masks])
    track, frame = np.array(places).T
    slots = codes * line_frames + frame
    if len(sizes) > 1:
        order = np.lexsort((slots, track))
        masks, track, frame, codes, slots = [masks[i] for i in order], *(a[order] for a in (track, frame, codes, slots))

    try:
        background, foreground, first = _runs([mask["counts"] for mask in masks])
        areas = np.add.reduceat(foreground, first)
        totals = areas + np.add.reduceat(background, first)
        if totals.max() >= FRAME_ROOM:
            raise _BadCounts(int(totals.argmax()), "covers more than 2^32 pixels")
    except _BadCounts as error:
        raise MalformedMask(int(track[error.index]), int(frame[error.index]), error.problem) from None
    areas_NF[track, frame], totals_NF[track, frame], sizes_NF[track, frame] = areas, totals, codes

    # Before each mask, the line is skipped from the end of the previous mask to this one's own place.
    background[first] += slots * FRAME_ROOM
    background[first[1:]] -= (slots * FRAME_ROOM + totals)[:-1]
    ends = np.cumsum(background, out=background)
    ends += np.cumsum(foreground)
    first_run = np.append(first, ends.size)[np.searchsorted(track, np.arange(len(tracks) + 1))]
    return Tracks(lengths_N, areas_NF, totals_NF, sizes_NF, (ends - foreground).astype(float), ends.astype(float), first_run)


def overlaps(tracks: Tracks, others: Tracks) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union, in pixels summed over the frames, of every track with every other: two int64 [D, G].

    As in the official evaluator, frames after the end of the shorter list do not count, a frame where one is absent adds
    the other's area to the union, and one where the sizes differ adds nothing to either.
    """
    intersections_DG = np.zeros((tracks.lengths_N.size, others.lengths_N.size), np.int64)
    first, end = tracks.first_run[:-1], tracks.first_run[1:]
    some = first < end
    for g, (other_first, other_end) in enumerate(pairwise(others.first_run)):
        if other_first < other_end and some.any():
            bounds, covered = _covered(others.begins[other_first:other_end], others.ends[other_first:other_end])
            shared = np.interp(tracks.ends, bounds, covered)
            shared -= np.interp(tracks.begins, bounds, covered)
            intersections_DG[some, g] = np.add.reduceat(shared, first[some])

    sizes_DGF, other_sizes_DGF, shared_DGF = _compared(tracks, others)
    counted_DGF = shared_DGF & ((sizes_DGF == other_sizes_DGF) | (sizes_DGF < 0) | (other_sizes_DGF < 0))
    areas_DG = ((tracks.areas_NF[:, None] + others.areas_NF) * counted_DGF).sum(axis=2)
    return intersections_DG, areas_DG - intersections_DG


def disagreement(tracks: Tracks, others: Tracks) -> tuple[int, int, int] | None:
    """The first (track, other, frame) where both masks claim one size but do not cover equally many pixels."""
    sizes_DGF, other_sizes_DGF, shared_DGF = _compared(tracks, others)
    wrong_DGF = shared_DGF & (sizes_DGF == other_sizes_DGF) & (tracks.totals_NF[:, None] != others.totals_NF)
    return tuple(map(int, np.argwhere(wrong_DGF)[0])) if wrong_DGF.any() else None


def check_masks(tracks: Sequence[Segmentations]) -> None:
    """Raises MalformedMask for compressed counts that cannot be read."""
    places = _places(tracks)
    try:
        _characters(_texts([tracks[n][frame]["counts"] for n, frame in places]))
    except _BadCounts as error:
        raise MalformedMask(*places[error.index], error.problem) from None


def mask_areas(tracks: Sequence[Segmentations]) -> list[np.ndarray]:
    """Foreground pixels of the compressed masks that are present in each track, at a third of the cost of decoding them.

    Raises:
        MalformedMask: an RLE that cannot be read.
    """
    check_masks(tracks)
    places = _places(tracks)
    areas = pixel_counts([tracks[n][frame] for n, frame in places])
    return np.split(areas, np.searchsorted([n for n, _ in places], np.arange(1, len(tracks))))


def _places(tracks: Sequence[Segmentations]) -> list[tuple[int, int]]:
    """Track and frame of every mask that is present."""
    return [(n, frame) for n, track in enumerate(tracks) for frame, mask in enumerate(track) if mask]


class _BadCounts(Exception):
    def __init__(self, index: int, problem: str):
        super().__init__(problem)
        self.index, self.problem = index, problem


def _compared(tracks: Tracks, others: Tracks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The frame sizes of both sides of every pair, and which frames both lists have; broadcast to [D, G, F]."""
    shortest_DG = np.minimum(tracks.lengths_N[:, None], others.lengths_N)
    shared_DGF = np.arange(tracks.sizes_NF.shape[1]) < shortest_DG[:, :, None]
    return tracks.sizes_NF[:, None], others.sizes_NF[None], shared_DGF


def _covered(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All boundaries in order, and the foreground before each."""
    lengths = ends - begins
    covered = np.cumsum(lengths)
    return np.stack([begins, ends], axis=1).ravel(), np.stack([covered - lengths, covered], axis=1).ravel()


def _runs(counts: Sequence[Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths of background and of foreground runs (int64) of all masks one after another, and each mask's first of both.

    Every mask gets equally many of both: one that ends in background gets an extra foreground run of length 0.
    """
    if set(map(type, counts)) <= {str, bytes}:
        background, foreground, first = _compressed_runs(_texts(counts))
    else:
        pieces = [_runs_of_one(one, mask) for mask, one in enumerate(counts)]
        pieces = [(piece, NO_RUN[: piece.size % 2]) for piece in pieces]
        first = np.cumsum([0, *(piece.size + more.size for piece, more in pieces[:-1])]) // 2
        background, foreground = _by_turns(np.concatenate(list(chain.from_iterable(pieces)), dtype=np.int64))
    for runs in (background, foreground):
        if runs.min() < 0:
            raise _BadCounts(int(np.searchsorted(first, runs.argmin(), side="right")) - 1, "has a run of negative length")
    return background, foreground, first


def _by_turns(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Copies of the runs at even and at odd places."""
    return runs[::2].copy(), runs[1::2].copy()


def _runs_of_one(counts: Any, mask: int) -> np.ndarray:
    """The runs of one mask of either kind, as many as it has; ``mask`` is its index, for the error."""
    if isinstance(counts, (str, bytes)):
        try:
            background, foreground, _ = _compressed_runs(_texts([counts]))
            return np.stack([background, foreground], axis=1).ravel()
        except _BadCounts as error:
            raise _BadCounts(mask, error.problem) from None
    try:
        runs = np.asarray(counts)
    except ValueError:  # a list of lists of different lengths
        runs = np.empty(0)
    if runs.ndim != 1 or not runs.size or runs.dtype.kind not in "iu":
        raise _BadCounts(mask, "has counts that are not a list of integers")
    return runs


def _texts(counts: Sequence[str | bytes]) -> list[str]:
    return [one if type(one) is str else one.decode("latin-1") for one in counts]


def _compressed_runs(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # A '0' after each text reads as one more run, which makes the usual odd number even; its length is set to 0 below.
    # A text that is even already (the last pixel is foreground, which is rare) must not get one.
    padding = ["0"] * len(texts)
    characters, ends, first = _split(texts, padding)
    already_even = np.flatnonzero(np.diff(first, append=ends.size) % 2)
    if already_even.size:
        for mask in already_even:
            padding[mask] = ""
        characters, ends, first = _split(texts, padding)
    background, foreground = _by_turns(_numbers(characters, ends, first))
    first //= 2
    _undo_differences(background, foreground, first)
    last = np.append(first[1:], foreground.size) - 1
    foreground[last[[bool(one) for one in padding]]] = 0
    return background, foreground, first


def _split(texts: Sequence[str], padding: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The characters of all padded texts (uint8), where each number in them ends, and each text's first number."""
    characters = _characters(texts, padding)
    ends = np.flatnonzero(characters < CONTINUED)
    lengths = np.array([len(text) for text in texts]) + [len(pad) for pad in padding]
    first = np.searchsorted(ends, np.cumsum(lengths) - lengths)
    return characters, ends, first


def _characters(texts: Sequence[str], padding: Sequence[str] | None = None) -> np.ndarray:
    """All texts, each followed by its padding, as uint8.

    Raises:
        _BadCounts: a text has a foreign character, or none, or is cut off inside a number.
    """
    joined = "".join(texts if padding is None else chain.from_iterable(zip(texts, padding, strict=True)))
    characters = np.frombuffer(joined.encode("latin-1", "replace"), np.uint8)
    sound = characters.min(initial=FIRST_CHARACTER) >= FIRST_CHARACTER and characters.max(initial=0) <= LAST_CHARACTER
    if not all(texts) or not sound or max([text[-1] for text in texts], default="") >= chr(CONTINUED):
        mask, text = next((mask, text) for mask, text in enumerate(texts) if not COMPRESSED.fullmatch(text))
        cut_off = COMPRESSED.fullmatch(text + "0")
        raise _BadCounts(mask, "has counts that are cut off" if cut_off else "has counts that are not a compressed RLE")
    return characters


def _numbers(characters: np.ndarray, ends: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The signed numbers (int64), each in 5-bit digits whose last character is the most significant and has the sign."""
    numbers = _last_two_digits(characters, ends).astype(np.int64)
    digits = np.diff(ends, prepend=-1)
    longer, digit = np.flatnonzero(digits > 2), 2
    while longer.size:
        if digit == LONGEST_NUMBER:
            raise _BadCounts(int(np.searchsorted(first, longer[0], side="right")) - 1, "has a run that is too long")
        low = (characters[ends[longer] - digit] - np.uint8(FIRST_CHARACTER)) & np.uint8(31)
        numbers[longer] = numbers[longer] * 32 + low
        digit += 1
        longer = longer[digits[longer] > digit]
    return numbers


def _last_two_digits(characters: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers (int16) as if none had more than two digits, which is true of nearly all.

    Taking both characters out together, and working on half as many bytes, is a third of the cost of anything else tried.
    """
    pairs = characters.astype(np.uint16) << 8
    pairs[1:] |= characters[:-1]
    both = pairs[ends].view(np.int16)
    digit = ((both >> 8) - FIRST_CHARACTER ^ 16) - 16  # with its sign
    before = both & 255
    return digit + (before >= CONTINUED) * (digit * 31 + (before - CONTINUED))


def _undo_differences(background: np.ndarray, foreground: np.ndarray, first: np.ndarray) -> None:
    """Restores runs in place: from its fourth on, a compressed mask stores each as the difference from the one before the
    last."""
    # The first background run is no part of the chain of differences: the second is stored as it is.
    leading = background[first]
    background[first] = 0
    for chained in (background, foreground):
        # One cumulative sum runs over all masks, so each mask begins by taking the previous one's sum away.
        sums = np.add.reduceat(chained, first)
        chained[first[1:]] -= sums[:-1]
        np.cumsum(chained, out=chained)
    background[first] = leading
