"""The settings of the tracking head's memory, apart from it: a configuration loads no PyTorch."""

from __future__ import annotations

from pydantic import Field

from effvis.config import Config


class CueWeights(Config):
    """Weights of the cues beside the logarithm of the tracking head's probability. The authors' are 1, 2 and 10."""

    score: float = Field(1.0, ge=0, description="alpha, of the logarithm of the detection's score")
    iou: float = Field(2.0, ge=0, description="beta, of the IoU of the boxes")
    category: float = Field(10.0, ge=0, description="gamma, of having the same class")
