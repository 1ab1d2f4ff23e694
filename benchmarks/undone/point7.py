"""Point 7, table 1h undone: what fewer frames a second cost is read from rows that are scored on different frames.

The row with all frames is now scored on the frames that the lower rate keeps, too.
"""

from __future__ import annotations

from effvis.config import InferenceConfig
from effvis.data.dataset import DatasetIndex
from effvis.data.sizes import InputSize
from effvis.inference.predictor import Predictions, keep_predictions, predict_split
from effvis.model.efficientvis import EfficientVIS

WHAT = "1.5 frames a second against all frames, scored on different frames"
RATE = 1.5  # of table 1h, in frames a second


def predicted(
    model: EfficientVIS, index: DatasetIndex, inference: InferenceConfig, input_size: InputSize
) -> tuple[Predictions, dict[str, Predictions]]:
    """The predictions at the lower rate, and what they are compared with, by its name: all frames' predictions, on the same
    frames and on all."""
    inference = inference.model_copy(update={"linking": "end-to-end", "test_fps": None})
    slow = inference.model_copy(update={"test_fps": RATE})
    every = predict_split(model, index, inference, input_size=input_size)
    return predict_split(model, index, slow, input_size=input_size), {
        "nothing: 1.5 frames a second against all frames, scored on the same frames": keep_predictions(every, index, RATE),
        WHAT: every}
