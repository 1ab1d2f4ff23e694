"""The network of a configuration, whichever method it is of."""

from __future__ import annotations

from effvis.config import ModelConfig
from effvis.model.efficientvis import EfficientVIS
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR, build_vistr


def build_model(config: ModelConfig | VisTRConfig) -> EfficientVIS | VisTR:
    """A fresh network; its weights follow from PyTorch's random generator."""
    return build_vistr(config) if isinstance(config, VisTRConfig) else EfficientVIS(config)
