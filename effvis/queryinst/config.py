"""The configurations of QueryInst, whose network is EfficientVIS's at T=1 in QueryInst's form."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from effvis.config import Backbone, LossWeights, MatchingConfig, ModelConfig, OptimisationConfig


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


class QueryInstTrainConfig(OptimisationConfig):
    """The training on single frames: that of EfficientVIS at T=1, where no query is carried on to another frame."""

    matching: MatchingConfig = MatchingConfig()
    loss: LossWeights = LossWeights()
