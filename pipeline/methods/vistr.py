"""VisTR (Wang et al., CVPR 2021), the method that EfficientVIS is compared with. It has no tracklet queries: clips are linked
by Hungarian matching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from effvis.config import Config, InferenceConfig
from effvis.data.sizes import InputSize
from effvis.vistr.config import VisTRConfig, VisTRTrainConfig
from pipeline.methods.base import Classes, Comparison, Method, PretrainSettings, Published

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from effvis.model.conversion import Conversion
    from effvis.vistr.model import VisTR

_DETR = "facebookresearch/detr, README.md and hubconf.py"


class VisTRModelSettings(VisTRConfig):
    """``VisTRConfig`` without the values that the dataset and the row decide."""

    num_classes: int = 1
    clip_length: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> VisTRConfig:
        return VisTRConfig(**{**self.model_dump(), "num_classes": num_classes, "clip_length": clip_length})


class VisTRPretrainSettings(PretrainSettings):
    train: VisTRTrainConfig = VisTRTrainConfig()


class VisTRInferenceSettings(Config):
    """Values of ``inference`` that VisTR's rows replace."""

    presence_threshold: float | None = Field(None, ge=0, le=1, description="None: inference.presence_threshold")
    category: Literal["mean", "vote"] | None = Field(None, description="None: inference.category")


class VisTRSettings(Config):
    """All settings of VisTR that it does not share with EfficientVIS."""

    input_size: InputSize | None = Field(None, description="None: as the other methods'; its authors' frames are smaller")
    inference: VisTRInferenceSettings = VisTRInferenceSettings()

    model: VisTRModelSettings = VisTRModelSettings()
    pretrain: VisTRPretrainSettings = VisTRPretrainSettings()
    train: VisTRTrainConfig = VisTRTrainConfig()


def train_config(settings: VisTRSettings, correspondence: bool) -> VisTRTrainConfig:
    return settings.train


def pretrain_config(settings: VisTRSettings, correspondence: bool) -> VisTRTrainConfig:
    return settings.pretrain.train


def clips_per_video(train: VisTRTrainConfig, clip_length: int, longest_video: int) -> int:
    """One clip: a second one would cost the time that VisTR's longer training needs."""
    return 1


def losses(model: VisTR, train: VisTRTrainConfig) -> Callable[..., dict[str, Any]]:
    from effvis.vistr.losses import pair_losses

    return partial(pair_losses, model, weights=train.loss)


def predict(
    model: VisTR, index: DatasetIndex, config: InferenceConfig, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    from effvis.inference.predictor import predict_linked
    from effvis.vistr.clip import predict_clip

    return predict_linked(model, index, config, predict=predict_clip, input_size=input_size, progress=progress)


def convert(
    published: Mapping[str, Any], settings: VisTRSettings, classes: Classes, clip_length: int | None, where: Path, hint: str
) -> Conversion:
    from effvis.vistr.convert import convert_vistr, published_form
    from effvis.vistr.model import build_vistr

    network = settings.model.resolve(classes.number, clip_length or 1)
    config = published_form(published, network, where=where, clip_length=clip_length)
    return convert_vistr(published, build_vistr(config), where=where, hint=hint)


def _published() -> Iterator[tuple[str, Published]]:
    # The DC5 files are left out: their last stage was trained dilated, at twice the resolution.
    for file, mib in (("detr-r50-e632da11", 159), ("detr-r101-2c7b67e5", 232), ("detr-r50-panoptic-00ce5173", 165),
                      ("detr-r101-panoptic-40021d53", 237)):
        name = file.rpartition("-")[0]
        yield name, Published(
            f"https://dl.fbaipublicfiles.com/detr/{file}.pth", "resnet101" if "-r101" in name else "resnet50",
            f"COCO, width 256{', panoptic masks' if 'panoptic' in name else ''}", _DETR, mib)


METHOD = Method(
    name="vistr", title="VisTR", section="vistr", settings=VisTRSettings,
    train_config=train_config, pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
    training_code=("effvis.vistr.losses",), evaluation_code=("effvis.vistr.clip",),
    reads=("DETR", "VisTR"), published=dict(_published()), convert=convert,
    usual_start={"resnet50": "detr-r50", "resnet101": "detr-r101"}, links_starts=True,
    starts_have_frames=True,
    comparisons=(Comparison(
        "figure-7", "Figure 7: EfficientVIS beside VisTR",
        "The same frames through both networks, at the same clip length. EfficientVIS links its clips end-to-end, VisTR's are "
        "linked by Hungarian matching.",
        {"EfficientVIS": "table1d:T=18 Fully e2e (ours)", "VisTR": "table1d:T=18 VisTR"}),))
