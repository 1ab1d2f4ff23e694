"""The objects of one frame: its best locations, of which only the best around each object stays (FCOS), with their masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from effvis.crossvis.config import CrossVISInference
from effvis.crossvis.dynamic_masks import UPSAMPLING
from effvis.crossvis.model import CrossVIS, FrameOutput
from effvis.crossvis.sampling import aligned_weights, resampled, stretching_weights
from effvis.inference.clip import MASK_PIXELS_AT_ONCE
from effvis.inference.detections import Detections
from effvis.model.boxes import iou


@dataclass(frozen=True)
class Objects:
    """D objects of a frame, the best first.

    Attributes:
        scores_D: square roots of class probability times centreness.
        labels_D: classes.
        places_D: their locations.
        boxes_D4: xyxy in pixels of the video, inside the frame.
        embedding_DE: what they look like.
    """

    scores_D: Tensor
    labels_D: Tensor
    places_D: Tensor
    boxes_D4: Tensor
    embedding_DE: Tensor


def find_objects(
    output: FrameOutput, frame_size: tuple[int, int], video_size: tuple[int, int], config: CrossVISInference
) -> Objects:
    """The objects in a single frame's output.

    Args:
        frame_size: (height, width) of the frame that the network saw, without padding.
        video_size: that of the video.
    """
    places, labels, products = _candidates(output, config)
    boxes = output.boxes_FP4()[0, places]
    kept = suppress(boxes, products, labels, config.suppression_iou, most=config.detections)
    places, labels, boxes = places[kept], labels[kept], boxes[kept]
    height, width = video_size
    scaled = boxes * boxes.new_tensor([width / frame_size[1], height / frame_size[0]] * 2)
    inside = torch.minimum(scaled.clamp(min=0), scaled.new_tensor([width, height] * 2))
    some = (inside[:, 2:] > inside[:, :2]).all(dim=1)
    return Objects(products[kept][some].sqrt(), labels[some], places[some], inside[some],
                   output.embedding_FPE[0, places[some]].float())


def _candidates(output: FrameOutput, config: CrossVISInference) -> tuple[Tensor, Tensor, Tensor]:
    """The location, the class, and the product of probability and centreness of each level's best pairs."""
    product_PK = output.logits_FPK[0].float().sigmoid() * output.centreness_FP[0].float().sigmoid()[:, None]
    found, first = [], 0
    for size in output.locations.sizes:
        place_X, label_X = (product_PK[first: first + size] > config.presence_threshold).nonzero(as_tuple=True)
        product_X = product_PK[first + place_X, label_X]
        best = product_X.argsort(descending=True, stable=True)[: config.candidates]
        found.append((first + place_X[best], label_X[best], product_X[best]))
        first += size
    return tuple(map(torch.cat, zip(*found, strict=True)))


def suppress(boxes_X4: Tensor, scores_X: Tensor, labels_X: Tensor, most_iou: float, *, most: int) -> Tensor:
    """Non-maximum suppression within each class: places (D,) of the boxes that stay, the best first, ``most`` at most.

    A box stays unless it overlaps a better one that stays, of its class, by more than ``most_iou``.
    """
    waiting = scores_X.argsort(descending=True, stable=True)
    kept = []
    while len(waiting) and len(kept) < most:
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        overlap, _ = iou(boxes_X4[best], boxes_X4[waiting])
        waiting = waiting[(overlap <= most_iou) | (labels_X[waiting] != labels_X[best])]
    return torch.stack(kept) if kept else waiting


def masks_of(
    model: CrossVIS, output: FrameOutput, places_D: Tensor, frame_size: tuple[int, int], video_size: tuple[int, int],
    threshold: float,
) -> Iterator[Tensor]:
    """The masks of objects at these locations, in the video's pixels: (X, H, W) bool, a few at a time."""
    filters_DQ = output.filters_FPQ[0, places_D]
    probability_DHW = model.mask_logits(output, torch.zeros_like(places_D), filters_DQ, places_D).float().sigmoid()
    # Probabilities are upsampled to the frame's pixels, cut to the frame without padding, and stretched to the video's.
    stride = model.mask_stride // UPSAMPLING
    rows, columns = (
        stretching_weights(own, wanted, probability_DHW) @ aligned_weights(length, stride, probability_DHW)[:own]
        for own, wanted, length in zip(frame_size, video_size, probability_DHW.shape[1:], strict=True))
    at_once = max(1, MASK_PIXELS_AT_ONCE // (video_size[0] * video_size[1]))
    for part in probability_DHW.split(at_once):
        yield resampled(part, rows, columns) > threshold


@torch.inference_mode()
def detect(model: CrossVIS, frame_CHW: Tensor, size: tuple[int, int]) -> Detections:
    """The objects of a single frame by itself, at the authors' thresholds.

    Args:
        frame_CHW: uint8 frame at input size.
        size: (height, width) of the frame as it was given, in whose pixels boxes and masks are returned.
    """
    config, frame_size = CrossVISInference(), tuple(frame_CHW.shape[-2:])
    output = model(frame_CHW[None].to(model.device))
    found = find_objects(output, frame_size, size, config)
    parts = masks_of(model, output, found.places_D, frame_size, size, config.mask_threshold)
    masks = [torch.zeros(0, *size, dtype=torch.bool), *(part.cpu() for part in parts)]
    return Detections(*(values.cpu().numpy() for values in (
        found.scores_D, found.labels_D, found.places_D, found.boxes_D4, torch.cat(masks))))
