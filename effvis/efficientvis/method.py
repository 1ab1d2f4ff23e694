"""EfficientVIS, as the registry of methods knows it."""

from __future__ import annotations

from effvis.config import ModelConfig
from effvis.fast.pooling_first import make_fast
from effvis.inference.clip import predict_alone
from effvis.inference.end_to_end import track
from effvis.methods import Method
from effvis.model.efficientvis import EfficientVIS

METHOD = Method(config=ModelConfig, build=EfficientVIS, predict_clip=predict_alone, track=track, make_fast=make_fast)
