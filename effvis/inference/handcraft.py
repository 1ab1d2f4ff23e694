"""Partially end-to-end inference (table 1d): clips one by one, their tracklets linked by Hungarian matching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from effvis.config import HandcraftConfig
from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet
from effvis.model.boxes import iou


def link(
    clips: Sequence[tuple[list[int], TrackletPredictions]],
    video_size: tuple[int, int],
    config: HandcraftConfig,
) -> list[VideoTracklet]:
    """Links the tracklets of successive clips that score at least ``config.score_threshold``.

    A tracklet of the new clip is compared with every tracklet of the video by the last frame of the one and the first of
    the other: box IoU, box L1 as a share of the frame, mask IoU, and whether their most probable classes are the same, each
    with its weight in ``config``; the L1 distance is subtracted. The matching has the largest total similarity; its pairs of at
    least ``config.new_tracklet_below`` are linked, and the new clip's other tracklets begin anew.
    """
    video: list[VideoTracklet] = []
    for frames, clip in clips:
        fresh = []
        for n in range(len(clip.rles)):
            tracklet = VideoTracklet()
            tracklet.add(clip, n, frames)
            if tracklet.rles and tracklet.score_K().max() >= config.score_threshold:
                fresh.append(tracklet)
        if video and fresh:
            similarity = np.array([[_similarity(old, new, video_size, config) for new in fresh] for old in video])
            pairs = zip(*linear_sum_assignment(-similarity), strict=True)
            links = {j: i for i, j in pairs if similarity[i, j] >= config.new_tracklet_below}
        else:
            links = {}
        for j, tracklet in enumerate(fresh):
            if j in links:
                _append(video[links[j]], tracklet)
            else:
                video.append(tracklet)
    return video


def _append(old: VideoTracklet, new: VideoTracklet) -> None:
    old.probabilities += new.probabilities
    old.rles |= new.rles
    old.boxes |= new.boxes
    old.best += new.best


def _similarity(old: VideoTracklet, new: VideoTracklet, size: tuple[int, int], config: HandcraftConfig) -> float:
    last, first = max(old.rles), min(new.rles)
    boxes = torch.from_numpy(np.stack((old.boxes[last], new.boxes[first])))
    box_iou = iou(boxes[0], boxes[1])[0].item()
    l1 = ((boxes[0] - boxes[1]).abs() / boxes.new_tensor([size[1], size[0]] * 2)).sum().item()
    mask_iou = float(coco_mask.iou([old.rles[last]], [new.rles[first]], [0])[0, 0])
    same_class = float(old.score_K().argmax() == new.score_K().argmax())
    return config.box_iou * box_iou - config.box_l1 * l1 + config.mask_iou * mask_iou + config.category * same_class
