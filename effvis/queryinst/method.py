"""QueryInst, as the registry of methods knows it."""

from __future__ import annotations

from effvis.fast.pooling_first import make_fast
from effvis.inference.clip import predict_alone
from effvis.methods import Method
from effvis.model.efficientvis import EfficientVIS
from effvis.queryinst.config import QueryInstConfig
from effvis.queryinst.detect import detect

METHOD = Method(config=QueryInstConfig, build=EfficientVIS, predict_clip=predict_alone, detect=detect, make_fast=make_fast)
