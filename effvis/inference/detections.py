"""What a network sees in a single frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Detections:
    """D detections in one frame, the best first.

    Attributes:
        scores: probabilities (D,).
        labels: classes (D,) from 0, in the order of the network's outputs.
        proposals: the proposals (D,) that they are of, in the network's order. One may stand there under several classes.
        boxes: (D, 4) xyxy in pixels of the frame. They may reach beyond it.
        masks: (D, H, W) bool at the frame's size.
    """

    scores: np.ndarray
    labels: np.ndarray
    proposals: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
