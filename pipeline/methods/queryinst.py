"""QueryInst (Fang et al., ICCV 2021), frame by frame: the network that EfficientVIS is at T=1, as published, with one mask per
class. Its weights from COCO are what EfficientVIS starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from effvis.config import Config
from effvis.data.sizes import InputSize
from effvis.queryinst.config import FrameLinking, QueryInstConfig, QueryInstInference, QueryInstTrainConfig
from effvis.tracking.config import CueWeights
from pipeline.methods.base import Classes, Method, PretrainSettings
from pipeline.methods.efficientvis import METHOD as EFFICIENTVIS

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.inference.predictor import Predictions
    from effvis.model.conversion import Conversion
    from effvis.model.efficientvis import EfficientVIS


class QueryInstModelSettings(QueryInstConfig):
    """``QueryInstConfig`` without the number of classes, which the dataset decides."""

    num_classes: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> QueryInstConfig:
        """The network. It looks at single frames, whatever the clip length of a row."""
        without = {"tracking_dim"} if self.tracking == "none" else set()
        return QueryInstConfig(**{**self.model_dump(exclude=without), "num_classes": num_classes})


class QueryInstPretrainSettings(PretrainSettings):
    train: QueryInstTrainConfig = QueryInstTrainConfig()


class QueryInstInferenceSettings(Config):
    """Values of ``inference`` that QueryInst's rows replace, and its own."""

    presence_threshold: float | None = Field(None, ge=0, le=1, description="None: inference.presence_threshold")
    category: Literal["mean", "vote"] | None = Field(None, description="None: inference.category")
    frames: FrameLinking = FrameLinking()
    cues: CueWeights = CueWeights()


class QueryInstSettings(Config):
    """All settings of QueryInst that it does not share with EfficientVIS."""

    input_size: InputSize | None = Field(None, description="None: as the other methods'")
    inference: QueryInstInferenceSettings = QueryInstInferenceSettings()
    model: QueryInstModelSettings = QueryInstModelSettings()
    pretrain: QueryInstPretrainSettings = QueryInstPretrainSettings()
    train: QueryInstTrainConfig = QueryInstTrainConfig()


def train_config(settings: QueryInstSettings, correspondence: bool) -> QueryInstTrainConfig:
    return settings.train.model_copy(update={"reference": settings.model.tracking == "head"})


def pretrain_config(settings: QueryInstSettings, correspondence: bool) -> QueryInstTrainConfig:
    return settings.pretrain.train


def clips_per_video(train: QueryInstTrainConfig, clip_length: int, longest_video: int) -> int:
    """One frame, and its reference where a tracking head learns."""
    return 2 if train.reference else 1


def losses(model: EfficientVIS, train: QueryInstTrainConfig) -> Callable[..., dict[str, Any]]:
    if train.reference:
        from effvis.queryinst.losses import pair_losses as tracking_losses

        return partial(tracking_losses, model, train=train)
    from effvis.training.correspondence import pair_losses

    return partial(pair_losses, model, weights=train.loss, correspondence=False, matching=train.matching)


def predict(
    model: EfficientVIS, index: DatasetIndex, config: QueryInstInference, input_size: InputSize,
    progress: Callable[[int, int], None] | None,
) -> Predictions:
    from effvis.inference.predictor import predict_tracked
    from effvis.queryinst.link import track

    return predict_tracked(model, index, config, track=track, input_size=input_size, progress=progress)


def convert(
    published: Mapping[str, Any], settings: QueryInstSettings, classes: Classes, clip_length: int | None, where: Path, hint: str
) -> Conversion:
    """As EfficientVIS, with as many queries as the file has proposals."""
    from effvis.model import convert as conversions
    from effvis.model.efficientvis import EfficientVIS
    from effvis.queryinst.convert import published_form

    config = published_form(published, settings.model.resolve(classes.number, 1), where=where, hint=hint)
    return conversions.convert(published, EfficientVIS(config), where=where, hint=hint, categories=classes.names,
                               published_categories=classes.published)


# As its weights from COCO were tested (configs/queryinst of mmdetection). The threshold is ours: below it, their detections are
# mostly doubles and mistakes. No weights with a tracking head are published.
_AS_PUBLISHED = {"model.tracking": "none", "input_size": "{shorter: 800, longer: 1333}", "inference.presence_threshold": "0.3"}
_PUBLISHED = {name: file for name, file in EFFICIENTVIS.published.items() if name.startswith("queryinst")}

METHOD = Method(
    name="queryinst", title="QueryInst", section="queryinst", settings=QueryInstSettings,
    derived={"model.clip_length": "QueryInst looks at single frames",
             **dict.fromkeys(("train.reference", "pretrain.train.reference"), "It follows from queryinst.model.tracking")},
    train_config=train_config, pretrain_config=pretrain_config, clips_per_video=clips_per_video, losses=losses, predict=predict,
    inference=QueryInstInference, training_code=("effvis.training.correspondence", "effvis.queryinst.losses"),
    published_settings=_AS_PUBLISHED, published=_PUBLISHED, models=tuple(_PUBLISHED),
    reads=EFFICIENTVIS.reads, convert=convert, class_names=EFFICIENTVIS.class_names, usual_start=EFFICIENTVIS.usual_start)
