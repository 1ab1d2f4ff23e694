"""A trained network made ready for fast inference: ``optimised(model, input_size)``.

What it computes is the same but for rounding (tests/fast/test_optimise.py); what each step brings is in docs/speed.md.
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
# Frames that go through the backbone together. A processor's caches hold what comes of three of 300x540; a GPU would wait.
PIXELS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}


def optimised(
    model: nn.Module, input_size: tuple[int, int], *, precision: Precision = "fp32", pool_first: bool | None = None
) -> nn.Module:
    """A network for inference that computes what ``model`` does, and shares its parameters where they stay as they are.

    The model is left as it is. Once it is dropped, what inference does not need of it takes no memory.

    Args:
        model: of any method, on the device where it is to run.
        input_size: (height, width) of the frames to come. Others are computed as well, if not as fast.
        precision: bf16 lets autocast compute in half precision what it holds safe. Results are then near, not the same.
        pool_first: whether a method that can pools before the last convolution (pooling_first.py); None: where it pays.
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


def _sharing_copy(model: nn.Module) -> nn.Module:
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
