"""MaskTrack R-CNN on one frame: its detections, as they are compared with the objects before, and as others take them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from effvis.data.masks import RLE, encode_many
from effvis.inference.clip import MASK_PIXELS_AT_ONCE, TrackletPredictions
from effvis.inference.detections import Detections
from effvis.masktrack_rcnn.boxes import BOX_WEIGHTS, decode, suppress
from effvis.masktrack_rcnn.config import MaskTrackInference
from effvis.masktrack_rcnn.model import FrameFeatures, MaskTrackRCNN
from effvis.model.boxes import at_least_fp32
from effvis.model.paste import paste_masks
from effvis.tracking.memory import Objects

# As Mask R-CNN is evaluated on COCO.
COCO = MaskTrackInference(presence_threshold=0.05, detections=100)


@dataclass(frozen=True, eq=False)
class Found:
    """D detections of one frame, the best first.

    Attributes:
        objects: their embeddings, scores and classes, and their boxes in pixels of the video.
        proposals_D: the proposals that they are of. One may stand there under several classes.
        masks_DSS: probabilities inside the boxes.
    """

    objects: Objects
    proposals_D: Tensor
    masks_DSS: Tensor


@torch.inference_mode()
def find(model: MaskTrackRCNN, frame_CHW: Tensor, size: tuple[int, int], config: MaskTrackInference) -> Found:
    """The detections of a frame.

    Args:
        frame_CHW: uint8 frame at input size.
        size: (height, width) of the video, in whose pixels boxes are returned.
    """
    features = model.features(frame_CHW[None].to(model.pixel_mean.device))
    proposals, logits_FPK, deltas_FPK4 = model(features)
    real_P = proposals.real_FP[0]
    scores_PK = at_least_fp32(logits_FPK[0, real_P]).softmax(dim=-1)[:, :-1]
    boxes_PK4 = decode(proposals.boxes_FP4[0, real_P, None], at_least_fp32(deltas_FPK4[0, real_P]), BOX_WEIGHTS, features.size)
    proposals_D, labels_D = _best(scores_PK, boxes_PK4, config)
    boxes_D4 = boxes_PK4[proposals_D, labels_D]
    masks_DSS = at_least_fp32(model.mask_logits(features, boxes_D4[None], labels_D[None])[0]).sigmoid()
    embedding_ND = at_least_fp32(_embedded(model, features, boxes_D4))
    scale = boxes_D4.new_tensor([size[1] / features.size[1], size[0] / features.size[0]] * 2)
    return Found(Objects(embedding_ND, boxes_D4 * scale, scores_PK[proposals_D, labels_D], labels_D), proposals_D, masks_DSS)


def _embedded(model: MaskTrackRCNN, features: FrameFeatures, boxes_D4: Tensor) -> Tensor:
    return model.embeddings(model.regions(features, boxes_D4[None], model.config.roi_size))[0]


def _best(scores_PK: Tensor, boxes_PK4: Tensor, config: MaskTrackInference) -> tuple[Tensor, Tensor]:
    """The proposals and classes of the best detections, without those that overlap a better one of their class."""
    classes = (scores_PK >= config.presence_threshold).any(dim=0).nonzero()[:, 0]  # others need no suppression
    scores_KP = scores_PK[:, classes].T
    stays_KP = suppress(boxes_PK4[:, classes].transpose(0, 1), scores_KP, config.nms_iou)
    class_D, proposal_D = (stays_KP & (scores_KP >= config.presence_threshold)).nonzero(as_tuple=True)
    order_D = scores_KP[class_D, proposal_D].argsort(descending=True, stable=True)[: config.detections]
    return proposal_D[order_D], classes[class_D[order_D]]


def detect(model: MaskTrackRCNN, frame_CHW: Tensor, size: tuple[int, int]) -> Detections:
    """The detections of a single frame, as many and as unsure as COCO's evaluation takes.

    Args:
        frame_CHW: uint8 frame at input size.
        size: (height, width) of the frame as it was given, in whose pixels boxes and masks are returned.
    """
    found = find(model, frame_CHW, size, COCO)
    masks = torch.cat([masks >= COCO.mask_threshold for masks in _pasted(found, size)])
    objects = found.objects
    return Detections(*(values.cpu().numpy() for values in (
        objects.scores_N, objects.labels_N, found.proposals_D, objects.boxes_N4, masks)))


def predict_clip(
    model: MaskTrackRCNN, frames_TCHW: Tensor, video_size: tuple[int, int], config: MaskTrackInference
) -> TrackletPredictions:
    """The detections of a clip of one frame (1, 3, H, W), each a tracklet; see ``effvis.inference.clip.predict_alone``."""
    return as_tracklets(find(model, frames_TCHW[0], video_size, config), model.config.num_classes, video_size, config)


def as_tracklets(
    found: Found, classes: int, video_size: tuple[int, int], config: MaskTrackInference
) -> TrackletPredictions:
    """A frame's detections as tracklets of one frame. Each has the probability of its class alone, as its vote counts."""
    objects = found.objects
    probability_D1K = objects.scores_N.new_zeros(len(objects), 1, classes)
    probability_D1K[:, 0].scatter_(1, objects.labels_N[:, None], objects.scores_N[:, None])
    rles = list(_encoded(found, video_size, config.mask_threshold))
    return TrackletPredictions(
        probability_D1K.cpu().numpy(), torch.ones(len(objects), 1, dtype=torch.bool).numpy(),
        objects.boxes_N4[:, None].cpu().numpy(), [[rle] for rle in rles])


def _encoded(found: Found, size: tuple[int, int], threshold: float) -> Iterator[RLE]:
    for masks_XHW in _pasted(found, size):
        yield from encode_many((masks_XHW >= threshold).cpu().numpy())


def _pasted(found: Found, size: tuple[int, int]) -> Iterator[Tensor]:
    """Probabilities in the frame (X, H, W), a few detections at a time."""
    at_once = max(1, MASK_PIXELS_AT_ONCE // (size[0] * size[1]))
    for masks, boxes in zip(found.masks_DSS.split(at_once), found.objects.boxes_N4.split(at_once), strict=True):
        yield paste_masks(masks, boxes, size)
