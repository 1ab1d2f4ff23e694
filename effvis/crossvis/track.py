"""Frames become tracklets, one frame after the other: an object is the one that looked like it and was there when it was seen
last, as in the authors' tools/test_vis.py."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.crossvis.config import CrossVISInference
from effvis.crossvis.detect import Objects, find_objects, masks_of
from effvis.crossvis.model import CrossVIS, FrameOutput
from effvis.data.masks import encode_many
from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet
from effvis.model.boxes import iou


class Memory:
    """How each object looked and where it was when it was seen last; nothing is forgotten."""

    def __init__(self, new_tracklet_below: float):
        self._new_tracklet_below = new_tracklet_below
        self._labels_A = torch.zeros(0, dtype=torch.long)
        self._boxes_A4 = torch.zeros(0, 4)
        self._embedding_AE: Tensor | None = None

    def add(self, labels_D: Tensor, boxes_D4: Tensor, embedding_DE: Tensor) -> list[int | None]:
        """The tracklet of each object of the next frame, numbered from 0; None for an object that is dropped.

        Each object wants the tracklet of its class with the greatest sum of cosine and IoU; below the threshold it is a new
        one. Of those that want the same tracklet, the first with the greatest sum gets it, and the others are dropped.
        """
        labels_D, boxes_D4, embedding_DE = (values.cpu() for values in (labels_D, boxes_D4, embedding_DE))
        known = len(self._labels_A)
        wanted: list[int | None] = [None] * len(labels_D)
        holders: dict[int, tuple[float, int]] = {}
        if known and len(labels_D):
            best_D, tracklet_D = self._likeness(labels_D, boxes_D4, embedding_DE).max(dim=1)
            for d, (best, tracklet) in enumerate(zip(best_D.tolist(), tracklet_D.tolist(), strict=True)):
                if best < self._new_tracklet_below:
                    continue
                wanted[d] = tracklet
                if tracklet not in holders or best > holders[tracklet][0]:
                    holders[tracklet] = best, d
        numbers = [None if tracklet is None or holders[tracklet][1] != d else tracklet for d, tracklet in enumerate(wanted)]
        new = [d for d, tracklet in enumerate(wanted) if tracklet is None]
        for number, d in enumerate(new, known):
            numbers[d] = number
        self._remember(numbers, new, labels_D, boxes_D4, embedding_DE)
        return numbers

    def _likeness(self, labels_D: Tensor, boxes_D4: Tensor, embedding_DE: Tensor) -> Tensor:
        """The sum of cosine and IoU, (D, A); -1 where classes differ."""
        cosine_DA = F.normalize(embedding_DE, dim=1) @ F.normalize(self._embedding_AE, dim=1).T
        overlap_DA, _ = iou(boxes_D4[:, None], self._boxes_A4)
        return (cosine_DA + overlap_DA).masked_fill(labels_D[:, None] != self._labels_A, -1.0)

    def _remember(
        self, numbers: list[int | None], new: list[int], labels_D: Tensor, boxes_D4: Tensor, embedding_DE: Tensor
    ) -> None:
        again = [(number, d) for d, number in enumerate(numbers) if number is not None and number < len(self._labels_A)]
        for number, d in again:
            self._boxes_A4[number], self._embedding_AE[number] = boxes_D4[d], embedding_DE[d]
        earlier = embedding_DE[:0] if self._embedding_AE is None else self._embedding_AE
        self._labels_A = torch.cat((self._labels_A, labels_D[new]))
        self._boxes_A4 = torch.cat((self._boxes_A4, boxes_D4[new]))
        self._embedding_AE = torch.cat((earlier, embedding_DE[new]))


@torch.inference_mode()
def observe(
    model: CrossVIS, frames_TCHW: Tensor, video_size: tuple[int, int], config: CrossVISInference
) -> tuple[FrameOutput, Objects]:
    """The objects of a clip of one frame, and the output that their masks are made from."""
    output = model(frames_TCHW.to(model.device))
    return output, find_objects(output, tuple(frames_TCHW.shape[-2:]), video_size, config)


@torch.inference_mode()
def predictions(
    model: CrossVIS, output: FrameOutput, found: Objects, rows: list[int], frame_size: tuple[int, int],
    video_size: tuple[int, int], config: CrossVISInference,
) -> TrackletPredictions:
    """Some of a frame's objects, with masks, as tracklets of a clip of one frame. An object has its class alone."""
    places = found.places_D[rows]
    masks = masks_of(model, output, places, frame_size, video_size, config.mask_threshold)
    rles = [rle for part in masks for rle in encode_many(part.cpu().numpy())]
    probabilities_N1K = np.zeros((len(rows), 1, model.config.num_classes), dtype=np.float32)
    scores, labels = (values[rows].cpu().numpy() for values in (found.scores_D, found.labels_D))
    probabilities_N1K[np.arange(len(rows)), 0, labels] = scores
    return TrackletPredictions(probabilities_N1K, np.ones((len(rows), 1), dtype=bool),
                               found.boxes_D4[rows, None].cpu().numpy(), [[rle] for rle in rles])


def predict_clip(
    model: CrossVIS, frames_TCHW: Tensor, video_size: tuple[int, int], config: CrossVISInference
) -> TrackletPredictions:
    """All objects of a clip of one frame, by itself; arguments as ``effvis.inference.clip.predict_alone``."""
    output, found = observe(model, frames_TCHW, video_size, config)
    rows = list(range(len(found.labels_D)))
    return predictions(model, output, found, rows, tuple(frames_TCHW.shape[-2:]), video_size, config)


def track(
    model: CrossVIS, frames: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: CrossVISInference
) -> list[VideoTracklet]:
    """Follows the objects of a video. Masks are made only of objects that belong to a tracklet.

    Args:
        frames: (the frame's number in a list, the frame (1, 3, H, W) uint8 at input size) in order.
        video_size: (height, width), in whose pixels masks and boxes are returned.

    Returns:
        The tracklets in the order of appearance.
    """
    memory, tracklets = Memory(config.new_tracklet_below), []
    for numbers, pixels in frames:
        output, found = observe(model, pixels, video_size, config)
        tracklet_of = memory.add(found.labels_D, found.boxes_D4, found.embedding_DE)
        rows = [d for d, tracklet in enumerate(tracklet_of) if tracklet is not None]
        prediction = predictions(model, output, found, rows, tuple(pixels.shape[-2:]), video_size, config)
        tracklets += [VideoTracklet() for _ in range(max((tracklet_of[d] + 1 for d in rows), default=0) - len(tracklets))]
        for n, d in enumerate(rows):
            tracklets[tracklet_of[d]].add(prediction, n, numbers)
    return tracklets
