"""Where Winograd's convolutions pay on this machine: 3x3 convolutions by PyTorch and by effvis in turns, in milliseconds.

    python -m benchmarks.convolutions --threads 2

The sizes are those of ResNet-50, its pyramid and the mask head at 300x540, in fp32 and channels_last. "error" is how far the
result is from float64's, as a share of its size. Times are medians over the rounds, and so is their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from effvis.fast.winograd import WinogradConv2d, pays

# (maps, channels, height, width): the masks of a clip that go through together, and three frames' maps of the four stages.
SIZES = {
    "mask head": (108, 256, 14, 14),
    "stage 3, P4": (3, 256, 19, 34),
    "P3": (3, 256, 38, 68),
    "P2": (3, 256, 75, 135),
    "stage 4": (3, 512, 10, 17),
    "stage 2": (3, 128, 38, 68),
    "stage 1": (3, 64, 75, 135),
}


@torch.inference_mode()
def compare(size: tuple[int, int, int, int], rounds: int) -> dict[str, float | bool]:
    maps, channels, height, width = size
    torch.manual_seed(0)
    direct = nn.Conv2d(channels, channels, 3, 1, 1).requires_grad_(False)
    direct.weight = nn.Parameter(direct.weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
    x = torch.randn(maps, channels, height, width).relu().contiguous(memory_format=torch.channels_last)
    fewer = WinogradConv2d(direct)
    exact = nn.functional.conv2d(x.double(), direct.weight.double(), direct.bias.double(), padding=1)
    times = [(_milliseconds(direct, x), _milliseconds(fewer, x)) for _ in range(rounds)]
    return {
        "direct_ms": statistics.median(one for one, _ in times),
        "winograd_ms": statistics.median(other for _, other in times),
        "ratio": statistics.median(one / other for one, other in times),
        "direct_error": _error(direct(x), exact),
        "winograd_error": _error(fewer(x), exact),
        "used": pays(direct),
    }


def _milliseconds(call: Callable[[Tensor], Tensor], x: Tensor) -> float:
    began = time.perf_counter()
    call(x)
    return 1000 * (time.perf_counter() - began)


def _error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).square().mean() / exact.square().mean()).sqrt().item()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convolutions", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=10, help="how often direct and Winograd take turns (default: 10)")
    parser.add_argument("--size", choices=SIZES, action="append", help="may be given again (default: all)")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    print("| where | maps | direct, ms | Winograd, ms | ratio | error, direct | error, Winograd | used |")
    print("| --- | --- | --: | --: | --: | --: | --: | --- |")
    for name in args.size or SIZES:
        found = compare(SIZES[name], args.rounds)
        print(f"| {name} | {' x '.join(map(str, SIZES[name]))} | {found['direct_ms']:.1f} | {found['winograd_ms']:.1f} "
              f"| {found['ratio']:.2f} | {found['direct_error']:.1e} | {found['winograd_error']:.1e} "
              f"| {'yes' if found['used'] else 'no'} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
