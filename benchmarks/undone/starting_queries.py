"""What points 4 and 5 share: a clip whose T embeddings start as they are given, and a video that carries them on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from benchmarks.undone.replacing import replaced
from effvis.config import InferenceConfig
from effvis.inference.clip import predict_clip
from effvis.inference.tracklets import VideoTracklet
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features

# ``EfficientVIS.forward`` as it is, whatever stands in its place while a point is undone.
FORWARD = EfficientVIS.forward


def forward_from(model: EfficientVIS, features: Features, query_BNTC: Tensor) -> list[ClipOutput]:
    """``EfficientVIS.forward`` from T embeddings of each tracklet, without their average over time: they take the place of the
    learned ones."""
    with replaced(model, "initial_query", lambda clips: query_BNTC):
        return FORWARD(model, features)


def track(
    model: EfficientVIS, clips: Iterable[tuple[list[int], Tensor]], video_size: tuple[int, int], config: InferenceConfig
) -> list[VideoTracklet]:
    """``effvis.inference.end_to_end.track``, but the network gets all T output queries of a clip, and all learned ones."""
    initial = model.initial_query(1)[0]
    query = initial
    finished: list[VideoTracklet] = []
    current = [VideoTracklet() for _ in range(len(initial))]
    background_N = np.zeros(len(initial), dtype=int)
    for frames, pixels in clips:
        prediction, output = predict_clip(model, pixels, query, video_size, config)
        query = output.clone()
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
