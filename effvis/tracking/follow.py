"""The way through a video: each frame's detections are matched with the memory of the objects so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet
from effvis.tracking.config import CueWeights
from effvis.tracking.memory import DISCARDED, Memory, Objects


def follow(
    detections: Callable[[Tensor], tuple[TrackletPredictions, Objects]], frames: Iterable[tuple[list[int], Tensor]],
    cues: CueWeights,
) -> list[VideoTracklet]:
    """Follows the objects of a video, frame by frame. A detection whose object another one has is dropped.

    Args:
        detections: gives those of a frame (1, 3, H, W), each a tracklet of one frame, and the same as the memory compares them.
        frames: (the frame's number in a list, the frame (1, 3, H, W)) in order.

    Returns:
        The tracklets in the order of appearance.
    """
    memory, tracklets = Memory(cues), []
    for numbers, pixels in frames:
        prediction, objects = detections(pixels)
        of_objects = memory.add(objects)
        tracklets += [VideoTracklet() for _ in range(len(memory) - len(tracklets))]
        for n, number in enumerate(of_objects):
            if number != DISCARDED:
                tracklets[number].add(prediction, n, numbers)
    return tracklets
