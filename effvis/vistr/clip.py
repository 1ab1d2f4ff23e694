"""VisTR on one clip, with results in the form of EfficientVIS's, so that handcraft.py can link them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from effvis.config import InferenceConfig
from effvis.data.masks import encode_many
from effvis.inference.clip import MASK_PIXELS_AT_ONCE, TrackletPredictions
from effvis.vistr.model import VisTR, VisTROutput, resize_masks

# The mask heads hold (tracklets x frames) maps of stride 4 with many channels: this many tracklets at a time bound memory.
TRACKLET_CHUNK = 4


@torch.inference_mode()
def predict_clip(
    model: VisTR, frames_TCHW: Tensor, video_size: tuple[int, int], config: InferenceConfig
) -> TrackletPredictions:
    """Runs one clip.

    Masks are computed only for tracklets that are present in some frame; one whose masks are empty in all frames is dropped,
    which means present nowhere. The row of absence counts in the softmax and for presence, but is no category: its
    probability stands by itself.

    Args:
        frames_TCHW: uint8 frames at input size.
        video_size: (height, width) of the video, in whose pixels masks and boxes are returned.
    """
    output = model(frames_TCHW.unsqueeze(0).to(model.query_NTC.device))
    rows_NTK = output.logits_DBNTK[-1, 0].softmax(dim=-1)[..., :-1]
    present_NT = rows_NTK.amax(dim=-1) >= config.presence_threshold
    rles = encode_masks(model.mask_logits, output, present_NT, video_size, config.mask_threshold)
    probabilities_NTK = rows_NTK[..., int(model.config.absent_row):].float()
    boxes_NT4 = output.boxes_DBNT4[-1, 0].float()
    scale = boxes_NT4.new_tensor([video_size[1] / output.width, video_size[0] / output.height] * 2)
    absence_NT = rows_NTK[..., 0].float().cpu().numpy() if model.config.absent_row else None
    return TrackletPredictions(
        probabilities_NTK.cpu().numpy(), present_NT.cpu().numpy(), (boxes_NT4 * scale).cpu().numpy(), rles, absence_NT)


def encode_masks(
    mask_logits: Callable[[VisTROutput, Tensor], Tensor], output: VisTROutput, present_NT: Tensor,
    video_size: tuple[int, int], threshold: float,
) -> list[list[dict | None]]:
    """The RLE of each tracklet in each frame where it is present, else None. ``present_NT`` loses the tracklets that have
    no pixel in any frame.

    Args:
        mask_logits: as ``VisTR.mask_logits``.
    """
    rles: list[list[dict | None]] = [[None] * present_NT.shape[1] for _ in range(len(present_NT))]
    seen = present_NT.any(dim=1).nonzero()[:, 0]
    for first in range(0, len(seen), TRACKLET_CHUNK):
        chunk = seen[first: first + TRACKLET_CHUNK]
        logits_XTHW = mask_logits(output, chunk.unsqueeze(0))[0]
        for n, logits_THW in zip(chunk.tolist(), logits_XTHW, strict=True):
            masks = list(_encode(logits_THW, video_size, threshold))
            if not any(coco_mask.area(rle) for rle in masks):
                present_NT[n] = False
            for t in present_NT[n].nonzero()[:, 0].tolist():
                rles[n][t] = masks[t]
    return rles


def _encode(logits_XHW: Tensor, video_size: tuple[int, int], threshold: float) -> Iterator[dict]:
    """The RLE of each mask at the video's size."""
    for logits in logits_XHW.split(max(1, MASK_PIXELS_AT_ONCE // (video_size[0] * video_size[1]))):
        full = resize_masks(logits.unsqueeze(0), video_size)[0]
        yield from encode_many((full > math.log(threshold / (1 - threshold))).cpu().numpy())
