"""VisTR, the peer that EfficientVIS is compared with."""

from __future__ import annotations

from effvis.config import Config
from effvis.vistr.config import VisTRConfig, VisTRTrainConfig
from pipeline.methods.base import PretrainSettings


class VisTRModelSettings(VisTRConfig):
    """``VisTRConfig`` before the dataset and the row have said their part."""

    num_classes: int = 1
    clip_length: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> VisTRConfig:
        return VisTRConfig(**{**self.model_dump(), "num_classes": num_classes, "clip_length": clip_length})


class VisTRPretrainSettings(PretrainSettings):
    train: VisTRTrainConfig = VisTRTrainConfig()


class VisTRSettings(Config):
    """All of the peer that is not shared with EfficientVIS."""

    model: VisTRModelSettings = VisTRModelSettings()
    pretrain: VisTRPretrainSettings = VisTRPretrainSettings()
    train: VisTRTrainConfig = VisTRTrainConfig()
