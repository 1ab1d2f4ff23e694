"""The configurations of VisTR (Wang et al., CVPR 2021), separate from those of EfficientVIS: no run of one method depends
on the code of the other.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from effvis.config import Backbone, Config, OptimisationConfig, later


class VisTRConfig(Config):
    """The network of the VisTR paper; the defaults are its settings."""

    method: ClassVar[str] = "vistr"

    num_classes: int = Field(ge=1)
    clip_length: int = Field(ge=1, description="T, frames per clip; 36 in the VisTR paper")
    queries: int = Field(10, ge=1, description="N, queries per frame; the n-th queries of all frames are one tracklet")
    backbone: Backbone = "resnet50"
    hidden_dim: int = Field(384, ge=96, multiple_of=96, description="C; thirds hold the positions, 1/32 the last mask layers")
    encoder_layers: int = Field(6, ge=1)
    decoder_layers: int = Field(6, ge=1)
    attention_heads: int = Field(8, ge=1)
    ffn_dim: int = Field(2048, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1, description="0 where training must be the same on every machine")

    absent_row: bool = later(
        False, description="the class layer's row 0 is its authors' class of absent frames, before the rows of the categories")

    @property
    def class_rows(self) -> int:
        """Rows of the class layer: absent, if there is such a row, the categories, and no-object last."""
        return self.num_classes + 1 + self.absent_row

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.hidden_dim % self.attention_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of attention_heads {self.attention_heads}")
        return self

    def at_one_frame(self) -> VisTRConfig:
        """The network that this one becomes at T=1."""
        return self.model_copy(update={"clip_length": 1})


class VisTRLossWeights(Config):
    """Weights of the VisTR paper and its code; the matching also uses the first three of them."""

    category: float = Field(1.0, ge=0)
    l1: float = Field(5.0, ge=0)
    giou: float = Field(2.0, ge=0)
    focal: float = Field(1.0, ge=0, description="focal cross-entropy of the mask pixels")
    dice: float = Field(1.0, ge=0)
    no_object: float = Field(0.1, gt=0, description="share of a no-object frame in the class loss")


class VisTRTrainConfig(OptimisationConfig):
    """The training of VisTR. The defaults are those of its code, except for the epochs: its 18 have one clip per frame of
    each video, which is about 500 passes over the videos."""

    epochs: float = Field(500, gt=0, description="passes over the videos, one clip pair of each per pass")
    lr: float = Field(1e-4, gt=0)
    backbone_lr: float | None = Field(1e-5, gt=0, description="None: lr")
    lr_drop_epoch: float = Field(333, gt=0, description="the learning rate is divided by 10 here; 12 of VisTR's 18 epochs")
    clip_norm: float = Field(0.1, gt=0)
    loss: VisTRLossWeights = VisTRLossWeights()
