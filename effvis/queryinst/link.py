"""Frames become tracklets: what a frame shows is matched with what the frames before it showed, as frame-level systems do.

MinVIS (Huang et al., NeurIPS 2022) showed that the queries of a network that was trained on images suffice to know an object
again. Here the boxes, the masks and the classes may count as well (``FrameLinking``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from effvis.data.dataset import DatasetIndex
from effvis.data.masks import RLE
from effvis.data.sizes import InputSize
from effvis.inference.clip import TrackletPredictions, predict_clip
from effvis.inference.predictor import Predictions, clips_of, collect, kept_frames, reader_of
from effvis.inference.tracklets import VideoTracklet
from effvis.model.boxes import iou
from effvis.model.efficientvis import EfficientVIS
from effvis.queryinst.config import FrameLinking, QueryInstInference
from effvis.queryinst.follow import follow


@dataclass(frozen=True, eq=False)
class Objects:
    """D objects.

    Attributes:
        query_DC: their refined queries.
        boxes_D4: xyxy in pixels of the video.
        rles: their masks at the video's size.
        probabilities_DK: of the classes.
    """

    query_DC: np.ndarray
    boxes_D4: np.ndarray
    rles: list[RLE]
    probabilities_DK: np.ndarray

    def __len__(self) -> int:
        return len(self.rles)

    def select(self, chosen: np.ndarray) -> Objects:
        """The objects at some places."""
        return Objects(self.query_DC[chosen], self.boxes_D4[chosen], [self.rles[place] for place in chosen],
                       self.probabilities_DK[chosen])

    def joined(self, others: Objects) -> Objects:
        """These objects, then the others."""
        return Objects(np.concatenate((self.query_DC, others.query_DC)), np.concatenate((self.boxes_D4, others.boxes_D4)),
                       self.rles + others.rles, np.concatenate((self.probabilities_DK, others.probabilities_DK)))


class Linker:
    """Numbers the objects of one frame after the other, so that an object has the same number in all of them.

    It remembers how each object looked when it was seen last, for ``forget_after`` frames, and of no more than ``remembered``
    objects: what a frame costs does not depend on the frames before.
    """

    def __init__(self, config: FrameLinking):
        self._config = config
        self._known: Objects | None = None
        self._numbers = np.zeros(0, dtype=int)
        self._away = np.zeros(0, dtype=int)  # frames since each was seen: 1 in the frame before
        self._next = 0

    def __len__(self) -> int:
        """How many objects it remembers."""
        return len(self._numbers)

    def add(self, seen: Objects) -> np.ndarray:
        """The numbers (D,), from 0, of the objects of the next frame. One that is like none before gets a new number."""
        numbers = np.full(len(seen), -1)
        self._away += 1
        if self._known is not None and len(seen) and len(self._known):
            gain_AD = similarity(self._known, seen, self._away, self._config) - self._config.new_tracklet_below
            # A pair below the threshold gains nothing, so that it takes no partner from another pair.
            for old, new in zip(*linear_sum_assignment(-np.maximum(gain_AD, 0)), strict=True):
                if gain_AD[old, new] >= 0:
                    numbers[new] = self._numbers[old]
        new = numbers < 0
        numbers[new] = self._next + np.arange(new.sum())
        self._next += int(new.sum())
        self._remember(seen, numbers)
        return numbers

    def _remember(self, seen: Objects, numbers: np.ndarray) -> None:
        waiting = np.flatnonzero(~np.isin(self._numbers, numbers) & (self._away <= self._config.forget_after))
        # Those that were seen last come first, and fill the places that the frame's own objects leave.
        waiting = waiting[np.argsort(self._away[waiting], kind="stable")][: max(0, self._config.remembered - len(seen))]
        self._known = seen if self._known is None else seen.joined(self._known.select(waiting))
        self._numbers = np.concatenate((numbers, self._numbers[waiting]))
        self._away = np.concatenate((np.zeros(len(seen), dtype=int), self._away[waiting]))


def similarity(known: Objects, seen: Objects, away_A: np.ndarray, config: FrameLinking) -> np.ndarray:
    """How alike A known and D seen objects are, (A, D): the weighted mean of four similarities, each at most 1.

    The weights of box and mask are divided by the frames since the object was seen: the longer it is away, the less it is
    expected where it was.

    Args:
        away_A: frames since each known object was seen; 1 in the frame before.
    """
    place_A1 = 1 / away_A[:, None]
    total = np.zeros((len(known), len(seen)))
    weights = np.zeros((len(known), 1))
    for weight, measure, factor in (
        (config.query, lambda: _cosine(known.query_DC, seen.query_DC), 1.0),
        (config.category, lambda: _cosine(known.probabilities_DK, seen.probabilities_DK), 1.0),
        (config.box_iou, lambda: _box_iou(known.boxes_D4, seen.boxes_D4), place_A1),
        (config.mask_iou, lambda: coco_mask.iou(known.rles, seen.rles, [0] * len(seen)), place_A1),
    ):
        if weight:
            total += weight * factor * measure()
            weights += weight * factor
    return total / weights


def _cosine(a_AC: np.ndarray, b_DC: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(a_AC, axis=1)[:, None] * np.linalg.norm(b_DC, axis=1)
    return a_AC @ b_DC.T / np.maximum(lengths, 1e-12)


def _box_iou(a_A4: np.ndarray, b_D4: np.ndarray) -> np.ndarray:
    return iou(torch.from_numpy(a_A4)[:, None], torch.from_numpy(b_D4)[None])[0].numpy()


@dataclass(frozen=True, eq=False)
class Frame:
    """What the network sees in one frame.

    Attributes:
        numbers: the frame's number, in a list.
        prediction: of all its proposals.
        present: the proposals that are there.
        objects: the same, as they are compared.
    """

    numbers: list[int]
    prediction: TrackletPredictions
    present: np.ndarray
    objects: Objects


def observe(
    model: EfficientVIS, frames: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: QueryInstInference
) -> Iterator[Frame]:
    """Each frame of a video by itself; a proposal is there where it reaches ``config.presence_threshold``.

    Args:
        frames: (the frame's number in a list, the frame (1, 3, H, W)) in order.
        video_size: (height, width), in whose pixels masks and boxes are returned.
    """
    for numbers, pixels in frames:
        prediction, query_NTC = predict_clip(model, pixels, None, video_size, config)
        present = np.flatnonzero(prediction.present_NT[:, 0])
        yield Frame(numbers, prediction, present, Objects(
            query_NTC[:, 0].float().cpu().numpy()[present], prediction.boxes_NT4[present, 0],
            [prediction.rles[n][0] for n in present], prediction.probabilities_NTK[present, 0]))


def linked(frames: Iterable[Frame], config: FrameLinking) -> list[VideoTracklet]:
    """The tracklets of a video in the order of appearance. The frames are not changed: they can be linked in many ways."""
    linker, tracklets = Linker(config), []
    for frame in frames:
        for n, number in zip(frame.present, linker.add(frame.objects), strict=True):
            if number == len(tracklets):
                tracklets.append(VideoTracklet())
            tracklets[number].add(frame.prediction, n, frame.numbers)
    return tracklets


def track(
    model: EfficientVIS, frames: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: QueryInstInference
) -> list[VideoTracklet]:
    """Follows the objects of a video, frame by frame, by the tracking head where the network has one; arguments as ``observe``.
    Returns the tracklets in the order of appearance."""
    if model.config.tracking == "head":
        return follow(model, frames, video_size, config)
    return linked(observe(model, frames, video_size, config), config.frames)


def observe_split(
    model: EfficientVIS, index: DatasetIndex, config: QueryInstInference, *, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Frame]]:
    """The frames of every video, in the order of ``index.videos``.

    Args:
        progress: called with (videos done, videos).
    """
    model.eval()
    reader, seen = reader_of(index, input_size), []
    for v, video in enumerate(index.videos):
        frames = clips_of(reader, v, kept_frames(video, config.test_fps), 1)
        seen.append(list(observe(model, frames, (video.height, video.width), config)))
        if progress is not None:
            progress(v + 1, len(index.videos))
    return seen


def link_split(seen: list[list[Frame]], index: DatasetIndex, config: QueryInstInference) -> Predictions:
    """Results of every video from what was seen in its frames."""
    return collect(index, config, lambda v, _: linked(seen[v], config.frames), None)
