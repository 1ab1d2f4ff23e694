"""Matching and averaging: from overlaps to the 12 numbers, as the COCO and YouTube-VIS protocols define them.

Axes of the arrays: A area ranges, T IoU thresholds, R recall levels, K categories, D detections, G ground truths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

# linspace, not arange: thresholds that differ in the last bit decide differently when an IoU is exactly 0.55 or 0.9.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
IOU_50, IOU_75 = 0, 5
# Both ends belong to a range: an object of exactly 128^2 pixels is both small and medium.
AREA_LIMITS = np.array([[0, 1e10], [0, 128**2], [128**2, 256**2], [256**2, 1e10]])
ALL, SMALL, MEDIUM, LARGE = range(4)
# Detections counted per (video, category): the best 1, 10 and 100. The last one also limits what is matched at all.
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True)
class GroupTruths:
    """Ground truths of one (video, category). The arrays have length G.

    Attributes:
        areas: mean pixels per frame.
        crowd: whether it stands for any number of objects; then it is never counted as found or missed.
        counts_as_match: False for the id 0, with which the official evaluator marks "no match".
    """

    areas: np.ndarray
    crowd: np.ndarray
    counts_as_match: np.ndarray

    def ignored_AG(self) -> np.ndarray:
        return self.crowd | outside(self.areas)


@dataclass(frozen=True)
class GroupDetections:
    """Matched detections of one (video, category), best score first, at most 100.

    Attributes:
        scores: the detections' scores, [D].
        matched_ATD: whether each detection found a ground truth.
        ignored_ATD: whether it counts neither as a hit nor as a miss.
    """

    scores: np.ndarray
    matched_ATD: np.ndarray
    ignored_ATD: np.ndarray

    def lowest_match(self) -> float:
        """The score of the last detection that found a ground truth at any threshold; infinite if none did."""
        return self.scores[self.matched_ATD.any(axis=(0, 1))].min(initial=np.inf)


@dataclass(frozen=True)
class Scores:
    """Precision at the recall levels [A, T, R, K] and recall [A, T, K] by number of detections; -1 where undefined."""

    precision: np.ndarray
    recall: dict[int, np.ndarray]

    def metrics(self) -> dict[str, float]:
        """The 12 numbers as fractions, each a mean over what is defined; -1 where nothing is."""
        every = self.precision[ALL]
        values = [every, every[IOU_50], every[IOU_75], *(self.precision[area] for area in (SMALL, MEDIUM, LARGE)),
                  *(self.recall[most][ALL] for most in MAX_DETECTIONS),
                  *(self.recall[MAX_DETECTIONS[-1]][area] for area in (SMALL, MEDIUM, LARGE))]
        return {name: _mean(value) for name, value in zip(METRICS, values, strict=True)}

    def category(self, k: int) -> dict[str, float]:
        """AP, AP50, AP75 and the recalls of one category over all areas."""
        every = self.precision[ALL, :, :, k]
        recalls = {f"AR{most}": _mean(self.recall[most][ALL, :, k]) for most in MAX_DETECTIONS}
        return {"AP": _mean(every), "AP50": _mean(every[IOU_50]), "AP75": _mean(every[IOU_75]), **recalls}


@dataclass(frozen=True)
class Ranking:
    """The detections of a category in all videos by descending score; of equal scores, those of the earlier video first.

    Attributes:
        scores_N: their scores.
        hits_ATN, misses_ATN: whether each counts as found or as wrong; one that is ignored is neither.
        ranks_N: its rank in its own video.
        groups_N: the number of its video's group.
    """

    scores_N: np.ndarray
    hits_ATN: np.ndarray
    misses_ATN: np.ndarray
    ranks_N: np.ndarray
    groups_N: np.ndarray


def best_first(scores: np.ndarray) -> np.ndarray:
    """The order of at most 100 detections of one (video, category); equal scores keep their order."""
    return np.argsort(-scores, kind="stable")[: MAX_DETECTIONS[-1]]


def outside(areas: np.ndarray) -> np.ndarray:
    """Which of N areas lie outside each range: bool [A, N]."""
    return (areas < AREA_LIMITS[:, :1]) | (areas > AREA_LIMITS[:, 1:])


def match(scores: np.ndarray, areas: np.ndarray, truths: GroupTruths, ious_DG: np.ndarray) -> GroupDetections:
    """Gives each detection, best first, the free ground truth that it overlaps most, at every threshold and area range.

    A ground truth that counts goes before one that is ignored; among equal overlaps the later ground truth wins.

    Args:
        scores, areas: the detections' scores and areas, best first, [D].
    """
    ignored_AG = truths.ignored_AG()
    best_ATD = _choose(ious_DG, ignored_AG, truths.crowd)
    found_ATD = best_ATD >= 0
    matched_ATD = found_ATD & truths.counts_as_match[best_ATD]
    ignored_ATD = found_ATD & ignored_AG[np.arange(len(AREA_LIMITS))[:, None, None], best_ATD]
    return GroupDetections(scores, matched_ATD, ignored_ATD | ~matched_ATD & outside(areas)[:, None])


def unmatched(scores: np.ndarray, areas: np.ndarray) -> GroupDetections:
    """Detections where there is no ground truth, best first; an area of NaN lies in every range."""
    matched_ATD = np.zeros((len(AREA_LIMITS), len(IOU_THRESHOLDS), scores.size), bool)
    return GroupDetections(scores, matched_ATD, matched_ATD | outside(areas)[:, None])


def _choose(ious_DG: np.ndarray, ignored_AG: np.ndarray, crowd_G: np.ndarray) -> np.ndarray:
    """The ground truth that each detection gets, int64 [A, T, D]; -1 for none."""
    (A, G), T, D = ignored_AG.shape, IOU_THRESHOLDS.size, len(ious_DG)
    best_ATD = np.full((A, T, D), -1)
    free_ATG = np.ones((A, T, G), bool)
    a, t = np.ogrid[:A, :T]
    # Overlaps as integers from 0 to G-1, the later of two equal ones higher; ground truths that count rank above ignored ones.
    rank_DG = np.argsort(np.argsort(ious_DG, axis=1, kind="stable"), axis=1)
    preference_DAG = rank_DG[:, None] + G * ~ignored_AG
    enough_DTG = ious_DG[:, None] >= IOU_THRESHOLDS[:, None]
    for d in np.flatnonzero(enough_DTG.any(axis=(1, 2))):
        chosen_ATG = np.where(free_ATG & enough_DTG[d], preference_DAG[d, :, None], -1)
        best_AT = chosen_ATG.argmax(axis=2)
        found_AT = chosen_ATG[a, t, best_AT] >= 0
        best_ATD[:, :, d] = np.where(found_AT, best_AT, -1)
        free_ATG[a, t, best_AT] &= ~found_AT | crowd_G[best_AT]
    return best_ATD


def accumulate(categories: list[tuple[list[GroupDetections], list[GroupTruths]]]) -> Scores:
    """Precision and recall of each category over all its videos, given in ascending order of their ids."""
    A, T, K = len(AREA_LIMITS), len(IOU_THRESHOLDS), len(categories)
    precision = np.full((A, T, RECALL_LEVELS.size, K), -1.0)
    recall = {most: np.full((A, T, K), -1.0) for most in MAX_DETECTIONS}
    for k, (detections, truths) in enumerate(categories):
        positives_A = sum((np.count_nonzero(~truth.ignored_AG(), axis=1) for truth in truths), np.zeros(A, np.int64))
        defined = np.flatnonzero(positives_A)
        if not defined.size:
            continue
        positives = positives_A[defined, None]
        found = ranked(detections)
        hits_ATN, misses_ATN = found.hits_ATN[defined], found.misses_ATN[defined]
        for most in MAX_DETECTIONS:
            recall[most][defined, :, k] = hits_ATN[:, :, found.ranks_N < most].sum(axis=2) / positives
        precision[defined, :, :, k] = precision_at_recalls(hits_ATN, misses_ATN, positives[..., None])
    return Scores(precision, recall)


def ranked(detections: list[GroupDetections]) -> Ranking:
    """The detections of a category's groups, given in ascending order of their videos, in one ranking."""
    if not detections:
        none_ATN, none_N = np.zeros((len(AREA_LIMITS), len(IOU_THRESHOLDS), 0), bool), np.zeros(0, np.int64)
        return Ranking(np.zeros(0), none_ATN, none_ATN, none_N, none_N)
    scores_N = np.concatenate([group.scores for group in detections])
    order = np.argsort(-scores_N, kind="stable")
    sizes = [group.scores.size for group in detections]
    matched_ATN = np.concatenate([group.matched_ATD for group in detections], axis=2)[:, :, order]
    counted_ATN = ~np.concatenate([group.ignored_ATD for group in detections], axis=2)[:, :, order]
    return Ranking(scores_N[order], matched_ATN & counted_ATN, ~matched_ATN & counted_ATN,
                   np.concatenate([np.arange(size) for size in sizes])[order], np.repeat(np.arange(len(sizes)), sizes)[order])


def precision_at_recalls(hits_ATN: np.ndarray, misses_ATN: np.ndarray, positives: np.ndarray | int) -> np.ndarray:
    """Precision at each recall level [A, T, R]: the best one at that recall or more, 0 where it is never reached."""
    hits, misses = hits_ATN.cumsum(axis=2, dtype=np.float64), misses_ATN.cumsum(axis=2, dtype=np.float64)
    recall = hits / positives
    # spacing(1) only avoids 0/0, but makes a perfect result 0.9999999999999998, as in the official evaluator.
    precision = hits / (misses + hits + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, :, ::-1], axis=2)[:, :, ::-1]
    never = np.zeros((*precision.shape[:2], 1))
    precision = np.concatenate([precision, never], axis=2)
    result = np.empty((*precision.shape[:2], RECALL_LEVELS.size))
    for a, t in np.ndindex(result.shape[:2]):
        result[a, t] = precision[a, t, np.searchsorted(recall[a, t], RECALL_LEVELS, side="left")]
    return result


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else -1.0
