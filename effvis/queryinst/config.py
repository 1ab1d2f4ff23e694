"""The configurations of QueryInst, whose network is EfficientVIS's at T=1 in QueryInst's form."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effvis.config import (
    Backbone,
    Config,
    InferenceConfig,
    LossWeights,
    MatchingConfig,
    ModelConfig,
    OptimisationConfig,
    later,
)
from effvis.tracking.config import CueWeights


class QueryInstConfig(ModelConfig):
    """The network of QueryInst; the defaults are its published ones. What is fixed is what makes it QueryInst's."""

    method: ClassVar[str] = "queryinst"

    clip_length: Literal[1] = 1
    queries: int = Field(100, ge=1, description="N, proposals per frame")
    backbone: Backbone = "resnet50"
    attention: Literal["spatial"] = "spatial"
    mask_query: Literal["attended"] = "attended"
    mask_classes: Literal["specific"] = "specific"
    # These four mean nothing at T=1. They have one value, so that the same network has one configuration.
    similarity_temperature: float = Field(1.0, ge=1, le=1)
    dynamic_conv: Literal["temporal"] = "temporal"
    neighbour_crop: Literal["own"] = "own"
    query: Literal["time-disentangled"] = "time-disentangled"
    tracking: Literal["none", "head"] = later(
        "none", description="head: an embedding of each object is learned on pairs of frames, and objects are known again by "
        "it; none: as published for images")
    tracking_dim: int = later(1024, ge=1, description="width of the tracking head's layers, as in MaskTrack R-CNN")

    def at_one_frame(self) -> QueryInstConfig:
        """The network that a training on images gives: a single frame teaches no tracking head anything."""
        return super().at_one_frame().model_copy(update={
            name: type(self).model_fields[name].default for name in ("tracking", "tracking_dim")})


class QueryInstTrainConfig(OptimisationConfig):
    """The training on single frames: that of EfficientVIS at T=1, where no query is carried on to another frame.

    With a tracking head, a second frame of the same video is the reference, in which objects are to be known again.
    """

    matching: MatchingConfig = MatchingConfig()
    loss: LossWeights = LossWeights()
    reference: bool = later(False, description="whether there is a second frame; it follows from the network's tracking")
    tracking_loss: float = later(1.0, ge=0, description="weight of the tracking head's loss, as in MaskTrack R-CNN's code")


class FrameLinking(Config):
    """How an object is known again in a later frame: weights of four similarities, of which the weighted mean counts.

    Weights and threshold are those of ``python -m benchmarks.frame_linking`` (docs/queryinst.md).
    """

    query: float = Field(1.0, ge=0, description="weight of the cosine of the refined queries")
    box_iou: float = Field(1.0, ge=0, description="weight")
    mask_iou: float = Field(1.0, ge=0, description="weight")
    category: float = Field(1.0, ge=0, description="weight of the cosine of the class probabilities")
    new_tracklet_below: float = Field(0.3, le=1, description="a pair of less similarity is not linked")
    forget_after: int = Field(30, ge=1, description="frames that an object may be away and still return")
    remembered: int = Field(200, ge=1, description="objects that are remembered at most, beside those of the last frame")

    @model_validator(mode="after")
    def _something_counts(self):
        if not self.query + self.box_iou + self.mask_iou + self.category:
            raise ValueError("one of the weights query, box_iou, mask_iou and category has to be above 0")
        return self


class QueryInstInference(InferenceConfig):
    """How frames become tracklets. Its linking is always by hand-crafted matching, and ``handcraft`` means nothing: with a
    tracking head ``cues`` decide, without one ``frames``."""

    linking: Literal["hand-craft"] = "hand-craft"
    frames: FrameLinking = FrameLinking()
    cues: CueWeights = later(CueWeights(), description="with a tracking head: beside the head's probability (MaskTrack R-CNN)")
