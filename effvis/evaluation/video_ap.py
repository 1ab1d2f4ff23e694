"""Video average precision: the YouTube-VIS protocol, equal to the official evaluator in all its peculiarities.

It is COCO's average precision with tracks in the place of masks: the overlap of two tracks is the sum of their intersections
over the sum of their unions, over all frames of the video, so that a result must find, segment and follow an instance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effvis.errors import UserError
from effvis.evaluation.average_precision import METRICS, GroupDetections, GroupTruths, accumulate, best_first, match, unmatched
from effvis.evaluation.inputs import Detection, GroundTruth, Group, Results, Truth, read_ground_truth, read_results
from effvis.evaluation.resampling import resampled_ap
from effvis.evaluation.tracks import MalformedMask, Tracks, build_tracks, check_masks, disagreement, mask_areas, overlaps

__all__ = ["METRICS", "Evaluation", "evaluate", "keep_frames"]


# Bounds the memory: a (video, category) may have 100 detections.
TRACKS_AT_ONCE = 8
REMEDY = "Encode the mask anew, e.g. with pycocotools.mask.encode"


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` returns.

    Attributes:
        metrics: the 12 numbers of ``METRICS`` as fractions; -1 where the ground truth leaves them undefined.
        per_category: AP, AP50, AP75, AR1, AR10 and AR100 by category name (followed by the id where two have one name).
        warnings: what was left out or replaced, and tracks that could not be compared.
        resampled_ap: AP on resamples of the videos (``effvis.evaluation.resampling``), as many as were asked for.
    """

    metrics: dict[str, float]
    per_category: dict[str, dict[str, float]]
    warnings: list[str]
    resampled_ap: Sequence[float] = ()


