"""The network of a configuration, whichever method it is of."""

from __future__ import annotations

from effvis.config import ModelConfig
from effvis.model.efficientvis import EfficientVIS
from effvis.model.vistr import VisTR, build_vistr
from effvis.vistr_config import VisTRConfig


def build_model(config: ModelConfig | VisTRConfig) -> EfficientVIS | VisTR:
    """A fresh network; its weights follow from PyTorch's random generator."""
    return build_vistr(config) if isinstance(config, VisTRConfig) else EfficientVIS(config)
