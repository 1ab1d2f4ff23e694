"""A trained network made ready for fast inference: ``optimised(model, input_size)``.

What it computes is the same but for rounding (tests/fast/test_optimise.py); what each step brings is in docs/speed.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effvis.fast.pooling_first import ForInference, PoolingFirst, pooling_first_pays
from effvis.fast.scratch import MomentaryLinear
from effvis.fast.winograd import put_winograd
from effvis.model.dynamic_conv import DynamicConv
from effvis.model.efficientvis import EfficientVIS
from effvis.model.resnet import FrozenBatchNorm2d
from effvis.vistr.model import VisTR

Precision = Literal["fp32", "bf16"]
# Frames that go through the backbone together. A processor's caches hold what comes of three of 300x540; a GPU would wait.
PIXELS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}


def optimised(
    model: EfficientVIS | VisTR, input_size: tuple[int, int], *, precision: Precision = "fp32", pool_first: bool | None = None
) -> EfficientVIS | VisTR:
    """A network for inference that computes what ``model`` does, and shares its parameters where they stay as they are.

    The model is left as it is. Once it is dropped, what inference does not need of it takes no memory.

    Args:
        model: on the device where it is to run.
        input_size: (height, width) of the frames to come. Others are computed as well, if not as fast.
        precision: bf16 lets autocast compute in half precision what it holds safe. Results are then near, not the same.
        pool_first: EfficientVIS pools before the last convolution (pooling_first.py); None: on processors, where it pays.
    """
    on_processor = model.query_NTC.device.type == "cpu"
    pixels_at_once = PIXELS_AT_ONCE["cpu" if on_processor else "cuda"]
    fast = _sharing_copy(model).eval().requires_grad_(False)
    _fold_normalisation(fast)
    _put_channels_last(fast)
    if isinstance(fast, EfficientVIS):
        # Only the last interaction's masks are looked at.
        fast.mask_heads = nn.ModuleList([*(nn.Identity() for _ in fast.mask_heads[1:]), fast.mask_heads[-1]])
        if pool_first is None:
            pool_first = on_processor and pooling_first_pays(fast, input_size)
        fast = (PoolingFirst if pool_first else ForInference)(fast, pixels_at_once)
    else:
        fast.body = _FramesInParts(fast.body, pixels_at_once)
    if on_processor and precision == "fp32":
        put_winograd(fast)
        _put_filters_in_scratch(fast)
    if precision == "bf16":
        in_half_precision(fast)
    return fast


def in_half_precision(model: nn.Module) -> None:
    """From now on autocast computes in bf16 what it holds safe in the network. What comes after it is left in fp32."""
    for name in ("features", "forward", "mask_logits"):
        if hasattr(model, name):
            setattr(model, name, _half(getattr(model, name), next(model.parameters()).device.type))


def _half(method: Callable[..., Any], device: str) -> Callable[..., Any]:
    computed = torch.autocast(device, torch.bfloat16)(method)

    def half(*args: Any) -> Any:
        found = computed(*args)
        return found.float() if isinstance(found, Tensor) else found  # mask logits, which are pasted into frames

    return half


def _sharing_copy(model: EfficientVIS | VisTR) -> EfficientVIS | VisTR:
    """Modules of its own, with the same parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _fold_normalisation(module: nn.Module) -> None:
    """Puts each frozen BatchNorm into the convolution before it, and nothing into its place."""
    children = list(module.named_children())
    for (_, before), (name, norm) in zip(children, children[1:], strict=False):
        if isinstance(before, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            before.weight = nn.Parameter(before.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
            before.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
            setattr(module, name, nn.Identity())
    for _, child in children:
        _fold_normalisation(child)


def _put_filters_in_scratch(model: nn.Module) -> None:
    """The filters of a clip's tracklets are 47 MB at the paper's size, and are used at once."""
    for module in model.modules():
        if isinstance(module, DynamicConv):
            module.filters = MomentaryLinear(module.filters)


def _put_channels_last(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.contiguous(memory_format=torch.channels_last), requires_grad=False)


class _FramesInParts(nn.Module):
    """A body that a few frames go through at a time, in channels_last: what it holds inside stays in bounds."""

    def __init__(self, body: nn.Module, pixels_at_once: int):
        super().__init__()
        self.body, self.pixels_at_once = body, pixels_at_once

    def forward(self, frames_FCHW: Tensor) -> Sequence[Tensor]:
        height, width = frames_FCHW.shape[-2:]
        parts = [self.body(part.contiguous(memory_format=torch.channels_last))
                 for part in frames_FCHW.split(max(1, self.pixels_at_once // (height * width)))]
        return [torch.cat(levels) for levels in zip(*parts, strict=True)]
