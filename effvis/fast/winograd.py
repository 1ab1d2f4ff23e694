"""3x3 convolutions with a fifth of the products, for processors: Winograd's F(5x5, 3x3) (Lavin and Gray, CVPR 2016).

A tile of 5x5 results comes from 7x7 pixels and the kernel, both seen as polynomials: evaluated at seven points, they are
multiplied point by point, and the 49 products over the channels are plain matrix products. Directly there would be 225.
docs/speed.md shows by measurement where it pays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from effvis.fast.scratch import scratch

# The seventh point is infinity. Small and symmetric about zero, these round less than the integers of the literature: the
# result is three to four times as far from float64's as that of a direct convolution, about 2e-6 of its size.
POINTS = (0.25, -0.25, 0.875, -0.875, 1.75, -1.75)
# 5x5 wastes less than 4x4 at the borders of masks of 14x14 and of maps of 19x34; 6x6 and more round worse.
TILE = 5
PATCH = TILE + 2
# This many tiles are held at once, or those of one map: 13 MB for each of two buffers at 256 channels.
TILES_AT_ONCE = 256
# With fewer channels, changing to points and back costs what the products save; with ResNet-50's 512, two kernels would
# hold 100 MB for one percent of a clip's time.
FEWEST_CHANNELS, MOST_CHANNELS = 256, 511


def evaluations(coefficients: int) -> Tensor:
    """The matrix (7, n) that evaluates a polynomial of n coefficients at the points: at infinity, its leading one."""
    finite = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(coefficients)
    return torch.cat((finite, torch.eye(coefficients, dtype=torch.float64)[-1:]))


def put_winograd(module: nn.Module) -> None:
    """Replaces the convolutions inside a module for which fewer products pay."""
    for name, child in module.named_children():
        if pays(child):
            setattr(module, name, WinogradConv2d(child))
        else:
            put_winograd(child)


def pays(module: nn.Module) -> bool:
    """Whether the module is a convolution that ``WinogradConv2d`` can replace, with a suitable number of channels."""
    return (
        isinstance(module, nn.Conv2d)
        and (module.kernel_size, module.stride, module.padding, module.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and module.groups == 1 and module.padding_mode == "zeros"
        and FEWEST_CHANNELS <= min(module.in_channels, module.out_channels)
        and max(module.in_channels, module.out_channels) <= MOST_CHANNELS
    )


class WinogradConv2d(nn.Module):
    """Computes the same as a 3x3 convolution of stride 1 and padding 1, up to rounding, without gradients.

    By Tellegen's principle the evaluations of 5 and 3 coefficients and the interpolation of 7, which multiply polynomials,
    also correlate a signal with a kernel, when the first and the last are transposed.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        kernel = evaluations(3).to(conv.weight.device)
        at_points = torch.einsum("ay,bx,oiyx->abio", kernel, kernel, conv.weight.detach().double())
        interpolation, evaluation = torch.linalg.inv(evaluations(PATCH)).T, evaluations(TILE).T
        dtype = conv.weight.dtype
        bias = conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
        self.register_buffer("kernel_PIO", at_points.flatten(0, 1).to(dtype).contiguous(), persistent=False)
        self.register_buffer("to_points", torch.kron(interpolation, interpolation).to(dtype), persistent=False)
        self.register_buffer("from_points", torch.kron(evaluation, evaluation).to(dtype), persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    @torch.compiler.disable  # it does not support results that are written to memory of another shape
    @torch.no_grad()
    def forward(self, x_FIHW: Tensor) -> Tensor:
        """From (F, I, H, W) to (F, O, H, W) in channels_last."""
        x_FHWI = x_FIHW.permute(0, 2, 3, 1)
        frames, height, width = x_FHWI.shape[:3]
        convolved = x_FHWI.new_empty(frames, height, width, len(self.bias))
        at_once = max(1, TILES_AT_ONCE // (_tiles(height) * _tiles(width)))
        for part, into in zip(x_FHWI.split(at_once), convolved.split(at_once), strict=True):
            self._convolve(part, into)
        return convolved.permute(0, 3, 1, 2)

    def _convolve(self, x_FHWI: Tensor, into_FHWO: Tensor) -> None:
        frames, height, width, inner = x_FHWI.shape
        rows, columns, outer = _tiles(height), _tiles(width), len(self.bias)
        patches = scratch("one", x_FHWI, PATCH, PATCH, frames, rows, columns, inner)
        patches.copy_(_patches(x_FHWI, rows, columns))
        at_points = scratch("other", x_FHWI, PATCH**2, frames * rows * columns, inner)
        torch.mm(self.to_points, patches.flatten(0, 1).flatten(1), out=at_points.flatten(1))
        products = scratch("one", x_FHWI, PATCH**2, frames * rows * columns, outer)
        torch.bmm(at_points, self.kernel_PIO, out=products)
        tiles = scratch("other", x_FHWI, TILE, TILE, frames, rows, columns, outer)
        torch.mm(self.from_points, products.flatten(1), out=tiles.flatten(0, 1).flatten(1))
        whole = scratch("one", x_FHWI, frames, rows, TILE, columns, TILE, outer)
        torch.add(tiles.permute(2, 3, 0, 4, 1, 5), self.bias, out=whole)
        into_FHWO.copy_(whole.view(frames, rows * TILE, columns * TILE, outer)[:, :height, :width])


def _tiles(length: int) -> int:
    return -(-length // TILE)


def _patches(x_FHWI: Tensor, rows: int, columns: int) -> Tensor:
    """The pixels under each tile, with the zeros around the map: a view (7, 7, F, rows, columns, I) of a padded copy."""
    frames, height, width, channels = x_FHWI.shape
    padded = scratch("padded", x_FHWI, frames, rows * TILE + 2, columns * TILE + 2, channels)
    padded[:, 0] = padded[:, height + 1:] = padded[:, :, 0] = padded[:, :, width + 1:] = 0
    padded[:, 1: height + 1, 1: width + 1] = x_FHWI
    frame, row, column, channel = padded.stride()
    return padded.as_strided(
        (PATCH, PATCH, frames, rows, columns, channels), (row, column, frame, row * TILE, column * TILE, channel))
