"""The configurations of MaskTrack R-CNN. Defaults are its authors'; where they follow mmdetection, it is said."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat

from effvis.config import Backbone, Config, InferenceConfig, OptimisationConfig
from effvis.tracking.config import CueWeights


class MaskTrackConfig(Config):
    """The network: a Mask R-CNN with FPN, and a tracking head."""

    method: ClassVar[str] = "masktrack_rcnn"

    num_classes: int = Field(ge=1)
    clip_length: Literal[1] = 1
    backbone: Backbone = "resnet50"
    hidden_dim: int = Field(256, ge=8, description="C, of the pyramid and the mask head")
    anchor_scales: tuple[PositiveFloat, ...] = Field(
        (8.0,), min_length=1, description="sides of square anchors, in strides of their level; mmdetection's")
    anchor_ratios: tuple[PositiveFloat, ...] = Field((0.5, 1.0, 2.0), min_length=1, description="height to width")
    proposals: int = Field(200, ge=1, description="kept of each level before suppression, and of each frame after it")
    proposal_iou: float = Field(0.7, gt=0, le=1, description="IoU with a better one of the level above which it is dropped")
    roi_size: int = Field(7, ge=1, description="of the regions that the box head and the tracking head read")
    mask_roi_size: int = Field(14, ge=1, description="masks are twice as wide")
    sampling_ratio: int = Field(2, ge=0, description="RoIAlign's samples per bin and axis; 0: as many as the box has "
                                "pixels of the level, as in mmdetection since 2.0 and mmtracking")
    box_dim: int = Field(1024, ge=1, description="width of the box head's two layers")
    mask_convs: int = Field(4, ge=0)
    track_dim: int = Field(1024, ge=1, description="width of the tracking head's two layers")
    rectified_embedding: bool = Field(False, description="a ReLU ends the tracking head, as in mmtracking")

    def at_one_frame(self) -> MaskTrackConfig:
        """Itself: it sees one frame at a time."""
        return self


class MaskTrackLossWeights(Config):
    """Weights of the losses' sum; the paper adds them as they are."""

    objectness: float = Field(1.0, ge=0, description="of the proposals")
    proposal_box: float = Field(1.0, ge=0)
    category: float = Field(1.0, ge=0)
    box: float = Field(1.0, ge=0)
    mask: float = Field(1.0, ge=0)
    tracking: float = Field(1.0, ge=0)


class MaskTrackTrainConfig(OptimisationConfig):
    """The training on pairs of frames. The authors' 12 epochs have every frame once: about 330 passes over YouTube-VIS's
    videos. Theirs is SGD, with a rate that does not carry over."""

    epochs: float = Field(330, gt=0, description="passes over the videos, one pair of frames of each per pass")
    lr: float = Field(1e-4, gt=0)
    lr_drop_epoch: float = Field(220, gt=0, description="the learning rate is divided by 10 here; theirs at 8 and 11 of 12")
    anchor_samples: int = Field(64, ge=2, description="anchors per frame in the proposals' losses, at most half positive")
    region_samples: int = Field(128, ge=4, description="regions per frame in the other losses, at most a quarter positive")
    loss: MaskTrackLossWeights = MaskTrackLossWeights()


class MaskTrackInference(InferenceConfig):
    """How frames become tracklets: each frame's detections are matched with a memory of the objects so far.

    ``presence_threshold`` is the least score of a detection.
    """

    linking: Literal["hand-craft"] = "hand-craft"
    category: Literal["vote"] = "vote"
    nms_iou: float = Field(0.5, gt=0, le=1, description="IoU with a better detection of its class above which one is dropped")
    detections: int = Field(10, ge=1, description="kept per frame, best scores first")
    cues: CueWeights = CueWeights()
