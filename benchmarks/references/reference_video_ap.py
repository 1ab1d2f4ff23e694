"""The YouTube-VIS protocol written out literally: one loop per word of its definition, without regard to speed.

It is the second opinion in the tests (randomised problems over every quirk) and the baseline of ``benchmarks/evaluator.py``.
Input must be well formed; what the official evaluator does with malformed input is not reproduced here.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
AREA_RANGES = {"all": (0, 1e10), "small": (0, 128**2), "medium": (128**2, 256**2), "large": (256**2, 1e10)}


def evaluate_files(ground_truth: Path, results: Path) -> dict:
    """Reads two JSON files and scores them."""
    return evaluate(json.loads(Path(ground_truth).read_text()), json.loads(Path(results).read_text()))


def evaluate(ground_truth: dict, results: list[dict]) -> dict:
    """Returns ``metrics`` (the 12 numbers), ``per_category`` (by category id) and ``ious`` (by (video, category) ids)."""
    videos = sorted({video["id"] for video in ground_truth["videos"]})
    categories = sorted({category["id"] for category in ground_truth["categories"]})
    truths = _truths_by_group(ground_truth, videos, categories)
    detections = _detections_by_group(results)

    ious, evaluations = {}, {}
    for video in videos:
        for category in categories:
            group = (video, category)
            if not truths[group] and not detections[group]:
                continue
            overlaps = [[track_iou(d["masks"], t["masks"]) for t in truths[group]] for d in detections[group]]
            ious[group] = np.array(overlaps).reshape(len(detections[group]), len(truths[group]))
            for name, limits in AREA_RANGES.items():
                evaluations[group, name] = _match(truths[group], detections[group], ious[group], limits)
    return {**_accumulate(evaluations, videos, categories), "ious": ious}


def track_iou(first: list, second: list) -> float:
    """The sum of the intersections over the sum of the unions, frame by frame, up to the end of the shorter list."""
    intersection = union = 0.0
    for a, b in zip(first, second, strict=False):
        if a and b:
            intersection += float(coco_mask.area(coco_mask.merge([a, b], True)))
            union += float(coco_mask.area(coco_mask.merge([a, b], False)))
        elif a or b:
            union += float(coco_mask.area(a or b))
    return intersection / union if union > 0 else 0.0


def _truths_by_group(ground_truth, videos, categories):
    sizes = {video["id"]: (video["height"], video["width"]) for video in ground_truth["videos"]}
    last_of_id = {annotation["id"]: annotation for annotation in ground_truth["annotations"]}
    groups = defaultdict(list)
    for video in videos:
        for occurrence in ground_truth["annotations"]:
            if occurrence["video_id"] != video or occurrence["category_id"] not in categories:
                continue
            annotation = last_of_id[occurrence["id"]]
            areas = [area for area in annotation["areas"] if area]
            groups[annotation["video_id"], annotation["category_id"]].append({
                "id": annotation["id"],
                "crowd": int(annotation["iscrowd"]),
                "area": np.mean(areas) if areas else 0.0,
                "masks": [_rle(mask, *sizes[annotation["video_id"]]) for mask in annotation["segmentations"]],
            })
    return groups


def _rle(mask, height, width):
    if not mask:
        return None
    if isinstance(mask, list):
        return coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    return coco_mask.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def _detections_by_group(results):
    groups = defaultdict(list)
    for number, result in enumerate(results, start=1):
        areas = [int(coco_mask.area(mask)) for mask in result["segmentations"] if mask]
        areas = [area for area in areas if area]
        groups[result["video_id"], result["category_id"]].append({
            "id": number,
            "score": result["score"],
            "area": np.mean(areas) if areas else 0.0,
            "masks": result["segmentations"],
        })
    # sorted() keeps the order of equal scores, as the protocol's merge sort does.
    best_first = {group: sorted(found, key=lambda detection: -detection["score"]) for group, found in groups.items()}
    return defaultdict(list, {group: found[: MAX_DETECTIONS[-1]] for group, found in best_first.items()})


def _match(truths, detections, ious, limits):
    ignored = [int(bool(t["crowd"]) or t["area"] < limits[0] or t["area"] > limits[1]) for t in truths]
    order = sorted(range(len(truths)), key=lambda index: ignored[index])
    matched_id = np.zeros((len(IOU_THRESHOLDS), len(detections)))
    ignore = np.zeros((len(IOU_THRESHOLDS), len(detections)), bool)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        taken = set()
        for d, detection in enumerate(detections):
            best_iou, best = min(threshold, 1 - 1e-10), None
            for g in order:
                if g in taken and not truths[g]["crowd"]:
                    continue
                if best is not None and not ignored[best] and ignored[g]:
                    break
                if ious[d, g] >= best_iou:
                    best_iou, best = ious[d, g], g
            if best is not None:
                taken.add(best)
                matched_id[t, d] = truths[best]["id"]
                ignore[t, d] = ignored[best]
            if matched_id[t, d] == 0 and not limits[0] <= detection["area"] <= limits[1]:
                ignore[t, d] = True
    return {
        "scores": [detection["score"] for detection in detections],
        "matched": matched_id != 0,
        "ignore": ignore,
        "positives": ignored.count(0),
    }


def _accumulate(evaluations, videos, categories):
    shape = (len(IOU_THRESHOLDS), len(categories))
    precision = {area: np.full((shape[0], len(RECALL_THRESHOLDS), shape[1]), -1.0) for area in AREA_RANGES}
    recall = {(area, cut): np.full(shape, -1.0) for area in AREA_RANGES for cut in MAX_DETECTIONS}
    for k, category in enumerate(categories):
        for area in AREA_RANGES:
            found = [evaluations[(video, category), area] for video in videos if ((video, category), area) in evaluations]
            positives = sum(evaluation["positives"] for evaluation in found)
            if positives == 0:
                continue
            for cut in MAX_DETECTIONS:
                curves, recall[area, cut][:, k] = _curve(found, positives, cut)
            precision[area][:, :, k] = curves

    def mean(values):
        return float(np.mean(values[values > -1])) if (values > -1).any() else -1.0

    every, at_most_100 = precision["all"], recall["all", 100]
    metrics = {"AP": mean(every), "AP50": mean(every[0]), "AP75": mean(every[5]), "APs": mean(precision["small"]),
               "APm": mean(precision["medium"]), "APl": mean(precision["large"])}
    metrics |= {f"AR{cut}": mean(recall["all", cut]) for cut in MAX_DETECTIONS}
    metrics |= {"AR" + area[0]: mean(recall[area, 100]) for area in ("small", "medium", "large")}
    per_category = {
        category: {"AP": mean(every[:, :, k]), "AP50": mean(every[0, :, k]), "AR100": mean(at_most_100[:, k])}
        for k, category in enumerate(categories)
    }
    return {"metrics": metrics, "per_category": per_category}


def _curve(found, positives, cut):
    scores = [score for evaluation in found for score in evaluation["scores"][:cut]]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    matched = np.concatenate([evaluation["matched"][:, :cut] for evaluation in found], axis=1)[:, order]
    counted = ~np.concatenate([evaluation["ignore"][:, :cut] for evaluation in found], axis=1)[:, order]
    precision, recall = np.zeros((len(IOU_THRESHOLDS), len(RECALL_THRESHOLDS))), np.zeros(len(IOU_THRESHOLDS))
    for t in range(len(IOU_THRESHOLDS)):
        hits, misses, levels, heights = 0, 0, [], []
        for hit, counts in zip(matched[t], counted[t], strict=True):
            hits += bool(hit and counts)
            misses += bool(not hit and counts)
            levels.append(hits / positives)
            heights.append(hits / (misses + hits + np.spacing(1)))
        for i in range(len(heights) - 1, 0, -1):
            heights[i - 1] = max(heights[i - 1], heights[i])
        for r, i in enumerate(np.searchsorted(levels, RECALL_THRESHOLDS, side="left")):
            if i < len(heights):
                precision[t, r] = heights[i]
        recall[t] = levels[-1] if levels else 0.0
    return precision, recall
