"""MaskTrack R-CNN through a video: each frame's detections are matched with a memory of the objects so far."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet
from effvis.masktrack_rcnn.config import MaskTrackInference
from effvis.masktrack_rcnn.detect import as_tracklets, find
from effvis.masktrack_rcnn.model import MaskTrackRCNN
from effvis.tracking.follow import follow
from effvis.tracking.memory import Objects


def track(
    model: MaskTrackRCNN, frames: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: MaskTrackInference
) -> list[VideoTracklet]:
    """Follows the objects of a video, frame by frame. Returns the tracklets in the order of appearance.

    A tracklet's class is that of most of its detections, and its score their mean, as in the authors' code
    (``VideoTracklet.vote``).

    Args:
        frames: (the frame's number in a list, the frame (1, 3, H, W) uint8 at input size) in order.
        video_size: (height, width), in whose pixels masks and boxes are returned.
    """
    def detections(frame_13HW: Tensor) -> tuple[TrackletPredictions, Objects]:
        found = find(model, frame_13HW[0], video_size, config)
        return as_tracklets(found, model.config.num_classes, video_size, config), found.objects

    return follow(detections, frames, config.cues)
