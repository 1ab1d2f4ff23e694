"""VisTR on one clip, with results in the form of EfficientVIS's, so that handcraft.py can link them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.config import InferenceConfig
from effvis.data.masks import encode_many
from effvis.inference.clip import MASK_PIXELS_AT_ONCE, TrackletPredictions
from effvis.vistr.model import VisTR, VisTROutput, masks_at_input_size

# The mask heads hold (tracklets x frames) maps of stride 4 with many channels: this many tracklets at a time bound memory.
TRACKLET_CHUNK = 4


@torch.inference_mode()
def predict_clip(
    model: VisTR, frames_TCHW: Tensor, video_size: tuple[int, int], config: InferenceConfig
) -> TrackletPredictions:
    """Runs one clip.

    Masks are computed only for tracklets that are present in some frame.

    Args:
        frames_TCHW: uint8 frames at input size.
        video_size: (height, width) of the video, in whose pixels masks and boxes are returned.
    """
    output = model(frames_TCHW.unsqueeze(0).to(model.query_NTC.device))
    probabilities_NTK = output.logits_DBNTK[-1, 0].float().softmax(dim=-1)[..., :-1]
    present_NT = probabilities_NTK.amax(dim=-1) >= config.presence_threshold
    boxes_NT4 = output.boxes_DBNT4[-1, 0].float()
    scale = boxes_NT4.new_tensor([video_size[1] / output.width, video_size[0] / output.height] * 2)
    return TrackletPredictions(
        probabilities_NTK.cpu().numpy(), present_NT.cpu().numpy(), (boxes_NT4 * scale).cpu().numpy(),
        _encode_masks(model, output, present_NT, video_size, config.mask_threshold))


def _encode_masks(
    model: VisTR, output: VisTROutput, present_NT: Tensor, video_size: tuple[int, int], threshold: float
) -> list[list[dict | None]]:
    rles: list[list[dict | None]] = [[None] * present_NT.shape[1] for _ in range(len(present_NT))]
    seen = present_NT.any(dim=1).nonzero()[:, 0]
    for first in range(0, len(seen), TRACKLET_CHUNK):
        chunk = seen[first: first + TRACKLET_CHUNK]
        logits_XTHW = model.mask_logits(output, chunk.unsqueeze(0))[0]
        for n, logits_THW in zip(chunk.tolist(), logits_XTHW, strict=True):
            frames = present_NT[n].nonzero()[:, 0]
            encoded = _encode(logits_THW[frames], (output.height, output.width), model.mask_stride, video_size, threshold)
            for t, rle in zip(frames.tolist(), encoded, strict=True):
                rles[n][t] = rle
    return rles


def _encode(
    logits_XHW: Tensor, input_size: tuple[int, int], stride: int, video_size: tuple[int, int], threshold: float
) -> Iterator[dict]:
    """The RLE of each mask of the given stride, at the video's size."""
    for logits in logits_XHW.split(max(1, MASK_PIXELS_AT_ONCE // (video_size[0] * video_size[1]))):
        at_input = masks_at_input_size(logits.unsqueeze(0), *input_size, stride)
        full = F.interpolate(at_input, size=video_size, mode="bilinear", align_corners=False)[0]
        yield from encode_many((full.float().sigmoid() >= threshold).cpu().numpy())
