"""QueryInst, as the registry of methods knows it."""

from __future__ import annotations

from effvis.fast.pooling_first import make_fast
from effvis.inference.clip import predict_alone
from effvis.methods import Method
from effvis.model.efficientvis import EfficientVIS
from effvis.queryinst.config import QueryInstConfig, QueryInstInference
from effvis.queryinst.detect import detect
from effvis.queryinst.link import track

METHOD = Method(
    config=QueryInstConfig, build=EfficientVIS, predict_clip=predict_alone, link=track, inference=QueryInstInference,
    detect=detect, make_fast=make_fast)
