"""EfficientVIS, the method of the paper."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from effvis.config import ModelConfig, TrainConfig


def _word(value: Any) -> Any:
    """YAML reads ``on`` and ``off`` as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class ModelSettings(ModelConfig):
    """``ModelConfig`` before the dataset and the row have said their part."""

    num_classes: int = 1
    clip_length: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> ModelConfig:
        return ModelConfig(**{**self.model_dump(), "num_classes": num_classes, "clip_length": clip_length})


class TrainSettings(TrainConfig):
    """``TrainConfig`` before the data have decided whether correspondence has to be learned."""

    correspondence: Annotated[Literal["on", "off", "auto"], BeforeValidator(_word)] = "auto"

    def resolve(self, correspondence: bool) -> TrainConfig:
        return TrainConfig(**{**self.model_dump(), "correspondence": correspondence})
