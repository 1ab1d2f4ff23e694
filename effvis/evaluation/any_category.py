"""Ground truth and results with their categories ignored, so that networks can be compared that know different ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# The number beside the 12: AP of what this module makes, by the same evaluator.
ANY_CATEGORY = "AP_any_category"
_ONE = {"id": 1, "name": "object"}


def one_category(ground_truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], list[dict]]:
    """Both with one category in the place of all; the input is not changed.

    Results of a video that differ in category and score alone are one tracklet, and become the one with the best score: a
    network that cannot tell two categories apart would otherwise seem to find each object twice.
    """
    truth = {**ground_truth, "categories": [_ONE],
             "annotations": [{**annotation, "category_id": _ONE["id"]} for annotation in ground_truth["annotations"]]}
    best: dict[tuple, dict] = {}
    for result in results:
        masks = tuple(mask and mask["counts"] for mask in result["segmentations"])
        known = best.get((result["video_id"], masks))
        if known is None or result["score"] > known["score"]:
            best[result["video_id"], masks] = {**result, "category_id": _ONE["id"]}
    return truth, list(best.values())
