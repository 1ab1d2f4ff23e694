"""What the settings of all methods share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from effvis.config import Config, TrainConfig


class PretrainSettings(Config):
    source: str = Field(
        "auto", pattern=r"^(auto|shipped|scratch|none|.+\.safetensors)$",
        description="shipped: weights that come with the project; scratch: trained here first; auto: shipped ones where "
        "they fit, else trained here; none; or a file relative to params.yaml, as pipeline.import_weights writes it")
    train: TrainConfig = TrainConfig()

Method = Literal["efficientvis", "vistr"]
