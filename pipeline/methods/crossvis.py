"""CrossVIS (Yang et al., ICCV 2021), a method of tables 2 and 3: it looks at single frames, learns from pairs of them, and
knows objects again by their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from effvis.config import Config
from effvis.crossvis.config import CrossVISConfig, CrossVISInference, CrossVISOptimisationConfig
from effvis.data.sizes import InputSize
from pipeline.methods.base import Classes, Method, PretrainSettings, Published

if TYPE_CHECKING:
    from effvis.crossvis.model import CrossVIS
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from effvis.model.conversion import Conversion


class CrossVISModelSettings(CrossVISConfig):
    """``CrossVISConfig`` without the number of classes, which the dataset decides."""

    num_classes: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> CrossVISConfig:
        """The network. It looks at single frames, whatever the clip length of a row."""
        return CrossVISConfig(**{**self.model_dump(), "num_classes": num_classes})


class CrossVISPretrainSettings(PretrainSettings):
    train: CrossVISOptimisationConfig = CrossVISOptimisationConfig()


class CrossVISInferenceSettings(Config):
    """Values of ``inference`` that CrossVIS's rows replace, and its own; see ``CrossVISInference``. The defaults are its
    authors'."""

    presence_threshold: float = Field(0.05, ge=0, le=1)
    category: Literal["mean", "vote"] = "vote"
    max_tracklets: int = Field(100, ge=1)
    candidates: int = Field(1000, ge=1)
    suppression_iou: float = Field(0.6, ge=0, le=1)
    detections: int = Field(100, ge=1)
    new_tracklet_below: float = 0.4


class CrossVISSettings(Config):
    """All settings of CrossVIS that it does not share with EfficientVIS."""

    input_size: InputSize | None = Field(None, description="None: as the other methods'")
    inference: CrossVISInferenceSettings = CrossVISInferenceSettings()
    model: CrossVISModelSettings = CrossVISModelSettings()
    pretrain: CrossVISPretrainSettings = CrossVISPretrainSettings()
    train: CrossVISOptimisationConfig = CrossVISOptimisationConfig()


def train_config(settings: CrossVISSettings, correspondence: bool) -> CrossVISOptimisationConfig:
    return settings.train


def pretrain_config(settings: CrossVISSettings, correspondence: bool) -> CrossVISOptimisationConfig:
    return settings.pretrain.train


def clips_per_video(train: CrossVISOptimisationConfig, clip_length: int, longest_video: int) -> int:
    """Two, of one frame each: what is learned crosses over between them. A still picture has no second one."""
    return 2 if longest_video > 1 else 1


def losses(model: CrossVIS, train: CrossVISOptimisationConfig) -> Callable[..., dict[str, Any]]:
    from effvis.crossvis.losses import pair_losses

    return partial(pair_losses, model, weights=train.loss)


def predict(
    model: CrossVIS, index: DatasetIndex, config: CrossVISInference, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    from effvis.crossvis.track import track
    from effvis.inference.predictor import predict_tracked

    return predict_tracked(model, index, config, track=track, input_size=input_size, progress=progress)


def convert(
    published: Mapping[str, Any], settings: CrossVISSettings, classes: Classes, clip_length: int | None, where: Path, hint: str
) -> Conversion:
    """As the file's network is: its identities, and where its ResNet has the stride."""
    from effvis.crossvis.convert import convert_crossvis, published_form
    from effvis.crossvis.model import CrossVIS

    config = published_form(published, settings.model.resolve(classes.number, 1), where=where, hint=hint)
    return convert_crossvis(published, CrossVIS(config), where=where, hint=hint, categories=classes.names,
                            published_categories=classes.published)


def class_names(published: Mapping[str, Any], named: Sequence[str], *, where: Path, hint: str) -> Sequence[str]:
    from effvis.crossvis import convert as conversions

    return conversions.class_names(published, named, where=where, hint=hint)


# The authors' own start, AdelaiDet's CondInst, has no checksum in its name: it is converted from a file (docs/weights.md).
_CONDINST = Published(
    "https://download.openmmlab.com/mmdetection/v3.0/condinst/condinst_r50_fpn_ms-poly-90k_coco_instance/"
    "condinst_r50_fpn_ms-poly-90k_coco_instance_20221129_125223-4c186406.pth",
    "resnet50", "COCO, CondInst, 1x, masks", "open-mmlab/mmdetection, configs/condinst/metafile.yml")

METHOD = Method(
    name="crossvis", title="CrossVIS", section="crossvis", settings=CrossVISSettings,
    derived={"model.clip_length": "CrossVIS looks at single frames"},
    train_config=train_config, pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
    inference=CrossVISInference,
    training_code=("effvis.crossvis.losses",), evaluation_code=("effvis.crossvis.track",),
    reads=("CrossVIS", "CondInst"), published={"condinst-r50": _CONDINST}, convert=convert, class_names=class_names,
    usual_start={"resnet50": "condinst-r50"})
