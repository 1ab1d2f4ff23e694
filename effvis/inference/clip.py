"""Running the network on one clip, with its output as numbers and run-length masks at the video's own size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from effvis.config import InferenceConfig
from effvis.data.masks import encode_many
from effvis.model.efficientvis import BaseFeatures, ClipOutput, EfficientVIS
from effvis.model.paste import paste_masks

# The mask head widens each mask to maps of many channels: this many masks at a time bound memory, and stay in the caches.
MASKS_AT_ONCE = 128
# Full-size masks are floats before they are run lengths: no more than this many pixels, or one mask, are held at a time.
MASK_PIXELS_AT_ONCE = 2**21


@dataclass(frozen=True)
class TrackletPredictions:
    """N tracklets over the T frames of a clip.

    Attributes:
        probabilities_NTK: class probabilities.
        present_NT: whether the tracklet is above the presence threshold in the frame.
        boxes_NT4: xyxy in pixels of the video.
        rles: the mask of each tracklet and frame as compressed COCO RLE; None where absent.
        absence_NT: the probability of a class of absence, of a network that has one.
    """

    probabilities_NTK: np.ndarray
    present_NT: np.ndarray
    boxes_NT4: np.ndarray
    rles: list[list[dict | None]]
    absence_NT: np.ndarray | None = None

    def best(self, n: int, t: int) -> tuple[int, float]:
        """The best class of tracklet ``n`` in frame ``t`` and its probability, present or not; -1 is the class of absence."""
        label = int(self.probabilities_NTK[n, t].argmax())
        found = label, float(self.probabilities_NTK[n, t, label])
        if self.absence_NT is None or self.absence_NT[n, t] < found[1]:
            return found
        return -1, float(self.absence_NT[n, t])


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
        frames_TCHW: uint8 frames at input size.
        query_NTC: initial tracklet queries; None for the learned ones.
        video_size: (height, width) of the video, in whose pixels masks and boxes are returned.

    Returns:
        The prediction, and the output tracklet queries (N, T, C).
    """
    features = model.features(frames_TCHW.unsqueeze(0).to(model.query_NTC.device))
    output = model(features, None if query_NTC is None else query_NTC.unsqueeze(0))[-1]
    probabilities_NTK = output.logits_BNTK[0].sigmoid()
    present_NT = probabilities_NTK.amax(dim=-1) >= config.presence_threshold
    scale = output.boxes_BNT4.new_tensor([video_size[1], video_size[0]] * 2) / features.size_B4[0]
    boxes_NT4 = output.boxes_BNT4[0] * scale
    rles: list[list[dict | None]] = [[None] * features.frames for _ in range(len(present_NT))]
    seen = present_NT.any(dim=1).nonzero()[:, 0]
    for group, logits_XTSS in mask_logits_in_groups(model, features, output, seen):
        wanted = present_NT[group]
        encoded = encode_pasted(logits_XTSS[wanted].sigmoid(), boxes_NT4[group][wanted], video_size, config.mask_threshold)
        tracklets = group.tolist()
        for (x, t), rle in zip(wanted.nonzero().tolist(), encoded, strict=True):
            rles[tracklets[x]][t] = rle
    prediction = TrackletPredictions(
        probabilities_NTK.float().cpu().numpy(), present_NT.cpu().numpy(), boxes_NT4.float().cpu().numpy(), rles)
    return prediction, output.query_BNTC[0]


def predict_alone(
    model: EfficientVIS, frames_TCHW: Tensor, video_size: tuple[int, int], config: InferenceConfig
) -> TrackletPredictions:
    """Runs one clip that takes nothing from the clips before it; see ``predict_clip``."""
    return predict_clip(model, frames_TCHW, None, video_size, config)[0]


def mask_logits_in_groups(
    model: EfficientVIS, features: BaseFeatures, output: ClipOutput, tracklets_K: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks inside the boxes of K tracklets of one clip, ``MASKS_AT_ONCE`` at a time and at least one tracklet's.

    Yields:
        The indices of X tracklets, and their mask logits (X, T, S, S).
    """
    at_once = max(1, MASKS_AT_ONCE // features.frames)
    for first in range(0, len(tracklets_K), at_once):
        group = tracklets_K[first: first + at_once]
        yield group, model.mask_logits(features, output, group.unsqueeze(0))[0]


def encode_pasted(masks_XSS: Tensor, boxes_X4: Tensor, size: tuple[int, int], threshold: float) -> Iterator[dict]:
    """The RLE of each mask, pasted from its box into the frame."""
    at_once = max(1, MASK_PIXELS_AT_ONCE // (size[0] * size[1]))
    for masks, boxes in zip(masks_XSS.split(at_once), boxes_X4.split(at_once), strict=True):
        yield from encode_many((paste_masks(masks, boxes, size) >= threshold).cpu().numpy())
