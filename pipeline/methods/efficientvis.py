"""EfficientVIS, the paper's method. Its settings stand at the top of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from effvis.config import Config, InferenceConfig, ModelConfig, TrainConfig
from effvis.data.sizes import InputSize
from pipeline.methods.base import Classes, Method, PretrainSettings, Published

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from effvis.model.conversion import Conversion
    from effvis.model.efficientvis import EfficientVIS

_SPARSE_RCNN = "open-mmlab/mmdetection, configs/sparse_rcnn/metafile.yml"
_QUERYINST = "open-mmlab/mmdetection, configs/queryinst/metafile.yml"


def _word(value: Any) -> Any:
    """The word that was written: YAML reads ``on`` and ``off`` as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class ModelSettings(ModelConfig):
    """``ModelConfig`` without the values that the dataset and the row decide."""

    num_classes: int = 1
    clip_length: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> ModelConfig:
        return ModelConfig(**{**self.model_dump(), "num_classes": num_classes, "clip_length": clip_length})


class TrainSettings(TrainConfig):
    """``TrainConfig`` without the decision whether to learn correspondence, which may depend on the data."""

    correspondence: Annotated[Literal["on", "off", "auto"], BeforeValidator(_word)] = "auto"

    def resolve(self, correspondence: bool) -> TrainConfig:
        return TrainConfig(**{**self.model_dump(), "correspondence": correspondence})


class EfficientVISPretrainSettings(PretrainSettings):
    train: TrainConfig = TrainConfig()


class EfficientVISSettings(Config):
    model: ModelSettings
    pretrain: EfficientVISPretrainSettings = EfficientVISPretrainSettings()
    train: TrainSettings


def train_config(settings: EfficientVISSettings, correspondence: bool) -> TrainConfig:
    return settings.train.resolve(correspondence)


def pretrain_config(settings: EfficientVISSettings, correspondence: bool) -> TrainConfig:
    return settings.pretrain.train.model_copy(update={"correspondence": correspondence})


def clips_per_video(train: TrainConfig, clip_length: int, longest_video: int) -> int:
    """Two, a pair, for correspondence learning, and also without it if a video is longer than a clip, for a fair comparison.
    Otherwise one: a clip holds every video, so the second clip of a pair would repeat the first."""
    return 2 if train.correspondence or longest_video > clip_length else 1


def losses(model: EfficientVIS, train: TrainConfig) -> Callable[..., dict[str, Any]]:
    from effvis.training.correspondence import pair_losses

    return partial(pair_losses, model, weights=train.loss, correspondence=train.correspondence, matching=train.matching)


def predict(
    model: EfficientVIS, index: DatasetIndex, config: InferenceConfig, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    from effvis.inference.clip import predict_alone
    from effvis.inference.predictor import predict_linked, predict_split

    if config.linking == "hand-craft":
        return predict_linked(model, index, config, predict=predict_alone, input_size=input_size, progress=progress)
    return predict_split(model, index, config, input_size=input_size, progress=progress)


def convert(
    published: Mapping[str, Any], settings: EfficientVISSettings, classes: Classes, clip_length: int | None, where: Path,
    hint: str,
) -> Conversion:
    from effvis.model import convert as conversions
    from effvis.model.efficientvis import EfficientVIS

    network = EfficientVIS(settings.model.resolve(classes.number, clip_length or 1))
    return conversions.convert(published, network, where=where, hint=hint, categories=classes.names,
                               published_categories=classes.published)


def class_names(published: Mapping[str, Any], named: Sequence[str], *, where: Path, hint: str) -> Sequence[str]:
    from effvis.model import convert as conversions

    return conversions.class_names(published, named, where=where, hint=hint)


def _published() -> Iterator[tuple[str, Published]]:
    for name, config, stamp, what in (
        ("sparse-rcnn-r50-1x", "sparse_rcnn_r50_fpn_1x_coco", "20201222_214453-dc79b137", "100 proposals, 1x"),
        ("sparse-rcnn-r50", "sparse_rcnn_r50_fpn_mstrain_480-800_3x_coco", "20201218_154234-7bc5c054", "100 proposals, 3x"),
        ("sparse-rcnn-r50-300", "sparse_rcnn_r50_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20201223_024605-9fe92701", "300 proposals, 3x"),
        ("sparse-rcnn-r101", "sparse_rcnn_r101_fpn_mstrain_480-800_3x_coco", "20201223_121552-6c46c9d6", "100 proposals, 3x"),
        ("sparse-rcnn-r101-300", "sparse_rcnn_r101_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20201223_023452-c23c3564", "300 proposals, 3x"),
        ("queryinst-r50-1x", "queryinst_r50_fpn_1x_coco", "20210907_084916-5a8f1998", "100 proposals, 1x"),
        ("queryinst-r50", "queryinst_r50_fpn_mstrain_480-800_3x_coco", "20210901_103643-7837af86", "100 proposals, 3x"),
        ("queryinst-r50-300", "queryinst_r50_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20210904_101802-85cffbd8", "300 proposals, 3x"),
        ("queryinst-r101", "queryinst_r101_fpn_mstrain_480-800_3x_coco", "20210904_104048-91f9995b", "100 proposals, 3x"),
        ("queryinst-r101-300", "queryinst_r101_fpn_300_proposals_crop_mstrain_480-800_3x_coco",
         "20210904_153621-76cce59f", "300 proposals, 3x"),
    ):
        masks = name.startswith("queryinst")
        folder = "queryinst" if masks else "sparse_rcnn"
        yield name, Published(
            f"https://download.openmmlab.com/mmdetection/v2.0/{folder}/{config}/{config}_{stamp}.pth",
            "resnet101" if "-r101" in name else "resnet50", f"COCO, {what}{', masks' if masks else ''}",
            _QUERYINST if masks else _SPARSE_RCNN)


METHOD = Method(
    name="efficientvis", title="EfficientVIS", settings=EfficientVISSettings,
    derived={"pretrain.train.correspondence": "Pretraining learns correspondence where the row does"},
    row_keys=frozenset({"cl", "attention", "dynamic_conv", "query"}), linkings=("end-to-end", "hand-craft"),
    learns_correspondence=True, links_starts=True, on_pictures=ModelSettings.on_pictures,
    train_config=train_config, pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
    training_code=("effvis.training.correspondence",),
    reads=("Sparse R-CNN", "QueryInst"), published=dict(_published()), convert=convert, class_names=class_names,
    usual_start={"resnet50": "queryinst-r50", "resnet101": "queryinst-r101"})
