"""Point 6, table 1d undone: hand-crafted linking has its fixed matching threshold of 0.3, and weights of 1 for all four terms.

The paper varies the threshold and reports the best; ``pipeline.linking`` chooses threshold and weights on videos held out.
"""

from __future__ import annotations

from effvis.config import HandcraftConfig, InferenceConfig
from effvis.data.dataset import DatasetIndex
from effvis.data.sizes import InputSize
from effvis.inference.clip import predict_alone
from effvis.inference.predictor import Predictions, link_clips, predict_clips
from effvis.model.efficientvis import EfficientVIS

WHAT = "hand-crafted linking with weights of 1 and a threshold of 0.3"
THRESHOLD = 0.3
FIXED = HandcraftConfig(box_iou=1, box_l1=1, mask_iou=1, category=1, new_tracklet_below=THRESHOLD, score_threshold=0.05)


def linked(
    model: EfficientVIS, index: DatasetIndex, inference: InferenceConfig, input_size: InputSize, chosen: HandcraftConfig
) -> dict[str, Predictions]:
    """The predictions with each linking, by its name; the clips are predicted once."""
    linkings = {
        "nothing: hand-crafted linking as it was chosen": chosen,
        f"the chosen weights with a threshold of {THRESHOLD}": chosen.model_copy(update={"new_tracklet_below": THRESHOLD}),
        WHAT: FIXED}
    inference = inference.model_copy(update={"linking": "hand-craft"})
    clips = predict_clips(model, index, inference, predict=predict_alone, input_size=input_size)
    return {name: link_clips(clips, index, inference.model_copy(update={"handcraft": handcraft}))
            for name, handcraft in linkings.items()}
