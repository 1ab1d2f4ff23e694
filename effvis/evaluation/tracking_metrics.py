"""HOTA, and track mAP by IoU threshold, computed by the optional package TrackEval for ``pipeline.score --hota``.

TrackEval gets the input that its own reader of the YouTube-VIS format would give it, with two exceptions: results are checked
first, as for AP, and categories that have neither ground truth nor results do not enter the means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from effvis.errors import UserError
from effvis.evaluation.average_precision import IOU_THRESHOLDS, MAX_DETECTIONS, best_first
from effvis.evaluation.inputs import read_ground_truth, read_results

FIELDS = ("HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA")
FIRST_ID = 1  # TrackEval mistakes a ground truth that is matched by track 0 for a free one


@dataclass(frozen=True)
class TrackingMetrics:
    """Fractions; -1 where there is nothing to measure a number on.

    Attributes:
        hota: HOTA and its parts, each a mean over the localisation thresholds 0.05 to 0.95 and then over categories.
        track_map: AP and AR by IoU threshold ("0.50" to "0.95"), means over categories.
        per_category: HOTA, DetA and AssA by category name.
    """

    hota: dict[str, float]
    track_map: dict[str, dict[str, float]]
    per_category: dict[str, dict[str, float]]


def tracking_metrics(
    ground_truth: Path | str | dict, results: Path | str | list, *, minimum_score: float = 0.0
) -> TrackingMetrics:
    """Scores results by TrackEval.

    Args:
        minimum_score: HOTA counts results with this score or more: it has no ranking, and each further wrong result costs
            as much as the first. Track mAP ranks results, and counts the best 100 of each (video, category).

    Raises:
        UserError: TrackEval is not installed, or the input cannot be read.
    """
    hota, track_map = _metrics()
    truth = read_ground_truth(ground_truth)
    found = read_results(results, truth)
    by_metric: dict[str, dict[str, Any]] = {"hota": {}, "map": {}}
    for category, name in truth.categories.items():
        groups = [(video, category) for video in truth.videos
                  if (video, category) in truth.truths or (video, category) in found.detections]
        if not groups:
            continue
        sequences = {group: _Sequence(truth.truths.get(group, ()), found.detections.get(group, ())) for group in groups}
        label = f"{name} ({category})" if list(truth.categories.values()).count(name) > 1 else name
        by_metric["hota"][label] = hota.combine_sequences(
            {group: hota.eval_sequence(one.frames(minimum_score)) for group, one in sequences.items()})
        by_metric["map"][label] = track_map.combine_sequences(
            {group: track_map.eval_sequence(one.tracks()) for group, one in sequences.items()})
    return TrackingMetrics(
        _means(by_metric["hota"].values(), FIELDS),
        {f"{threshold:.2f}": {name: _mean([one[f"{name}_all"][t] for one in by_metric["map"].values()])
                              for name in ("AP", "AR")} for t, threshold in enumerate(IOU_THRESHOLDS)},
        {label: _means([one], FIELDS[:3]) for label, one in by_metric["hota"].items()})


def _metrics() -> tuple[Any, Any]:
    try:
        from trackeval.metrics import HOTA, TrackMAP
    except ImportError as error:
        raise UserError("--hota", "trackeval", f"is not installed ({error})", "pip install -e '.[tracking]'") from None
    return HOTA(), TrackMAP({
        "USE_AREA_RANGES": False, "USE_TIME_RANGES": False, "PRINT_CONFIG": False, "IOU_THRESHOLDS": IOU_THRESHOLDS,
        "MAX_DETECTIONS": MAX_DETECTIONS[-1]})


class _Sequence:
    """One (video, category) in the forms that TrackEval's metrics take."""

    def __init__(self, truths: Sequence[Any], detections: Sequence[Any]):
        best = best_first(np.array([one.score for one in detections]))
        self._truths, self._detections = truths, [detections[index] for index in best]
        self._true = [_compressed(one.segmentations) for one in truths]
        self._found = [_compressed(one.segmentations) for one in self._detections]

    def tracks(self) -> dict[str, Any]:
        """Whole tracks, best score first, for track mAP."""
        return {
            "gt_track_ids": list(range(FIRST_ID, FIRST_ID + len(self._true))),
            "dt_track_ids": list(range(FIRST_ID, FIRST_ID + len(self._found))),
            "gt_tracks": [dict(enumerate(track)) for track in self._true],
            "dt_tracks": [dict(enumerate(track)) for track in self._found],
            "gt_track_iscrowd": [one.crowd for one in self._truths],
            "dt_track_scores": np.array([one.score for one in self._detections]),
            "iou_type": "mask",
        }

    def frames(self, minimum_score: float) -> dict[str, Any]:
        """Which tracks are present in each frame, and how much they overlap, for HOTA."""
        counted = [track for track, one in zip(self._found, self._detections, strict=True) if one.score >= minimum_score]
        true, found = [[track for track in tracks if any(track)] for tracks in (self._true, counted)]
        frames = [(_present(true, frame), _present(found, frame)) for frame in range(max(map(len, (*true, *found)), default=0))]
        return {
            "num_gt_ids": len(true), "num_tracker_ids": len(found),
            "num_gt_dets": sum(ids.size for ids, _ in frames), "num_tracker_dets": sum(ids.size for _, ids in frames),
            "gt_ids": [ids for ids, _ in frames], "tracker_ids": [ids for _, ids in frames],
            "similarity_scores": [_overlaps([true[g][frame] for g in true_ids], [found[d][frame] for d in found_ids])
                                  for frame, (true_ids, found_ids) in enumerate(frames)],
        }


def _present(tracks: Sequence[Sequence[Mapping | None]], frame: int) -> np.ndarray:
    return np.array([n for n, track in enumerate(tracks) if frame < len(track) and track[frame]], np.int64)


def _overlaps(true: list[Mapping], found: list[Mapping]) -> np.ndarray:
    """IoU of every mask with every other [G, D]; 0 where the sizes differ, which pycocotools marks with -1."""
    if not true or not found:
        return np.zeros((len(true), len(found)))
    return np.maximum(coco_mask.iou(true, found, [False] * len(found)), 0)


def _compressed(segmentations: Sequence[Mapping | None]) -> list[Mapping | None]:
    """The masks as pycocotools takes them: the ground truth may have run lengths as a list or an array."""
    return [coco_mask.frPyObjects({"size": mask["size"], "counts": list(map(int, mask["counts"]))}, *mask["size"])
            if mask and not isinstance(mask["counts"], (str, bytes)) else mask or None for mask in segmentations]


def _means(categories: Any, fields: Sequence[str]) -> dict[str, float]:
    """Means over TrackEval's thresholds, then over categories."""
    categories = list(categories)
    return {name: _mean([float(np.mean(one[name])) for one in categories]) for name in fields}


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if value > -1]
    return float(np.mean(defined)) if defined else -1.0
