"""Fully end-to-end inference (Sec. 3.3): a clip starts from the output queries of the one before, averaged over time."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from effvis.config import InferenceConfig
from effvis.inference.clip import predict_clip
from effvis.inference.tracklets import VideoTracklet
from effvis.model.efficientvis import EfficientVIS


def track(
    model: EfficientVIS,
    clips: Iterable[tuple[list[int], Tensor]],
    video_size: tuple[int, int],
    config: InferenceConfig,
) -> list[VideoTracklet]:
    """Follows every object through a video without any data association.

    A query that was background in ``config.reinit_after`` clips in a row goes back to its learned embedding, free for a
    new object; what it tracks from then on is a new tracklet.

    Args:
        clips: (frame numbers, frames (T, 3, H, W)) in order; fewer numbers than frames where the last clip is padded.
    """
    initial = model.initial_query(1)[0]
    query = initial
    finished: list[VideoTracklet] = []
    current = [VideoTracklet() for _ in range(len(initial))]
    background_N = np.zeros(len(initial), dtype=int)
    for frames, pixels in clips:
        prediction, output = predict_clip(model, pixels, query, video_size, config)
        query = output.mean(dim=1, keepdim=True)
        for n, tracklet in enumerate(current):
            tracklet.add(prediction, n, frames)
        seen_N = prediction.present_NT[:, : len(frames)].any(axis=1)
        background_N = np.where(seen_N, 0, background_N + 1)
        for n in np.flatnonzero(background_N >= config.reinit_after):
            query[n] = initial[n]
            finished.append(current[n])
            current[n] = VideoTracklet()
            background_N[n] = 0
    return finished + current
