"""The contents of pictures of a video: its instances, a run's tracklets, and the colour of each tracklet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from effvis.data.clips import FrameReader, clip_frames
from effvis.errors import UserError
from effvis.evaluation.tracks import build_tracks, overlaps
from effvis.inference import end_to_end
from effvis.inference.predictor import kept_frames
from pipeline.runs.store import RunStore

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from effvis.config import InferenceConfig
    from effvis.data.dataset import DatasetIndex
    from effvis.data.masks import RLE
    from effvis.data.sizes import InputSize
    from effvis.model.efficientvis import EfficientVIS
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params


@dataclass(frozen=True)
class DrawnTracklet:
    """An instance or a tracklet of a video.

    Attributes:
        rles: its masks by frame of the video, without frames in which it is absent.
        text: its category and, for a tracklet, its score.
        boxes: its proposals by frame, each (4,), xyxy in pixels of the video; empty if they are not to be drawn.
    """

    rles: Mapping[int, RLE]
    text: str
    boxes: Mapping[int, np.ndarray] = field(default_factory=dict)

    def without_boxes(self) -> DrawnTracklet:
        return DrawnTracklet(self.rles, self.text)


def evenly(total: int, wanted: int) -> list[int]:
    """``wanted`` positions among ``total``, evenly spaced, including the first and the last."""
    if wanted >= total:
        return list(range(total))
    if wanted == 1:
        return [0]
    return [round(i * (total - 1) / (wanted - 1)) for i in range(wanted)]


def truth(index: DatasetIndex, v: int) -> list[DrawnTracklet]:
    """The instances of a video."""
    return [
        DrawnTracklet({frame: rle for frame, rle in enumerate(track.rles) if rle}, index.categories[track.label].name)
        for track in index.tracks_of(v) if not track.iscrowd
    ]


def stored_results(params: Params, spec: EvalSpec) -> list[dict[str, Any]]:
    """The results that an evaluation scored, in the form that the YouTube-VIS evaluator accepts.

    Raises:
        UserError: the run is not evaluated, or its results are elsewhere.
    """
    store = RunStore(params.runs_dir)
    folder = store.evaluation_folder(spec.train.key, spec.key)
    if store.evaluation(spec.train.key, spec.key) is None:
        raise UserError(folder, "results.json", "this run is not evaluated",
                        "Run python -m pipeline.train and pipeline.evaluate, or pipeline.ablate for a row, first")
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def scored_frames(spec: EvalSpec, index: DatasetIndex, v: int) -> list[int]:
    """The frames of a video that results have an entry for: all, or those that a lower frame rate keeps."""
    return kept_frames(index.videos[v], spec.inference.test_fps if spec.inference.scored_frames == "kept" else None)


def from_results(
    results: Sequence[Mapping[str, Any]], spec: EvalSpec, index: DatasetIndex, v: int, minimum_score: float
) -> list[DrawnTracklet]:
    """The tracklets of a video that reach the minimum score. A tracklet with several categories keeps the best one."""
    frames = scored_frames(spec, index, v)
    names = {category.id: category.name for category in index.categories}
    own = [result for result in results if result["video_id"] == index.videos[v].id and result["score"] >= minimum_score]
    return [
        DrawnTracklet({frame: rle for frame, rle in zip(frames, result["segmentations"], strict=True) if rle},
              f"{names[result['category_id']]} {result['score']:.2f}")
        for result in _one_category_each(own)
    ]


def _one_category_each(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best result of each group of results with the same masks."""
    best: dict[str, Mapping[str, Any]] = {}
    for result in results:
        masks = json.dumps(result["segmentations"])
        if masks not in best or result["score"] > best[masks]["score"]:
            best[masks] = result
    return list(best.values())


def tracked(
    model: EfficientVIS, inference: InferenceConfig, index: DatasetIndex, v: int, input_size: InputSize,
    minimum_score: float,
) -> list[DrawnTracklet]:
    """As ``from_results``, but predicted now, end-to-end, and with proposals, which stored results do not hold."""
    video = index.videos[v]
    kept = kept_frames(video, inference.test_fps)
    clips = _clips(FrameReader(index, input_size), v, kept, model.config.clip_length)
    found = []
    for tracklet in end_to_end.track(model, clips, (video.height, video.width), inference):
        if tracklet.rles and (score := tracklet.score_K()).max() >= minimum_score:
            found.append(DrawnTracklet(
                {kept[place]: rle for place, rle in tracklet.rles.items()},
                f"{index.categories[int(score.argmax())].name} {score.max():.2f}",
                {kept[place]: box_4 for place, box_4 in tracklet.boxes.items()}))
    return found


def _clips(reader: FrameReader, v: int, kept: Sequence[int], clip_length: int) -> Iterator[tuple[list[int], Tensor]]:
    for start in range(0, len(kept), clip_length):
        places = clip_frames(start, clip_length, len(kept))
        yield list(dict.fromkeys(places)), reader.clip(v, [kept[place] for place in places])


def video_ious(found: Sequence[DrawnTracklet], instances: Sequence[DrawnTracklet], frames: Sequence[int]) -> np.ndarray:
    """Video IoU, as in video AP, of D tracklets with G instances over these frames of a video: (D, G)."""
    sizes: dict[tuple, int] = {}
    tracks, others = (build_tracks([[one.rles.get(frame) for frame in frames] for one in group], sizes, len(frames))
                      for group in (found, instances))
    intersections_DG, unions_DG = overlaps(tracks, others)
    return intersections_DG / np.maximum(unions_DG, 1)


def followed(found: Sequence[DrawnTracklet], instances: Sequence[DrawnTracklet], frames: Sequence[int]) -> list[int]:
    """For each tracklet, the number of the instance that it follows, or a new number if it follows none.

    At most one tracklet follows an instance: the pairs have the largest sum of video IoUs. A tracklet that changes to another
    instance keeps its number, so that its colour is wrong there.
    """
    ious_DG = video_ious(found, instances, frames)
    pairs = {int(d): int(g) for d, g in zip(*linear_sum_assignment(-ious_DG), strict=True) if ious_DG[d, g] > 0}
    others = iter(range(len(instances), len(instances) + len(found)))
    return [pairs[d] if d in pairs else next(others) for d in range(len(found))]


def mean_best_iou(found: Sequence[DrawnTracklet], instances: Sequence[DrawnTracklet], frames: Sequence[int]) -> float:
    """Mean, over a video's instances, of the video IoU of the tracklet that fits each best; 0 if none overlaps it."""
    if not found:
        return 0.0
    return float(video_ious(found, instances, frames).max(axis=0).mean())
