"""MaskTrack R-CNN: Mask R-CNN on single frames, with an embedding of each region by which objects are known again.

Reading order: ``MaskTrackRCNN`` here, heads.py, anchors.py and boxes.py; losses.py for the training on pairs of frames,
track.py for a video; effvis/tracking for the tracking head and its memory.

Dimensions in names: F frames, A anchors of all levels, P proposals of a frame, N regions of a frame, C channels, K classes,
S side of a mask, D values of an embedding. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effvis.masktrack_rcnn.anchors import anchors_of_level
from effvis.masktrack_rcnn.boxes import PROPOSAL_WEIGHTS, decode, suppress
from effvis.masktrack_rcnn.config import MaskTrackConfig
from effvis.masktrack_rcnn.heads import BoxHead, MaskHead, ProposalHead
from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD, build_backbone
from effvis.model.boxes import area, at_least_fp32
from effvis.model.class_rows import fitted
from effvis.model.roi_align import multilevel_roi_align
from effvis.tracking.head import TrackingHead

# Frames are padded to a multiple of this, the stride of a ResNet's coarsest level, as those of the published weights were.
PADDED_TO = 32
# Layers with rows for classes: of another number of classes they are learned anew.
CLASS_LAYERS = ("box_head.class_logits.", "box_head.deltas.", "mask_head.mask_logits.")


@dataclass(frozen=True)
class FrameFeatures:
    """The pyramid of F frames of one (height, width), finest first; the levels also cover the padding."""

    pyramid: list[Tensor]
    size: tuple[int, int]


@dataclass(frozen=True)
class Anchored:
    """What the proposal head says of the anchors of F frames.

    Attributes:
        anchors_A4: of all levels, the finest first.
        levels: how many of them each level has.
        objectness_FA, deltas_FA4: logits of showing an object, and the way from the anchor to its box.
    """

    anchors_A4: Tensor
    levels: list[int]
    objectness_FA: Tensor
    deltas_FA4: Tensor


@dataclass(frozen=True)
class Proposals:
    """The best boxes of F frames; where there are fewer than P, ``real_FP`` is false for the rest."""

    boxes_FP4: Tensor
    real_FP: Tensor


class MaskTrackRCNN(nn.Module):
    """Detects and segments the objects of single frames, and embeds them.

    Attributes:
        class_layers: beginnings of the names of those that are learned anew for other classes.
    """

    class_layers = CLASS_LAYERS

    def __init__(self, config: MaskTrackConfig):
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.hidden_dim)
        # One level more than the backbone's: every second pixel of the coarsest one.
        self.strides = (*self.backbone.strides, self.backbone.strides[-1] * 2)
        region = config.hidden_dim * config.roi_size**2
        self.proposal_head = ProposalHead(config.hidden_dim, len(config.anchor_ratios) * len(config.anchor_scales))
        self.box_head = BoxHead(region, config.box_dim, config.num_classes)
        self.mask_head = MaskHead(config.hidden_dim, config.mask_convs, config.num_classes)
        self.tracking_head = TrackingHead(region, config.track_dim, config.rectified_embedding)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255, persistent=False)

    def features(self, frames_FCHW: Tensor) -> FrameFeatures:
        """The pyramid of RGB frames (F, 3, H, W) in 0..255, uint8 or float.

        Normalised frames get zeros at the right and at the bottom, up to a multiple of ``PADDED_TO``.
        """
        pixels = (frames_FCHW.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % PADDED_TO, 0, -height % PADDED_TO))
        return FrameFeatures(self.backbone(pixels.contiguous(memory_format=torch.channels_last)), (height, width))

    def anchored(self, features: FrameFeatures) -> Anchored:
        """What the proposal head says of every anchor."""
        levels = [*features.pyramid, features.pyramid[-1][..., ::2, ::2]]
        found = self.proposal_head(levels)
        anchors = [
            anchors_of_level(level.shape[-2:], stride, self.config.anchor_scales, self.config.anchor_ratios, self.pixel_mean)
            for level, stride in zip(levels, self.strides, strict=True)]
        objectness, deltas = zip(*found, strict=True)
        return Anchored(torch.cat(anchors), [len(one) for one in anchors], at_least_fp32(torch.cat(objectness, dim=1)),
                        at_least_fp32(torch.cat(deltas, dim=1)))

    @torch.no_grad()
    def propose(self, anchored: Anchored, size: tuple[int, int]) -> Proposals:
        """The best proposals of each frame: the best of each level without those that overlap a better one there, then the best
        of all levels.

        Args:
            size: (height, width) of the frames, in which proposals lie.
        """
        most, boxes, scores = self.config.proposals, [], []
        for anchors_A4, objectness_FA, deltas_FA4 in zip(
                anchored.anchors_A4.split(anchored.levels), anchored.objectness_FA.split(anchored.levels, dim=1),
                anchored.deltas_FA4.split(anchored.levels, dim=1), strict=True):
            best_FX, place_FX = (found[:, :most] for found in objectness_FA.sort(dim=1, descending=True, stable=True))
            deltas_FX4 = deltas_FA4.gather(1, place_FX[..., None].expand(-1, -1, 4))
            boxes_FX4 = decode(anchors_A4[place_FX], deltas_FX4, PROPOSAL_WEIGHTS, size)
            stays_FX = suppress(boxes_FX4, best_FX, self.config.proposal_iou) & (area(boxes_FX4) > 0)
            boxes.append(boxes_FX4)
            scores.append(best_FX.masked_fill(~stays_FX, -torch.inf))
        best_FP, place_FP = (found[:, :most] for found in torch.cat(scores, dim=1).sort(dim=1, descending=True, stable=True))
        boxes_FP4 = torch.cat(boxes, dim=1).gather(1, place_FP[..., None].expand(-1, -1, 4))
        return Proposals(boxes_FP4, best_FP > -torch.inf)

    def forward(self, features: FrameFeatures) -> tuple[Proposals, Tensor, Tensor]:
        """The proposals of each frame, with the box head's logits (F, P, K + 1), background last, and deltas (F, P, K, 4)."""
        proposals = self.propose(self.anchored(features), features.size)
        return proposals, *self.box_head(self.regions(features, proposals.boxes_FP4, self.config.roi_size))

    def regions(self, features: FrameFeatures, boxes_FN4: Tensor, size: int) -> Tensor:
        """Features inside boxes: (F, N, C, size, size)."""
        pooled = multilevel_roi_align(
            features.pyramid, self.backbone.strides, boxes_FN4, size, sampling_ratio=self.config.sampling_ratio)
        return pooled.permute(0, 1, 4, 2, 3)

    def mask_logits(self, features: FrameFeatures, boxes_FN4: Tensor, labels_FN: Tensor) -> Tensor:
        """Mask logits (F, N, S, S) inside boxes, each of its class."""
        regions_FNCPP = self.regions(features, boxes_FN4, self.config.mask_roi_size)
        return self.mask_head(regions_FNCPP.flatten(0, 1), labels_FN.flatten()).unflatten(0, labels_FN.shape)

    def embeddings(self, regions_FNCPP: Tensor) -> Tensor:
        """The embeddings (F, N, D) of regions of ``roi_size``."""
        return self.tracking_head(regions_FNCPP.flatten(0, 1)).unflatten(0, regions_FNCPP.shape[:2])

    def load_initial(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Starts from the weights of the same network, with any classes: class layers of another number of classes stay as
        initialised.

        Returns:
            The names of its own parameters that stay as initialised.

        Raises:
            ValueError: a weight is missing, unknown or has another shape, so that it is not the same network.
        """
        adapted, stay = fitted(weights, self.state_dict(), lambda name: name.startswith(CLASS_LAYERS))
        self.load_state_dict(adapted)
        return stay
