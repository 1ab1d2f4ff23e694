"""From a split on disk to YouTube-VIS results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from effvis.config import InferenceConfig
from effvis.data.clips import FrameReader, clip_frames
from effvis.data.dataset import DatasetIndex, Video
from effvis.data.sizes import InputSize
from effvis.inference import end_to_end, handcraft
from effvis.inference.clip import TrackletPredictions
from effvis.inference.tracklets import VideoTracklet, best_results
from effvis.model.efficientvis import EfficientVIS

PredictClip = Callable[[nn.Module, Tensor, tuple[int, int], InferenceConfig], TrackletPredictions]
Track = Callable[[nn.Module, Iterable[tuple[list[int], Tensor]], tuple[int, int], InferenceConfig], list[VideoTracklet]]
Clip = tuple[list[int], TrackletPredictions]  # the numbers of its frames among the kept ones, without padding


@dataclass(frozen=True)
class Predictions:
    """Results of a split.

    Attributes:
        results: entries as the YouTube-VIS evaluator takes them; ``segmentations`` has one entry per frame of ``kept``.
        kept: the frames to be scored, by video id.
    """

    results: list[dict]
    kept: dict[int, list[int]]


def kept_frames(video: Video, test_fps: float | None) -> list[int]:
    """The frames of a video that are kept at a lower frame rate: the first, then one every ``fps / test_fps``."""
    stride = 1.0 if test_fps is None else max(1.0, video.fps / test_fps)
    return [math.floor(i * stride) for i in range(math.ceil(video.length / stride))]


def keep_predictions(predictions: Predictions, index: DatasetIndex, fps: float) -> Predictions:
    """The same predictions on only the frames that a lower frame rate keeps; a result that is absent from these is dropped.

    Raises:
        ValueError: the predictions have no mask for one of these frames.
    """
    wanted = {video.id: kept_frames(video, fps) for video in index.videos}
    places = {video: [predictions.kept[video].index(frame) for frame in frames] for video, frames in wanted.items()}
    cut = [result | {"segmentations": [result["segmentations"][place] for place in places[result["video_id"]]]}
           for result in predictions.results]
    return Predictions([result for result in cut if any(result["segmentations"])], wanted)


def predict_split(
    model: EfficientVIS, index: DatasetIndex, config: InferenceConfig, *, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Fully end-to-end results of every video of a split; arguments as ``predict_tracked``."""
    return predict_tracked(model, index, config, track=end_to_end.track, input_size=input_size, progress=progress)


def predict_tracked(
    model: nn.Module, index: DatasetIndex, config: InferenceConfig, *, track: Track, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Results of every video of a split by a method's way through a whole video.

    Args:
        track: called like ``effvis.inference.end_to_end.track``, with clips of the network's length.
        progress: called with (videos done, videos).
    """
    model.eval()
    reader = reader_of(index, input_size)

    def tracklets(v: int, frames: list[int]) -> list[VideoTracklet]:
        video = index.videos[v]
        clips = clips_of(reader, v, frames, model.config.clip_length)
        return track(model, clips, (video.height, video.width), config)

    return collect(index, config, tracklets, progress)


def predict_linked(
    model: nn.Module, index: DatasetIndex, config: InferenceConfig, *, predict: PredictClip, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Results of every video of a split by hand-crafted linking.

    Args:
        predict: the method's function that predicts one clip; it takes the network, frames (T, 3, H, W), the video's
            (height, width) and the config.
        progress: called with (videos done, videos).
    """
    clips = predict_clips(model, index, config, predict=predict, input_size=input_size, progress=progress)
    return link_clips(clips, index, config)


def predict_clips(
    model: nn.Module, index: DatasetIndex, config: InferenceConfig, *, predict: PredictClip, input_size: InputSize,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Clip]]:
    """The clips of every video, in the order of ``index.videos``, each predicted by itself; arguments as ``predict_linked``."""
    model.eval()
    reader = reader_of(index, input_size)
    clips = []
    for v, video in enumerate(index.videos):
        size = (video.height, video.width)
        frames = kept_frames(video, config.test_fps)
        clips.append([(numbers, predict(model, pixels, size, config))
                      for numbers, pixels in clips_of(reader, v, frames, model.config.clip_length)])
        if progress is not None:
            progress(v + 1, len(index.videos))
    return clips


def link_clips(clips: Sequence[Sequence[Clip]], index: DatasetIndex, config: InferenceConfig) -> Predictions:
    """Results of every video from its predicted clips, linked as ``config.handcraft`` says. The clips are not changed, so
    that they can be linked in many ways."""

    def tracklets(v: int, frames: list[int]) -> list[VideoTracklet]:
        return handcraft.link(clips[v], (index.videos[v].height, index.videos[v].width), config.handcraft)

    return collect(index, config, tracklets, None)


def reader_of(index: DatasetIndex, input_size: InputSize) -> FrameReader:
    """A frame reader that keeps no frame, because each is read once."""
    return FrameReader(index, input_size, cache_bytes=0)


def clips_of(reader: FrameReader, v: int, frames: list[int], clip_length: int) -> Iterator[tuple[list[int], Tensor]]:
    """Successive clips of the kept frames, numbered within them; the last is padded with its last frame."""
    for start in range(0, len(frames), clip_length):
        numbers = list(range(start, min(start + clip_length, len(frames))))
        pixels = reader.clip(v, [frames[i] for i in numbers])
        yield numbers, pixels[[i - start for i in clip_frames(start, clip_length, len(frames))]]


def collect(
    index: DatasetIndex, config: InferenceConfig, tracklets_of: Callable[[int, list[int]], list[VideoTracklet]],
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    """Results of every video from a function that gives the tracklets of a video, by its place in the index, in some frames.

    Args:
        progress: called with (videos done, videos).
    """
    category_ids = [category.id for category in index.categories]
    results, scored = [], {}
    for v, video in enumerate(index.videos):
        frames = kept_frames(video, config.test_fps)
        found = best_results(tracklets_of(v, frames), video_id=video.id, category_ids=category_ids, length=len(frames),
                             most=config.max_tracklets, category=config.category)
        if config.scored_frames == "all":
            found = [result | {"segmentations": _propagate(result["segmentations"], frames, video.length)} for result in found]
            frames = list(range(video.length))
        results += found
        scored[video.id] = frames
        if progress is not None:
            progress(v + 1, len(index.videos))
    return Predictions(results, scored)


def _propagate(segmentations: list, frames: list[int], length: int) -> list:
    """Gives each dropped frame the mask of the kept frame before it."""
    spread: list = [None] * length
    for i, frame in enumerate(frames):
        following = frames[i + 1] if i + 1 < len(frames) else length
        spread[frame:following] = [segmentations[i]] * (following - frame)
    return spread
