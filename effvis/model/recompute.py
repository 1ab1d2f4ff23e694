"""Settings of a training that the network itself carries out: frozen stages of its backbone, and recomputed activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from effvis.errors import UserError


class Recomputing(nn.Module):
    """A module that can drop activations in the forward pass and compute them again in the backward pass.

    Attributes:
        recompute: whether it does so. It changes memory and time, but no gradient.
    """

    recompute = False

    def held(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """``function(*inputs)``, of which only the inputs are kept for the backward pass where ``recompute`` is set."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)


def prepare(model: nn.Module, *, frozen_stages: int, recompute: bool) -> None:
    """Prepares a network for training, whatever it was prepared for before.

    Args:
        frozen_stages: how many stages of its backbone, with the stem, get no gradient; 0: all of it learns.
        recompute: whether what can be recomputed is.

    Raises:
        UserError: stages are to be frozen, but the backbone has none.
    """
    bodies = [module for module in model.modules() if hasattr(module, "freeze")]
    if frozen_stages and not bodies:
        raise UserError("train", "frozen_stages", f"is {frozen_stages}, but the backbone has no stages that can be frozen",
                        "Set it to 0, or model.backbone to a ResNet or efficientnet-lite0")
    for body in bodies:
        body.freeze(frozen_stages)
    for module in model.modules():
        if isinstance(module, Recomputing):
            module.recompute = recompute
