"""The places of a frame at which objects are predicted, and which object each of them is to predict (FCOS).

Dimensions in names: P locations of all levels, finest level first, each row by row; I instances of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# On a level of stride s, an object is predicted by the locations that are nearer to its centre than this many strides.
CENTRE_RADIUS = 1.5


@dataclass(frozen=True)
class Locations:
    """The P locations of a pyramid.

    Attributes:
        xy_P2: their places in input pixels: the middle of the cell that a location of stride s stands for.
        level_P: the level of each, 0 is the finest.
        stride_L: the stride of each level.
        sizes: how many locations each level has.
    """

    xy_P2: Tensor
    level_P: Tensor
    stride_L: Tensor
    sizes: tuple[int, ...]

    @property
    def stride_P(self) -> Tensor:
        return self.stride_L[self.level_P]


def locations_of(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | str) -> Locations:
    """The locations of levels of these (height, width) and strides."""
    places = [grid(height, width, stride, device) for (height, width), stride in zip(shapes, strides, strict=True)]
    levels = [torch.full((len(level),), number, device=device) for number, level in enumerate(places)]
    return Locations(torch.cat(places), torch.cat(levels), torch.tensor(strides, device=device, dtype=torch.float32),
                     tuple(map(len, places)))


def grid(height: int, width: int, stride: int, device: torch.device | str) -> Tensor:
    """The places (height * width, 2) of a level's cells, as (x, y) in input pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return (torch.stack((x, y), dim=-1).flatten(0, 1) * stride + stride // 2).float()


def reach_to(xy_2: Tensor, boxes_4: Tensor) -> Tensor:
    """The distances (..., 4) from locations (..., 2) to the left, top, right and bottom side of boxes (..., 4)."""
    return torch.cat((xy_2 - boxes_4[..., :2], boxes_4[..., 2:] - xy_2), dim=-1)


def assign(locations: Locations, boxes_I4: Tensor, masks_IHW: Tensor, size_per_stride: float) -> Tensor:
    """Which of a frame's instances each location is to predict: (P,), -1 for none.

    A location is of an instance if it lies inside its box, within ``CENTRE_RADIUS`` strides of its mask's centre of mass in
    both directions, and on the level that is for objects which reach so far from it. Of several it is of the smallest box's.

    Args:
        boxes_I4: xyxy in input pixels.
        masks_IHW: of the same instances. One without a pixel at this size has no centre, and no location.
        size_per_stride: the greatest distance to a side, in strides, on all levels but the last, which has no limit.
    """
    if not len(boxes_I4):
        return torch.full_like(locations.level_P, -1)
    xy_P12 = locations.xy_P2[:, None]
    radius_P11 = (CENTRE_RADIUS * locations.stride_P)[:, None, None]
    centre_I2 = centres_of_mass(masks_IHW)
    near = torch.maximum(centre_I2 - radius_P11, boxes_I4[:, :2])
    far = torch.minimum(centre_I2 + radius_P11, boxes_I4[:, 2:])
    central_PI = ((xy_P12 > near) & (xy_P12 < far)).all(dim=-1)

    largest_L = locations.stride_L * size_per_stride
    largest_L[-1] = float("inf")
    least_L = torch.cat((largest_L.new_full((1,), -1), largest_L[:-1]))
    furthest_PI = reach_to(xy_P12.expand(-1, len(boxes_I4), -1), boxes_I4.expand(len(xy_P12), -1, -1)).amax(dim=-1)
    right_size_PI = (furthest_PI >= least_L[locations.level_P, None]) & (furthest_PI <= largest_L[locations.level_P, None])

    area_I = (boxes_I4[:, 2:] - boxes_I4[:, :2]).prod(dim=-1)
    area_PI = area_I.expand(len(central_PI), -1).masked_fill(~(central_PI & right_size_PI), float("inf"))
    smallest_P, instance_P = area_PI.min(dim=1)
    return instance_P.masked_fill(smallest_P.isinf(), -1)


def centres_of_mass(masks_IHW: Tensor) -> Tensor:
    """The mean (x, y) of each mask's pixels, counted from 0: (I, 2)."""
    pixels = masks_IHW.float()
    rows_IH, columns_IW = pixels.sum(dim=2), pixels.sum(dim=1)
    total_I = rows_IH.sum(dim=1)
    x = columns_IW @ torch.arange(columns_IW.shape[1], device=pixels.device).float()
    y = rows_IH @ torch.arange(rows_IH.shape[1], device=pixels.device).float()
    return torch.stack((x, y), dim=-1) / total_I[:, None]
