"""QueryInst on one frame: its best (proposal, class) pairs, each with the mask of that class."""

from __future__ import annotations

import torch
from torch import Tensor

from effvis.inference.clip import MASK_PIXELS_AT_ONCE
from effvis.inference.detections import Detections
from effvis.model.efficientvis import EfficientVIS
from effvis.model.paste import paste_masks

# As QueryInst is evaluated on COCO.
MOST = 100
MASK_THRESHOLD = 0.5


@torch.inference_mode()
def detect(model: EfficientVIS, frame_CHW: Tensor, size: tuple[int, int]) -> Detections:
    """The ``MOST`` best pairs of proposals and classes, with no suppression; of equal scores the earlier pair comes first.

    Args:
        frame_CHW: uint8 frame at input size.
        size: (height, width) of the frame as it was given, in whose pixels boxes and masks are returned.
    """
    features = model.features(frame_CHW[None, None].to(model.query_NTC.device))
    output = model(features)[-1]
    scores_NK = output.logits_BNTK[0, :, 0].float().sigmoid()
    scores, pairs = scores_NK.flatten().sort(descending=True, stable=True)
    scores, pairs = scores[:MOST], pairs[:MOST]
    classes = scores_NK.shape[1]
    proposals, labels = pairs // classes, pairs % classes
    scale = output.boxes_BNT4.new_tensor([size[1], size[0]] * 2) / features.size_B4[0]
    boxes = (output.boxes_BNT4[0, proposals, 0] * scale).float()
    masks = model.mask_logits(features, output, proposals[None], labels[None])[0, :, 0].float().sigmoid()
    return Detections(*(found.cpu().numpy() for found in (scores, labels, proposals, boxes, _pasted(masks, boxes, size))))


def _pasted(masks_XSS: Tensor, boxes_X4: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks in the frame (X, H, W) bool, a few at a time: before the threshold they are floats."""
    at_once = max(1, MASK_PIXELS_AT_ONCE // (size[0] * size[1]))
    parts = zip(masks_XSS.split(at_once), boxes_X4.split(at_once), strict=True)
    return torch.cat([paste_masks(masks, boxes, size) >= MASK_THRESHOLD for masks, boxes in parts])
