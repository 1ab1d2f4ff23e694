"""Frames in, tracklets out: one video of any length, clip by clip. Only run lengths grow with the video, never pixels."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from effvis.config import InferenceConfig
from effvis.data.clips import clip_frames
from effvis.data.dataset import Category
from effvis.data.masks import RLE, decode
from effvis.data.sizes import InputSize, frame_size
from effvis.errors import UserError
from effvis.inference import handcraft
from effvis.inference.detections import Detections
from effvis.inference.tracklets import VideoTracklet
from effvis.methods import of_network

Frame = np.ndarray | Image.Image
MINIMUM_SCORE = 0.3


@dataclass(frozen=True, eq=False)
class Tracklet:
    """One identity through a video.

    Attributes:
        id: number from 1, in the order of appearance.
        rank: place from 1 by score among all tracklets of the video, whichever are left out: its colour when it is drawn.
        category: the category with the highest mean probability over the frames where the tracklet is present.
        score: that mean probability.
        rles: masks by frame number, as compressed COCO RLE at the video's size; no entry where the tracklet is absent.
        boxes: the network's boxes (4,) by frame number, xyxy in pixels of the video.
        probabilities: the category's probabilities by frame number.
    """

    id: int
    rank: int
    category: Category
    score: float
    rles: Mapping[int, RLE]
    boxes: Mapping[int, np.ndarray]
    probabilities: Mapping[int, float]

    def mask(self, frame: int) -> np.ndarray | None:
        """The mask (H, W) bool in a frame; None where the tracklet is absent."""
        return decode(self.rles[frame]) if frame in self.rles else None


@dataclass(frozen=True, eq=False)
class TrackedVideo:
    """The tracklets of a video of ``length`` frames; sizes in pixels."""

    height: int
    width: int
    length: int
    tracklets: tuple[Tracklet, ...]

    def results(self, video_id: int = 1) -> list[dict]:
        """One YouTube-VIS result per tracklet, with an entry per frame in ``segmentations``."""
        return [
            {"video_id": video_id, "category_id": tracklet.category.id, "score": tracklet.score,
             "segmentations": [tracklet.rles.get(frame) for frame in range(self.length)]}
            for tracklet in self.tracklets
        ]


def categories_named(categories: Sequence[Category], names: Collection[str]) -> set[Category]:
    """The categories with these names.

    Raises:
        UserError: none of them has one of the names; it lists those that are near.
    """
    for name in names:
        if not any(category.name == name for category in categories):
            known = {category.name.casefold(): category.name for category in categories}
            near = [known[one] for one in difflib.get_close_matches(name.casefold(), known)]
            remedy = f"Near it are {', '.join(near)}" if near else f"The model knows {', '.join(known.values())}"
            raise UserError("classes", repr(name), "the model knows no class of this name", remedy)
    return {category for category in categories if category.name in names}


class Predictor:
    """A trained network, ready for videos.

    Args:
        input_size: how frames are resized; (height, width), or the rule by which they keep their ratio.
        inference: the settings of inference. Its frame rate and its number of tracklets are ignored: every given frame is
            used, and every tracklet is returned.
        categories: the categories in the order of the network's classes.
    """

    def __init__(
        self, model: nn.Module, *, input_size: InputSize, inference: InferenceConfig,
        categories: Sequence[Category],
    ):
        self.model = model.eval()
        self.input_size, self.inference, self.categories = input_size, inference, tuple(categories)

    def track(
        self, frames: Iterable[Frame], *, minimum_score: float = MINIMUM_SCORE, classes: Collection[str] | None = None,
    ) -> TrackedVideo:
        """Follows every object through a video.

        Args:
            frames: the frames of one video in order of time, all of one size: RGB uint8 (H, W, 3) arrays or PIL images. They
                are read one clip at a time, so a generator of any length will do.
            minimum_score: tracklets with a lower score are left out.
            classes: names of categories; tracklets of others are left out. None keeps all.

        Raises:
            UserError: there is no frame, a frame has another type or size, or the model knows no such class.
            Exception: what ``frames`` raises passes through, and what was tracked so far is lost. So a damaged video raises
                ``effvis.video.BrokenVideo``. To keep what came before the damage, give ``UntilBroken(video.frames())`` and
                look at its ``error`` afterwards.
        """
        wanted = set(self.categories) if classes is None else categories_named(self.categories, classes)
        clips = _Clips(frames, self.model.config.clip_length, self.input_size)
        followed = [tracklet for tracklet in self._follow(clips) if tracklet.rles]
        classed = [(tracklet, *tracklet.best_class(self.inference.category)) for tracklet in followed]
        classed = [(tracklet, label, score) for tracklet, label, score in classed if label >= 0]
        ranks = {i: rank for rank, i in enumerate(sorted(range(len(classed)), key=lambda i: -classed[i][2]), 1)}
        found = [(ranks[i], tracklet, label, score) for i, (tracklet, label, score) in enumerate(classed)
                 if score >= minimum_score and self.categories[label] in wanted]
        found.sort(key=lambda entry: min(entry[1].rles))
        numbered = tuple(self._named(number, *entry) for number, entry in enumerate(found, 1))
        return TrackedVideo(*clips.size, clips.length, numbered)

    def detect(self, frame: Frame, *, resize: bool = True) -> Detections:
        """The objects of a single frame.

        Args:
            frame: RGB uint8 (H, W, 3) array or PIL image.
            resize: resize the frame by the model's rule; otherwise the network sees it as it is, only padded.

        Raises:
            UserError: it is no such frame, or the network needs a clip.
        """
        method = of_network(self.model)
        if method.detect is None:
            raise UserError("model", "method", f"{self.model.config.method} finds nothing in a single frame",
                            "Give its frames to track, or load a model of a method that detects")
        image = _image(frame, "frame")
        size = image.size[::-1]
        image = _resized(image, frame_size(self.input_size, *size) if resize else size)
        return method.detect(self.model, torch.from_numpy(np.array(image)).permute(2, 0, 1), size)

    def _follow(self, clips: _Clips) -> list[VideoTracklet]:
        method = of_network(self.model)
        if method.track is not None and self.inference.linking == "end-to-end":
            return method.track(self.model, clips, clips.size, self.inference)
        if method.link is not None:
            return method.link(self.model, clips, clips.size, self.inference)
        predicted = [(numbers, method.predict_clip(self.model, pixels, clips.size, self.inference))
                     for numbers, pixels in clips]
        return handcraft.link(predicted, clips.size, self.inference.handcraft)

    def _named(self, number: int, rank: int, tracklet: VideoTracklet, label: int, score: float) -> Tracklet:
        probabilities = {frame: float(probability_K[label])
                         for frame, probability_K in zip(tracklet.rles, tracklet.probabilities, strict=True)}
        return Tracklet(number, rank, self.categories[label], score, tracklet.rles, tracklet.boxes, probabilities)


class _Clips:
    """Successive clips of frames as they come, the last one padded with its last frame. Iterate over it only once.

    Attributes:
        size: (height, width) of the video.
        length: number of frames read so far.
    """

    def __init__(self, frames: Iterable[Frame], clip_length: int, input_size: InputSize):
        coming = iter(frames)
        first = next(coming, None)
        if first is None:
            raise UserError("video", "frames", "there is no frame", "Give one frame at least")
        self._clip_length = clip_length
        self.length = 0
        self.size = _image(first, "frames[0]").size[::-1]
        self._input_size = frame_size(input_size, *self.size)
        self._frames = itertools.chain((first,), coming)

    def __iter__(self) -> Iterator[tuple[list[int], Tensor]]:
        """Yields (frame numbers, frames (T, 3, H, W) uint8 at input size); a padded clip has fewer numbers than frames."""
        while (following := self._next()) is not None:
            yield following

    def _next(self) -> tuple[list[int], Tensor] | None:
        # Separate from the loop, whose variables would keep a clip's frames alive until the next clip's frames are read.
        group = [self._resized(frame) for frame in itertools.islice(self._frames, self._clip_length)]
        if not group:
            return None
        numbers = list(range(self.length - len(group), self.length))
        pixels = torch.from_numpy(np.stack(group)).permute(0, 3, 1, 2)
        return numbers, pixels[clip_frames(0, self._clip_length, len(group))]

    def _resized(self, frame: Frame) -> np.ndarray:
        """A frame resized as a data set's frames are; otherwise the network would see other pixels than in training."""
        image = _image(frame, f"frames[{self.length}]")
        height, width = self.size
        if image.size != (width, height):
            found = f"is {image.width}x{image.height}, the first is {width}x{height}"
            raise UserError("video", f"frames[{self.length}]", found, "Give frames of one size")
        self.length += 1
        return np.asarray(_resized(image, self._input_size))


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def _image(frame: Frame, name: str) -> Image.Image:
    if isinstance(frame, Image.Image):
        return frame.convert("RGB")
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
        what = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError("video", name, f"is {what}, not an RGB frame",
                        "Give uint8 arrays (height, width, 3) or PIL images")
    return Image.fromarray(frame)
