"""The configurations of CrossVIS; the defaults are its authors' settings (hustvl/CrossVIS, adet/config/defaults.py)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from effvis.config import Backbone, Config, InferenceConfig, OptimisationConfig


class CrossVISConfig(Config):
    """The network: FCOS with CondInst's masks and an embedding at every location."""

    method: ClassVar[str] = "crossvis"

    num_classes: int = Field(ge=1)
    clip_length: Literal[1] = 1
    backbone: Backbone = "resnet50"
    hidden_dim: int = Field(256, ge=8, description="C, channels of the pyramid and of the head's towers")
    coarser_levels: int = Field(2, ge=0, description="levels above those of the backbone's last three stages: P6 and P7")
    tower_convs: int = Field(4, ge=1, description="convolutions of each of the three towers: classes, boxes, embeddings")
    norm_groups: int = Field(32, ge=1, description="groups of the GroupNorm in towers; of the mask branch's with norm: group")
    size_per_stride: float = Field(8.0, gt=0, description="a level of stride s has objects that reach up to so many times s "
                                   "from a location; 64 on P3. Coordinates of masks are divided by the same")
    mask_branch_dim: int = Field(128, ge=1)
    mask_branch_convs: int = Field(4, ge=0)
    mask_channels: int = Field(8, ge=1, description="mask features, and channels of the dynamic mask head")
    embedding_dim: int = Field(256, ge=1)
    identities: int = Field(3774, ge=3, description="instances of the training split, which embeddings are classified into; "
                            "3774 in YouTube-VIS 2019. Their ids are 1 to this number")
    norm: Literal["batch", "group"] = Field("batch", description="normalisation of the mask branch and of embeddings. batch: "
                                            "with the fixed statistics of published weights, as in the backbone; group: for "
                                            "a training that has none")
    stride_in_1x1: bool = Field(False, description="the stride of a ResNet's bottleneck is in its first 1x1 convolution, as in "
                                "the weights that the authors start from; else in the 3x3 one, as torchvision has it")

    @model_validator(mode="after")
    def _sizes_fit(self):
        grouped = [("hidden_dim", self.hidden_dim)]
        if self.norm == "group":
            grouped += [("mask_branch_dim", self.mask_branch_dim), ("embedding_dim", self.embedding_dim)]
        for name, width in grouped:
            if width % self.norm_groups:
                raise ValueError(f"{name} {width} is not a multiple of norm_groups {self.norm_groups}")
        if self.stride_in_1x1 and self.backbone not in ("resnet50", "resnet101"):
            raise ValueError(f"stride_in_1x1 is of ResNet-50 and ResNet-101: {self.backbone} has no bottlenecks")
        return self

    def at_one_frame(self) -> CrossVISConfig:
        """The network at T=1: itself."""
        return self


class CrossVISLossWeights(Config):
    """The authors' code adds its six losses as they are."""

    category: float = Field(1.0, ge=0)
    box: float = Field(1.0, ge=0)
    centreness: float = Field(1.0, ge=0)
    mask: float = Field(1.0, ge=0)
    crossover: float = Field(1.0, ge=0)
    embedding: float = Field(1.0, ge=0)


class CrossVISOptimisationConfig(OptimisationConfig):
    """The training. The authors' 23,000 steps of 16 pairs are 164 passes over the 2,238 videos of YouTube-VIS 2019."""

    epochs: float = Field(164, gt=0, description="passes over the videos, one pair of frames of each per pass")
    lr: float = Field(1e-4, gt=0, description="of AdamW; the authors' 0.005 is SGD's")
    backbone_lr: float | None = Field(1e-5, gt=0, description="None: lr. The authors' is a tenth, pyramid included")
    lr_drop_epoch: float = Field(107, gt=0, description="the learning rate is divided by 10 here; 15,000 of 23,000 steps. "
                                 "The authors do it again after 21,000")
    loss: CrossVISLossWeights = CrossVISLossWeights()


class CrossVISInference(InferenceConfig):
    """How frames become tracklets. ``handcraft`` and ``reinit_after`` mean nothing here."""

    linking: Literal["hand-craft"] = "hand-craft"
    presence_threshold: float = Field(0.05, ge=0, le=1, description="a location below this product of class probability and "
                                      "centreness shows nothing; an object's score is the square root of the product")
    category: Literal["mean", "vote"] = Field("vote", description="an object has one class: vote gives each tracklet its own, "
                                              "and the mean of its scores, as the authors do")
    max_tracklets: int = Field(100, ge=1, description="tracklets kept per video, best scores first; the authors keep all, and "
                               "AP counts no more")
    candidates: int = Field(1000, ge=1, description="(location, class) pairs of each level that are looked at, the best first")
    suppression_iou: float = Field(0.6, ge=0, le=1, description="of two boxes of one class with a larger IoU, the better stays")
    detections: int = Field(100, ge=1, description="objects of a frame at most")
    new_tracklet_below: float = Field(0.4, description="an object whose cosine and IoU with every tracklet have a smaller sum "
                                      "is a new one")
