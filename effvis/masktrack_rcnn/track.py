"""MaskTrack R-CNN through a video: each frame's detections are matched with a memory of the objects so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from effvis.data.dataset import DatasetIndex
from effvis.data.sizes import InputSize
from effvis.inference.predictor import Predictions, clips_of, collect, reader_of
from effvis.inference.tracklets import VideoTracklet
from effvis.masktrack_rcnn.config import MaskTrackInference
from effvis.masktrack_rcnn.detect import as_tracklets, find
from effvis.masktrack_rcnn.model import MaskTrackRCNN
from effvis.tracking.memory import DISCARDED, Memory


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
    memory, tracklets = Memory(config.cues), []
    for numbers, pixels in frames:
        found = find(model, pixels[0], video_size, config)
        clip = as_tracklets(found, model.config.num_classes, video_size, config)
        of_objects = memory.add(found.objects)
        tracklets += [VideoTracklet() for _ in range(len(memory) - len(tracklets))]
        for n, number in enumerate(of_objects):
            if number != DISCARDED:
                tracklets[number].add(clip, n, numbers)
    return tracklets


def predict_split(
    model: MaskTrackRCNN, index: DatasetIndex, config: MaskTrackInference, *, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Results of every video of a split.

    Args:
        progress: called with (videos done, videos).
    """
    model.eval()
    reader = reader_of(index, input_size)

    def tracklets(v: int, frames: list[int]) -> list[VideoTracklet]:
        video = index.videos[v]
        return track(model, clips_of(reader, v, frames, 1), (video.height, video.width), config)

    return collect(index, config, tracklets, progress)
