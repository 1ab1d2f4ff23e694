"""VisTR, as the registry of methods knows it."""

from __future__ import annotations

from effvis.fast.frames import FramesInParts
from effvis.methods import Method
from effvis.vistr.clip import predict_clip
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR, build_vistr


def make_fast(model: VisTR, input_size: tuple[int, int], pixels_at_once: int, pool_first: bool | None) -> VisTR:
    """The network with a backbone that takes a few frames at a time. There is nothing to pool."""
    model.body = FramesInParts(model.body, pixels_at_once)
    return model


METHOD = Method(config=VisTRConfig, build=build_vistr, predict_clip=predict_clip, make_fast=make_fast)
