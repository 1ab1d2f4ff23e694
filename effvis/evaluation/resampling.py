"""How much AP depends on which videos a split happens to have: AP on resamples of its videos (the bootstrap).

A resample draws as many videos as the split has, with replacement; a video that is drawn twice counts as two videos. Matching
is done once, because a video's matches do not depend on the others; only the ranking over all videos is made anew.

Which videos are drawn follows from their number and a fixed seed alone. So two evaluations on one split see the same resamples,
and their difference can be taken resample by resample.

Axes of the arrays: R resamples, V videos, A area ranges, T IoU thresholds, N detections of a category in all videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from effvis.evaluation.average_precision import ALL, GroupDetections, GroupTruths, precision_at_recalls, ranked

# The standard error that R resamples give is itself uncertain by about 1 / sqrt(2 R): 5% with 200.
RESAMPLES = 200
SEED = 20220301


def draws(videos: int, resamples: int) -> np.ndarray:
    """How often each video is in each resample: int64 [R, V], every row with the sum V.

    NumPy promises that a bit generator's own numbers stay the same in later versions; those of its distributions may change.
    """
    drawn_RV = (np.random.PCG64(SEED).random_raw(resamples * videos) % videos).astype(np.int64).reshape(resamples, videos)
    copies_RV = np.zeros((resamples, videos), np.int64)
    np.add.at(copies_RV, (np.arange(resamples)[:, None], drawn_RV), 1)
    return copies_RV


def resampled_ap(
    categories: Sequence[tuple[Mapping[int, GroupDetections], Mapping[int, GroupTruths]]], videos: Sequence[int], resamples: int
) -> list[float]:
    """AP as a fraction on each resample, as if its videos were the split; -1 where they have no ground truth.

    Args:
        categories: matched detections and ground truths of each category, by video id in ascending order.
        videos: all ids, ascending, whether anything is in these videos or not.
    """
    place = {video: v for v, video in enumerate(videos)}
    copies_RV = draws(len(videos), resamples)
    precision_RK = np.stack([_resampled(detections, truths, place, copies_RV) for detections, truths in categories], axis=1)
    defined_RK = precision_RK >= 0
    sums_R, counts_R = np.where(defined_RK, precision_RK, 0).sum(axis=1), defined_RK.sum(axis=1)
    return [total / count if count else -1.0 for total, count in zip(sums_R.tolist(), counts_R.tolist(), strict=True)]


def _resampled(
    detections: Mapping[int, GroupDetections], truths: Mapping[int, GroupTruths], place: Mapping[int, int],
    copies_RV: np.ndarray,
) -> np.ndarray:
    """A category's mean precision over thresholds and recall levels on each resample [R]; -1 where it has no ground truth."""
    positives_V = np.zeros(copies_RV.shape[1], np.int64)
    for video, truth in truths.items():
        positives_V[place[video]] = np.count_nonzero(~truth.ignored_AG()[ALL])
    positives_R = copies_RV @ positives_V
    found = ranked(list(detections.values()))
    hits_1TN, misses_1TN = found.hits_ATN[[ALL]], found.misses_ATN[[ALL]]
    video_N = np.array([place[video] for video in detections], np.int64)[found.groups_N]
    tie_N = _ties(found.scores_N, video_N)
    precision_R = np.full(len(copies_RV), -1.0)
    for r in np.flatnonzero(positives_R):
        order_M = _repeated(copies_RV[r, video_N], tie_N)
        precision_R[r] = precision_at_recalls(hits_1TN[:, :, order_M], misses_1TN[:, :, order_M], positives_R[r]).mean()
    return precision_R


def _ties(scores_N: np.ndarray, video_N: np.ndarray) -> np.ndarray:
    """A number for each detection, the same for those that follow each other with one score in one video [N]."""
    new_N = np.ones(scores_N.size, bool)
    new_N[1:] = (scores_N[1:] != scores_N[:-1]) | (video_N[1:] != video_N[:-1])
    return np.cumsum(new_N)


def _repeated(copies_N: np.ndarray, tie_N: np.ndarray) -> np.ndarray:
    """The ranking of a resample, as places in that of the split [M]: each detection comes as often as its video was drawn.

    Where several detections of a video have one score, the whole first copy comes before the second, as it would with videos
    whose ids follow each other.
    """
    place_M = np.repeat(np.arange(copies_N.size), copies_N)
    copy_M = np.arange(place_M.size) - np.repeat(np.cumsum(copies_N) - copies_N, copies_N)
    return place_M[np.lexsort((place_M, copy_M, tie_N[place_M]))]
