"""QueryInst, as the registry of methods knows it."""

from __future__ import annotations

from effvis.fast import pooling_first
from effvis.inference.clip import predict_alone
from effvis.methods import Method
from effvis.model.efficientvis import EfficientVIS
from effvis.queryinst.config import QueryInstConfig, QueryInstInference
from effvis.queryinst.detect import detect
from effvis.queryinst.link import track
from effvis.queryinst.model import build


def make_fast(
    model: EfficientVIS, input_size: tuple[int, int], pixels_at_once: int, pool_first: bool | None
) -> EfficientVIS:
    """As ``effvis.fast.pooling_first.make_fast``, with the tracking head, if there is one."""
    fast = pooling_first.make_fast(model, input_size, pixels_at_once, pool_first)
    if model.config.tracking == "head":
        fast.tracking = model.tracking
    return fast


METHOD = Method(
    config=QueryInstConfig, build=build, predict_clip=predict_alone, link=track, inference=QueryInstInference,
    detect=detect, make_fast=make_fast)
