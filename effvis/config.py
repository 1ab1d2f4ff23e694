"""Frozen, validated configurations. An unknown key or a wrong type is an error that names the key.

Everything that changes a trained weight is in ``ModelConfig`` or ``TrainConfig``; everything that changes only what is
read from a trained weight is in ``InferenceConfig``. Settings that the paper leaves open say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, field_validator, model_validator

from effvis.errors import UserError

Share = Annotated[float, Field(gt=0, le=1)]
# The names of all backbones; effvis/model/backbone.py has a builder for each.
Backbone = Literal["tiny", "tiny-deep", "resnet18", "resnet50", "resnet101", "efficientnet-lite0"]


def later(default: Any, **field: Any) -> Any:
    """A field that was added to a configuration after runs had been trained with it.

    At its default it is left out of the written configuration, and so out of every key: those runs still count.
    """
    return Field(default, exclude_if=lambda value: value == default, **field)


class Config(BaseModel):
    """Base of all configurations: immutable, strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Config):
    """The network of Sec. 3.1-3.2. Names follow the paper where it has them."""

    method: ClassVar[str] = "efficientvis"

    num_classes: int = Field(ge=1)
    clip_length: int = Field(ge=1, description="T, frames per clip")
    queries: int = Field(10, ge=1, description="N, tracklet queries")
    iterations: int = Field(6, ge=1, description="M, query-video interactions")
    hidden_dim: int = Field(256, ge=8, description="C")
    backbone: Backbone = "tiny"
    attention_heads: int = Field(8, ge=1)
    ffn_dim: int = Field(2048, ge=1)
    dynamic_dim: int = Field(64, ge=1, description="inner width of the dynamic convolution")
    roi_size: int = Field(7, ge=1, description="left open by the paper; 7 in Sparse R-CNN")
    mask_roi_size: int = Field(14, ge=1, description="left open by the paper; 14 in QueryInst; masks are twice as wide")
    mask_convs: int = Field(4, ge=0)
    similarity_temperature: float = Field(1.0, gt=0, description="of the softmax in Eq. 3; left open by the paper")
    attention: Literal["ftsa", "ftsa-st", "spatial", "temporal", "joint"] = Field(
        "ftsa", description="self-attention among tracklet queries (table 1a); ftsa-st: spatial, then temporal")
    dynamic_conv: Literal["temporal", "still"] = Field("temporal", description="still: without Eq. 3 (table 1b)")
    neighbour_crop: Literal["own", "here"] = Field(
        "own", description="whose proposal crops the neighbour frame t' of frame t in Eq. 3: its own, b^{t'}, or b^t; left "
        "open by the paper")
    mask_query: Literal["attended", "refined"] = Field(
        "attended", description="the query whose filters the mask head applies: after self-attention and before the dynamic "
        "convolution, as in QueryInst, or the refined one, which classes and boxes read; left open by the paper")
    mask_classes: Literal["agnostic", "specific"] = later(
        "agnostic", description="one mask per tracklet, or one per class, as in QueryInst; left open by the paper")
    query: Literal["time-disentangled", "time-shared"] = Field(
        "time-disentangled", description="time-shared: one embedding per tracklet for all T frames (table 1f)")

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.hidden_dim % self.attention_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not a multiple of attention_heads {self.attention_heads}")
        return self

    @property
    def mask_size(self) -> int:
        """Side of a predicted mask in its box, in mask pixels."""
        return 2 * self.mask_roi_size

    def at_one_frame(self) -> ModelConfig:
        """The network that this one becomes at T=1; networks that are the same there get the same configuration.

        Without neighbour frames Eq. 3 is the plain dynamic convolution, a query belongs to its only frame, and joint attention
        is spatial. (FTSA is not: its temporal block still mixes the channels of a single embedding.)
        """
        return self.model_copy(update={
            "clip_length": 1, "dynamic_conv": "temporal", "neighbour_crop": "own", "similarity_temperature": 1.0,
            "query": "time-disentangled",
            "attention": "spatial" if self.attention == "joint" else self.attention})

    def on_pictures(self) -> ModelConfig:
        """The network that still pictures teach: one for all that differ only in what time has to do with.

        As at one frame, but a picture has no time to attend over: each scheme of attention starts from the spatial one.
        """
        return self.at_one_frame().model_copy(update={"attention": "spatial"})


class LossWeights(Config):
    """Weights of Eq. 5. The paper leaves the mask BCE weight open."""

    focal: float = Field(2.0, ge=0)
    l1: float = Field(5.0, ge=0)
    giou: float = Field(2.0, ge=0)
    dice: float = Field(8.0, ge=0)
    bce: float = Field(2.0, ge=0)


class MatchingConfig(Config):
    """The cost of Eq. 4. The paper gives no weights; those of class and box are the cited code's (DETR, Sparse R-CNN)."""

    class_cost: Literal["probability", "focal"] = Field(
        "probability", description="minus the probability of the class, and of being absent where the instance is (Eq. 4); or "
        "the cited code's focal cost")
    category: float = Field(1.0, ge=0, description="weight of the class cost; the cited code's is 2 for focal")
    l1: float = Field(5.0, ge=0)
    giou: float = Field(2.0, ge=0)
    mask: float = Field(1.0, ge=0, description="weight of 1 - IoU of the predicted and the true mask in the frame")


