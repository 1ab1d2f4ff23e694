"""Tracklets of a whole video, put together clip by clip."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from effvis.inference.clip import TrackletPredictions


@dataclass
class VideoTracklet:
    """One identity over a video.

    Attributes:
        probabilities: class probabilities (K,) of each frame in which it is present.
        rles: masks by frame number.
        boxes: boxes (4,) by frame number, xyxy in pixels of the video.
        best: the best class and its probability in each frame of its clips, present or not (``TrackletPredictions.best``).
    """

    probabilities: list[np.ndarray] = field(default_factory=list)
    rles: dict[int, dict] = field(default_factory=dict)
    boxes: dict[int, np.ndarray] = field(default_factory=dict)
    best: list[tuple[int, float]] = field(default_factory=list)

    def add(self, clip: TrackletPredictions, n: int, frames: list[int]) -> None:
        """Adds tracklet ``n`` of a clip whose first frames are the given ones (the rest is padding)."""
        for t, frame in enumerate(frames):
            self.best.append(clip.best(n, t))
            if clip.present_NT[n, t]:
                self.probabilities.append(clip.probabilities_NTK[n, t])
                self.rles[frame] = clip.rles[n][t]
                self.boxes[frame] = clip.boxes_NT4[n, t]

    def score_K(self) -> np.ndarray:
        """Mean probabilities over the frames where it is present; the paper leaves open how scores are aggregated."""
        return np.mean(self.probabilities, axis=0)

    def vote(self) -> tuple[int, float]:
        """The class that is best in most frames, of equals the first (-1: absence), and the mean of the best probabilities."""
        labels = Counter(label for label, _ in self.best)
        label = min(labels, key=lambda label: (-labels[label], label))
        return label, float(np.mean([probability for _, probability in self.best]))

    def best_class(self, category: Literal["mean", "vote"]) -> tuple[int, float]:
        """The one class and its score; ``category`` as ``InferenceConfig.category``."""
        if category == "vote":
            return self.vote()
        score_K = self.score_K()
        label = int(score_K.argmax())
        return label, float(score_K[label])


def best_results(
    tracklets: list[VideoTracklet], *, video_id: int, category_ids: list[int], length: int, most: int,
    category: Literal["mean", "vote"] = "mean",
) -> list[dict]:
    """The best (tracklet, category) pairs of a video as YouTube-VIS results.

    Each has one entry per frame in ``segmentations``, None where the tracklet is absent.

    Args:
        category: as ``InferenceConfig.category``. A tracklet that votes for absence is no result.
    """
    pairs = []
    for x, tracklet in enumerate(tracklets):
        if not tracklet.rles:
            continue
        if category == "vote":
            label, score = tracklet.vote()
            pairs += [(score, x, label)] if label >= 0 else []
        else:
            pairs += [(float(score), x, label) for label, score in enumerate(tracklet.score_K())]
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    return [
        {"video_id": video_id, "category_id": category_ids[label], "score": score,
         "segmentations": [tracklets[x].rles.get(frame) for frame in range(length)]}
        for score, x, label in pairs[:most]
    ]
