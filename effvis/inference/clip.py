"""The network on one clip, its output as numbers and run-length masks at the video's own size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effvis.config import InferenceConfig
from effvis.data.masks import encode_many
from effvis.model.efficientvis import EfficientVIS

# Masks are pasted so many at a time: the full-size floats of one chunk are all that is ever held.
PASTE_CHUNK = 16


@dataclass(frozen=True)
class TrackletPredictions:
    """N tracklets over the T frames of a clip.

    Attributes:
        probabilities_NTK: class probabilities.
        present_NT: whether the tracklet is above the presence threshold in the frame.
        boxes_NT4: xyxy in pixels of the video.
        rles: per tracklet and frame the mask, compressed COCO RLE, or None where absent.
    """

    probabilities_NTK: np.ndarray
    present_NT: np.ndarray
    boxes_NT4: np.ndarray
    rles: list[list[dict | None]]


@torch.inference_mode()
def predict_clip(
    model: EfficientVIS,
    frames_TCHW: Tensor,
    query_NTC: Tensor | None,
    video_size: tuple[int, int],
    config: InferenceConfig,
) -> tuple[TrackletPredictions, Tensor]:
    """Runs one clip.

    Args:
        frames_TCHW: uint8 at input size.
        query_NTC: initial tracklet queries; None for the learned ones.
        video_size: (height, width) of the video, which masks and boxes are given in.

    Returns:
        The prediction, and the output tracklet queries (N, T, C).
    """
    device = model.query_NTC.device
    features = model.features(frames_TCHW.unsqueeze(0).to(device))
    output = model(features, None if query_NTC is None else query_NTC.unsqueeze(0))[-1]
    probabilities = output.logits_BNTK[0].sigmoid()
    present = probabilities.amax(dim=-1) >= config.presence_threshold
    scale = output.boxes_BNT4.new_tensor(
        [video_size[1] / features.width, video_size[0] / features.height] * 2)
    boxes = output.boxes_BNT4[0] * scale
    rles: list[list[dict | None]] = [[None] * present.shape[1] for _ in range(present.shape[0])]
    wanted = present.nonzero()
    if len(wanted):
        tracklets = wanted[:, 0].unique()
        logits = model.mask_logits(features, output, tracklets.unsqueeze(0))[0]
        of_tracklet = torch.searchsorted(tracklets, wanted[:, 0])
        chosen = logits[of_tracklet, wanted[:, 1]].sigmoid()
        places = boxes[wanted[:, 0], wanted[:, 1]]
        for first in range(0, len(wanted), PASTE_CHUNK):
            part = slice(first, first + PASTE_CHUNK)
            masks = paste_masks(chosen[part], places[part], video_size) >= config.mask_threshold
            for (n, t), rle in zip(wanted[part].tolist(), encode_many(masks.cpu().numpy()), strict=True):
                rles[n][t] = rle
    prediction = TrackletPredictions(
        probabilities.float().cpu().numpy(), present.cpu().numpy(), boxes.float().cpu().numpy(), rles)
    return prediction, output.query_BNTC[0]


def predict_alone(
    model: EfficientVIS, frames_TCHW: Tensor, video_size: tuple[int, int], config: InferenceConfig
) -> TrackletPredictions:
    """Runs one clip that knows nothing of the clips before it; see ``predict_clip``."""
    return predict_clip(model, frames_TCHW, None, video_size, config)[0]


def paste_masks(masks_XSS: Tensor, boxes_X4: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resampling of masks from their boxes into frames: (X, H, W), zero outside the box."""
    side = masks_XSS.shape[-1]
    rows = _paste_weights(boxes_X4[:, 1], boxes_X4[:, 3], size[0], side)
    columns = _paste_weights(boxes_X4[:, 0], boxes_X4[:, 2], size[1], side)
    return rows @ masks_XSS @ columns.transpose(-2, -1)


def _paste_weights(low_X: Tensor, high_X: Tensor, length: int, side: int) -> Tensor:
    """Weights (X, length, side) that give each pixel of an axis its value from the mask's side."""
    pixel = torch.arange(length, device=low_X.device, dtype=low_X.dtype) + 0.5
    share = (pixel - low_X[:, None]) / (high_X - low_X).clamp(min=1e-3)[:, None]
    position = (share * side - 0.5).clamp(0, side - 1)
    hat = (1 - (position[..., None] - torch.arange(side, device=low_X.device, dtype=low_X.dtype)).abs()).clamp(min=0)
    return hat * ((share >= 0) & (share <= 1))[..., None]