class OptimisationConfig(Config):
    """Optimisation (Sec. 4.1) and augmentation, for any method."""

    epochs: float = Field(33, gt=0, description="passes over the videos, one clip pair of each per pass")
    batch_size: int = Field(16, ge=1, description="clip pairs per step over all workers; left open by the paper")
    lr: float = Field(2.5e-5, gt=0)
    backbone_lr: float | None = Field(None, gt=0, description="None: lr; left open by the paper")
    lr_drop_epoch: float = Field(27, gt=0, description="the learning rate is divided by 10 here")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up; left open by the paper")
    weight_decay: float = Field(1e-4, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    horizontal_flip: bool = Field(False, description="flip both clips of a pair with probability one half")
    augmentation: Literal["none", "multi-scale", "random-crop"] = Field(
        "none", description="multi-scale: one input size per step; random-crop: one window per clip pair, resized back")
    scales: tuple[PositiveFloat, ...] = Field(
        tuple(side / 360 for side in (360, 384, 408, 432, 456, 480)), min_length=1,
        description="of the input size, for multi-scale. The paper names no sizes; these are usual in VIS: heights from "
        "360 to 480")
    precision: Literal["fp32", "bf16", "fp16"] = later(
        "fp32", description="of what autocast may compute in half precision; weights and losses stay in fp32")
    activation_checkpointing: bool = later(
        False, description="activations of backbone and heads are computed again in the backward pass: less memory, more time")
    colour: float = later(
        0.0, ge=0, lt=1, description="brightness, contrast and saturation of both clips of a pair are multiplied by factors "
        "drawn from 1 - colour to 1 + colour; 0: they stay")
    frozen_stages: int = later(
        0, ge=0, le=4, description="stages of a ResNet or EfficientNet that learn nothing, with the stem; 1 in the cited "
        "code; left open by the paper")
    gate_lr: float | None = later(
        None, gt=0, description="of the gates of temporal attention, which start closed where there are no weights for it: at "
        "the paper's rate, AdamW could not open them by half; None: lr")
    crop_share: tuple[Share, Share] = Field(
        (0.6, 1.0), description="least and largest share of each side that a random crop keeps")

    @field_validator("crop_share")
    @classmethod
    def _least_share_first(cls, crop_share: tuple[float, float]) -> tuple[float, float]:
        if crop_share[0] > crop_share[1]:
            raise ValueError("the least share is above the largest")
        return crop_share


class TrainConfig(OptimisationConfig):
    """The training of EfficientVIS: with correspondence learning (Sec. 3.3) and the losses of Eq. 5."""

    correspondence: bool = Field(True, description="CL: the second clip starts from the first clip's output queries")
    matching: MatchingConfig = MatchingConfig()
    loss: LossWeights = LossWeights()


class HandcraftConfig(Config):
    """The partially end-to-end linking (table 1d). The paper leaves the weights open and varies the matching threshold;
    ``python -m pipeline.linking`` chooses both on videos that are neither trained on nor reported."""

    box_iou: float = Field(1.0, ge=0, description="weight")
    box_l1: float = Field(1.0, ge=0, description="weight")
    mask_iou: float = Field(1.0, ge=0, description="weight")
    category: float = Field(1.0, ge=0, description="weight")
    new_tracklet_below: float = Field(1.0, description="the matching threshold: a pair of less similarity is not linked; a "
                                      "class in common alone gives 1 at most")
    score_threshold: float = Field(0.05, description="a clip's tracklets that score less are dropped before they are linked")


class InferenceConfig(Config):
    """How tracklets of clips become tracklets of the video (Sec. 3.3, 4.1)."""

    linking: Literal["end-to-end", "hand-craft"] = "end-to-end"
    test_fps: float | None = Field(None, gt=0, description="None: the video's own frame rate")
    scored_frames: Literal["kept", "all"] = Field(
        "kept", description="with test_fps: score the kept frames only, or propagate each kept mask to the dropped frames "
        "after it; left open by the paper")
    presence_threshold: float = Field(0.1, ge=0, le=1, description="below this score a query is background in a frame")
    mask_threshold: float = Field(0.5, gt=0, lt=1)
    reinit_after: int = Field(2, ge=1, description="a query is re-initialised after so many background clips in a row")
    max_tracklets: int = Field(10, ge=1, description="(tracklet, category) pairs kept per video, best scores first")
    handcraft: HandcraftConfig = HandcraftConfig()
    category: Literal["mean", "vote"] = later(
        "mean", description="mean: class probabilities are averaged over the frames where a tracklet is present, and it may be "
        "several results; vote: it is one, of the class that is best in most frames, with the mean of the best probabilities")
    same_frames_fps: float | None = later(
        None, gt=0, description="also score the predictions on only the frames that this frame rate keeps (table 1h)")


ConfigT = TypeVar("ConfigT", bound=Config)


def build(kind: type[ConfigT], values: Mapping[str, Any], *, where: object, prefix: str = "") -> ConfigT:
    """Validates ``values`` and builds a ``kind`` from them.

    Args:
        where: the file that the values came from, for the error message.
        prefix: the section inside that file, e.g. ``train``.

    Raises:
        UserError: names the file, the first wrong key (dotted, with its section) and the remedy.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ((prefix,) if prefix else ()) + tuple(first["loc"])) or "(top)"
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(kind.model_fields)) if len(first["loc"]) == 1 else "those of that section"
            raise UserError(where, key, "unknown key", f"Remove or correct it; known keys are {known}") from None
        raise UserError(where, key, first["msg"], f"It was {first.get('input')!r}; correct the value") from None