def evaluate(
    ground_truth: Path | str | dict,
    results: Path | str | list,
    *,
    allow_empty: bool = False,
    resamples: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores results against the ground truth; both are files or what ``json.load`` makes of them, and are not changed.

    Args:
        ground_truth: ``{videos, categories, annotations}`` of the YouTube-VIS format.
        results: a list of ``{video_id, category_id, score, segmentations}`` with compressed RLE.
        allow_empty: score an empty list of results (0 wherever there is ground truth) instead of refusing it.
        resamples: the number of resamples of the videos to give AP on, too.
        progress: called with (done, total), counting the pairs of a video and a category that have results.

    Raises:
        UserError: the input cannot be read, or is of a kind that the official evaluator cannot score.
    """
    truth = read_ground_truth(ground_truth)
    found = read_results(results, truth, allow_empty=allow_empty)
    warnings = truth.warnings + found.warnings
    total, done = len(found.detections), 0
    categories = []
    for category in truth.categories:
        truths = {group[0]: _group_truths(truth.truths[group]) for group in _groups(truth.truths, truth, category)}
        matched = _match_category(category, truth, found, warnings)
        categories.append((matched, truths))
        done += len(matched)
        if progress is not None and matched:
            progress(done, total)

    scores = accumulate([(list(matched.values()), list(truths.values())) for matched, truths in categories])
    per_category = {label: scores.category(k) for k, label in enumerate(_labels(truth.categories))}
    resampled = resampled_ap(categories, truth.videos, resamples) if resamples and categories and truth.videos else ()
    return Evaluation(scores.metrics(), per_category, warnings, resampled)


def keep_frames(ground_truth: dict, kept: Mapping[int, Sequence[int]]) -> dict:
    """The ground truth of some frames of each video, to score inference that saw only those; the input is not changed.

    A track that is absent from all kept frames is dropped: otherwise it would still count as an instance to be found,
    although these frames do not show it. (One that is absent from the whole video stays, because the protocol counts
    it: keeping all frames changes no score.)

    Args:
        ground_truth: in the YouTube-VIS format.
        kept: by video id, the frames to keep in ascending order; a video that is not mentioned keeps all.

    Raises:
        ValueError: a frame that the video does not have.
    """
    videos = []
    for video in ground_truth["videos"]:
        frames = kept.get(video["id"], range(len(video["file_names"])))
        if any(not 0 <= frame < len(video["file_names"]) for frame in frames):
            raise ValueError(f"video {video['id']} has {len(video['file_names'])} frames, not all of {list(frames)}")
        videos.append(video | {"file_names": [video["file_names"][frame] for frame in frames], "length": len(frames)})
    annotations = []
    for annotation in ground_truth["annotations"]:
        frames = kept.get(annotation["video_id"])
        if frames is None:
            annotations.append(annotation)
            continue
        lists = {name: [annotation[name][frame] for frame in frames if frame < len(annotation[name])]
                 for name in ("segmentations", "bboxes", "areas") if name in annotation}
        if any(lists["segmentations"]) or not any(annotation["segmentations"]):
            annotations.append(annotation | lists)
    return ground_truth | {"videos": videos, "annotations": annotations}


def _group_truths(truths: Sequence[Truth]) -> GroupTruths:
    return GroupTruths(
        areas=np.array([truth.area for truth in truths]),
        crowd=np.array([truth.crowd for truth in truths]),
        counts_as_match=np.array([truth.id != 0 for truth in truths]),
    )


def _groups(items: Mapping[Group, Any], truth: GroundTruth, category: int) -> list[Group]:
    """The keys of a category among the items, by ascending video."""
    return [(video, category) for video in truth.videos if (video, category) in items]


def _match_category(category: int, truth: GroundTruth, found: Results, warnings: list[str]) -> dict[int, GroupDetections]:
    """Matches the results of a category in each video that has any; by video id, ascending."""
    matched: dict[Group, GroupDetections] = {}
    groups = {group: _best(found.detections[group]) for group in _groups(found.detections, truth, category)}
    for group, detections in groups.items():
        if group in truth.truths:
            matched[group] = _match_group(detections, truth.truths[group], truth.where, found.where, warnings)
    # What comes after the last match no longer changes precision at any recall that is reached, so that its area range
    # need not be known. These are most of the results of a usual file, and measuring them takes long.
    lowest_match = min((group.lowest_match() for group in matched.values()), default=math.inf)
    alone = {group: detections for group, detections in groups.items() if group not in matched}
    matched |= _groups_without_truths(alone, lowest_match, found.where)
    return {group[0]: matched[group] for group in groups}


def _best(detections: Sequence[Detection]) -> list[Detection]:
    return [detections[index] for index in best_first(_scores(detections))]


def _match_group(
    detections: Sequence[Detection], truths: Sequence[Truth], truth_where: str, where: str, warnings: list[str]
) -> GroupDetections:
    """Matches results of one video and category, best first; warns of pairs of tracks without a single pixel."""
    # Several sizes in one video are a mistake that the protocol scores: masks of different sizes never overlap.
    sizes, line_frames = {}, max(len(one.segmentations) for one in (*detections, *truths))
    others = _decode(build_tracks, truths, truth_where, sizes, line_frames)
    areas, ious = [], []
    for part in _parts(detections):
        tracks = _decode(build_tracks, part, where, sizes, line_frames)
        _check_totals(part, tracks, where, truths, others, truth_where)
        intersections_DG, unions_DG = overlaps(tracks, others)
        warnings += [f"{where}: {part[d].key}: has no pixel to compare with {truths[g].key} of {truth_where}: both are empty, "
                     "or their frames differ in size" for d, g in np.argwhere(unions_DG == 0)]
        areas += map(_mean_area, tracks.areas_NF)
        ious.append(intersections_DG / np.maximum(unions_DG, 1))
    return match(_scores(detections), np.array(areas), _group_truths(truths), np.concatenate(ious))


def _groups_without_truths(
    groups: Mapping[Group, Sequence[Detection]], lowest_score: float, where: str
) -> dict[Group, GroupDetections]:
    """Results of one category in videos where nothing can match them, best first; only those that matter are measured."""
    detections = [detection for group in groups.values() for detection in group]
    scores = _scores(detections)
    areas = np.full(scores.size, math.nan)
    for part in _parts(np.flatnonzero(scores < lowest_score)):
        _decode(check_masks, [detections[d] for d in part], where)
    for part in _parts(np.flatnonzero(scores >= lowest_score)):
        areas[part] = [_mean_area(areas) for areas in _decode(mask_areas, [detections[d] for d in part], where)]
    spans = itertools.pairwise(itertools.accumulate(map(len, groups.values()), initial=0))
    return {group: unmatched(scores[first:end], areas[first:end]) for group, (first, end) in zip(groups, spans, strict=True)}


def _scores(detections: Sequence[Detection]) -> np.ndarray:
    return np.array([detection.score for detection in detections])


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[first : first + TRACKS_AT_ONCE] for first in range(0, len(items), TRACKS_AT_ONCE)]


def _decode(decoder: Callable[..., Any], tracks: Sequence[Detection | Truth], where: str, *arguments: Any) -> Any:
    try:
        return decoder([one.segmentations for one in tracks], *arguments)
    except MalformedMask as error:
        key = f"{tracks[error.track].key}.segmentations[{error.frame}]"
        raise UserError(where, key, error.problem, REMEDY) from None


def _mean_area(areas: np.ndarray) -> float:
    """Mean area over the frames with any foreground."""
    frames = np.count_nonzero(areas)
    return areas.sum() / frames if frames else 0.0


def _check_totals(
    detections: Sequence[Detection], tracks: Tracks, where: str, truths: Sequence[Truth], others: Tracks, truth_where: str
) -> None:
    """Refuses masks that claim one size but cover different numbers of pixels: with them the official evaluator hangs."""
    if (pair := disagreement(tracks, others)) is None:
        return
    d, g, frame = pair
    height, width = truths[g].segmentations[frame]["size"]
    total = tracks.totals_NF[d, frame]
    if total == height * width:
        where, detections, d, total = truth_where, truths, g, others.totals_NF[g, frame]
    raise UserError(where, f"{detections[d].key}.segmentations[{frame}]",
                    f"covers {total} pixels, its size says {height}x{width}", REMEDY)


def _labels(categories: Mapping[int, str]) -> list[str]:
    """The categories' names; names that several categories share come with the ids."""
    names = list(categories.values())
    return [name if names.count(name) == 1 else f"{name} ({category})" for category, name in categories.items()]
