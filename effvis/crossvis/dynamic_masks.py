"""CondInst's mask head: three 1x1 convolutions whose weights each instance brings along.

Dimensions in names: R instances, M mask features, H and W of these, Q weights of one instance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from effvis.crossvis.locations import grid
from effvis.crossvis.sampling import aligned_weights, resampled

# Masks are upsampled to twice the resolution of the mask features before they are compared or shown.
UPSAMPLING = 2


def layer_shapes(channels: int) -> tuple[tuple[int, int], ...]:
    """(output, input) channels of the three layers. The first also reads two coordinates, the last makes the mask."""
    return (channels, channels + 2), (channels, channels), (1, channels)


def number_of_weights(channels: int) -> int:
    """Q: the layers' weights and biases, 169 for 8 channels."""
    return sum(outputs * (inputs + 1) for outputs, inputs in layer_shapes(channels))


def mask_logits(features_RMHW: Tensor, weights_RQ: Tensor, xy_R2: Tensor, scale_R: Tensor, stride: int) -> Tensor:
    """The mask logits of R instances at twice the resolution of the mask features: (R, 2H, 2W).

    Args:
        features_RMHW: the mask features of each instance's frame.
        weights_RQ: the weights of all layers, then their biases.
        xy_R2: each instance's location in input pixels, to which coordinates are relative.
        scale_R: what each instance's coordinates are divided by, in pixels: the size of objects on its level.
        stride: of the mask features.
    """
    channels, height, width = features_RMHW.shape[1:]
    places_S2 = grid(height, width, stride, features_RMHW.device)
    relative_RS2 = (xy_R2[:, None] - places_S2) / scale_R[:, None, None]
    values = torch.cat((relative_RS2.transpose(1, 2).to(features_RMHW.dtype), features_RMHW.flatten(2)), dim=1)
    layers = layers_of(weights_RQ, channels)
    for number, (weight, bias) in enumerate(layers, 1):
        values = torch.baddbmm(bias[..., None], weight, values)
        if number < len(layers):
            values = F.relu(values)
    logits_RHW = values.unflatten(-1, (height, width)).squeeze(1)
    return resampled(logits_RHW, aligned_weights(height, UPSAMPLING, logits_RHW),
                     aligned_weights(width, UPSAMPLING, logits_RHW))


def layers_of(weights_RQ: Tensor, channels: int) -> list[tuple[Tensor, Tensor]]:
    """The weights (R, outputs, inputs) and biases (R, outputs) of each layer. All weights come first, then all biases."""
    shapes = layer_shapes(channels)
    parts = weights_RQ.split([outputs * inputs for outputs, inputs in shapes] + [outputs for outputs, _ in shapes], dim=1)
    weights = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=False)]
    return list(zip(weights, parts[len(shapes):], strict=True))
