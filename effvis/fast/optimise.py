"""A trained network made ready for fast inference: ``optimised(model, input_size)``.

It computes the same up to rounding (tests/fast/test_optimise.py); docs/speed.md says what each step gains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effvis import methods
from effvis.fast.scratch import MomentaryLinear
from effvis.fast.winograd import put_winograd
from effvis.model.dynamic_conv import DynamicConv
from effvis.model.resnet import FrozenBatchNorm2d

Precision = Literal["fp32", "bf16"]
# Pixels that go through the backbone together. A processor's caches hold the maps of three frames of 300x540; a GPU would idle.
PIXELS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}


def optimised(
    model: nn.Module, input_size: tuple[int, int], *, precision: Precision = "fp32", pool_first: bool | None = None
) -> nn.Module:
    """A network for inference that computes what ``model`` does, and shares its parameters where they stay as they are.

    The model is not changed. Once it is dropped, the parts of it that inference does not need take no memory.

    Args:
        model: a network of any method, on the device where it is to run.
        input_size: (height, width) of the frames to come. Other sizes work too, though not as fast.
        precision: bf16 lets autocast compute in half precision what it considers safe. Results are then close, not the same.
        pool_first: whether to pool before the last convolution (pooling_first.py), in methods that can; None: where it pays.
    """
    on_processor = next(model.parameters()).device.type == "cpu"
    pixels_at_once = PIXELS_AT_ONCE["cpu" if on_processor else "cuda"]
    fast = _sharing_copy(model).eval().requires_grad_(False)
    _fold_normalisation(fast)
    _put_channels_last(fast)
    make_fast = methods.of_network(model).make_fast
    if make_fast is not None:
        fast = make_fast(fast, input_size, pixels_at_once, pool_first)
    if on_processor and precision == "fp32":
        put_winograd(fast)
        _put_filters_in_scratch(fast)
    if precision == "bf16":
        in_half_precision(fast)
    return fast


def in_half_precision(model: nn.Module) -> None:
    """Lets autocast compute in bf16 what it considers safe in the network. What comes after the network stays in fp32."""
    for name in ("features", "forward", "mask_logits"):
        if hasattr(model, name):
            setattr(model, name, _half(getattr(model, name), next(model.parameters()).device.type))


def _half(method: Callable[..., Any], device: str) -> Callable[..., Any]:
    computed = torch.autocast(device, torch.bfloat16)(method)

    def half(*args: Any) -> Any:
        found = computed(*args)
        return found.float() if isinstance(found, Tensor) else found  # mask logits, which are pasted into frames

    return half


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy with modules of its own, but the same parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _fold_normalisation(module: nn.Module) -> None:
    """Folds each frozen BatchNorm into the convolution before it, and puts an identity in its place."""
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
    """Puts the filters of a clip's tracklets into scratch memory: they take 47 MB at the paper's size, and are used at once."""
    for module in model.modules():
        if isinstance(module, DynamicConv):
            module.filters = MomentaryLinear(module.filters)


def _put_channels_last(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
