"""EfficientVIS, as the registry of methods knows it."""

from __future__ import annotations

from torch import nn

from effvis.config import ModelConfig
from effvis.fast.pooling_first import ForInference, PoolingFirst, pooling_first_pays
from effvis.inference.clip import predict_alone
from effvis.inference.end_to_end import track
from effvis.methods import Method
from effvis.model.efficientvis import EfficientVIS


def make_fast(
    model: EfficientVIS, input_size: tuple[int, int], pixels_at_once: int, pool_first: bool | None
) -> EfficientVIS:
    """The network without its unused mask heads, all but the last; it may pool before the last convolution.

    Args:
        pool_first: whether it does; None: on processors, where it pays.
    """
    model.mask_heads = nn.ModuleList([*(nn.Identity() for _ in model.mask_heads[1:]), model.mask_heads[-1]])
    if pool_first is None:
        pool_first = model.query_NTC.device.type == "cpu" and pooling_first_pays(model, input_size)
    return (PoolingFirst if pool_first else ForInference)(model, pixels_at_once)


METHOD = Method(config=ModelConfig, build=EfficientVIS, predict_clip=predict_alone, track=track, make_fast=make_fast)
