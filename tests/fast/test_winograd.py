"""Winograd's convolutions, also with reused memory, compute the same as PyTorch's own."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.models import resnet_model
from support.project import CHECKOUT
from torch import nn

from effvis.fast import winograd
from effvis.fast.optimise import optimised
from effvis.fast.scratch import MomentaryLinear, scratch
from effvis.fast.winograd import WinogradConv2d, pays, put_winograd


def convolution(inner=5, outer=3, **options):
    torch.manual_seed(0)
    return nn.Conv2d(inner, outer, 3, padding=1, **options).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (4, 5), (5, 6), (14, 14), (19, 34)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_it_is_the_same_convolution(shape, bias):
    conv = convolution(bias=bias)
    x = torch.randn(3, 5, *shape)
    found = WinogradConv2d(conv)(x)
    torch.testing.assert_close(found, conv(x), atol=2e-5, rtol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_convolved_to_nothing():
    assert WinogradConv2d(convolution())(torch.randn(0, 5, 14, 14)).shape == (0, 3, 14, 14)


def test_it_rounds_little_more_at_the_paper_s_width():
    conv = convolution(256, 256)
    x = torch.randn(2, 256, 14, 14).relu()
    exact = conv.double()(x.double())
    apart = (WinogradConv2d(conv.float())(x) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert apart < 5e-6


def test_maps_that_are_too_many_to_be_held_at_once_are_all_convolved(monkeypatch):
    monkeypatch.setattr(winograd, "TILES_AT_ONCE", 12)  # five maps of two tiles at a time, and a rest
    conv, x = convolution(), torch.randn(13, 5, 5, 8)
    torch.testing.assert_close(WinogradConv2d(conv)(x), conv(x), atol=2e-5, rtol=1e-5)


def test_calls_of_many_sizes_inside_and_outside_of_inference_mode_do_not_disturb_each_other():
    conv = convolution()
    fast = WinogradConv2d(conv)
    for side in (9, 3, 14, 1, 9):
        x = torch.randn(2, 5, side, side)
        with torch.inference_mode():
            inside = fast(x)
        torch.testing.assert_close(inside, fast(x), atol=0, rtol=0)
        torch.testing.assert_close(inside, conv(x), atol=2e-5, rtol=1e-5)


def test_threads_do_not_share_what_they_compute_into():
    conv, clips = convolution(), [torch.randn(4, 5, 30, 30) for _ in range(24)]
    fast = WinogradConv2d(conv)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(fast, clips))
    for one, clip in zip(found, clips, strict=True):
        torch.testing.assert_close(one, conv(clip), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("other", [
    {"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding_mode": "reflect"},
    {"kernel_size": 1, "padding": 0}], ids=str)
def test_other_convolutions_are_left_alone(other):
    conv = nn.Conv2d(256, 256, **{"kernel_size": 3, "padding": 1, **other})
    holder = nn.Sequential(conv)
    put_winograd(holder)
    assert holder[0] is conv


def test_so_are_those_of_few_and_of_many_channels():
    assert not pays(nn.Conv2d(128, 256, 3, padding=1)) and not pays(nn.Conv2d(512, 512, 3, padding=1))
    assert pays(nn.Conv2d(256, 256, 3, padding=1)) and not pays(nn.Linear(256, 256))


def test_the_fast_network_has_them_where_they_pay():
    model = resnet_model("resnet18")

    def fewer(network):
        return {name for name, module in network.named_modules() if isinstance(module, WinogradConv2d)}
    # ResNet-18's third stage has 256 channels; its first convolution has stride 2.
    stage = {f"backbone.body.layer3.{name}" for name in ("0.conv2", "1.conv1", "1.conv2")}
    assert fewer(optimised(model, (75, 101))) == stage
    assert fewer(optimised(model, (75, 101), precision="bf16")) == fewer(model) == set()
    # With the paper's width, the pyramid's levels and the last mask head as well.
    wide = fewer(optimised(resnet_model("resnet18", hidden_dim=256), (75, 101), pool_first=True))
    last = len(model.mask_heads) - 1
    assert wide == stage | {f"whole.{level}" for level in range(4)} | {
        f"mask_heads.{last}.convs.{layer}" for layer in range(model.config.mask_convs)}


@pytest.mark.slow
def test_the_benchmark_says_where_they_pay():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.convolutions", "--threads", "1", "--rounds", "1", "--size", "stage 3, P4",
         "--size", "stage 4"], cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    heading, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    third, fourth = (dict(zip(heading, row, strict=True)) for row in rows)
    assert (third["used"], fourth["used"]) == ("yes", "no")
    assert 0 < float(third["error, direct"]) < float(third["error, Winograd"]) < 5e-6
    assert all(float(row[column]) > 0 for row in (third, fourth) for column in ("direct, ms", "Winograd, ms", "ratio"))


def test_a_linear_layer_of_the_moment_lasts_until_the_next_call():
    torch.manual_seed(0)
    linear = nn.Linear(4, 6).requires_grad_(False)
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    momentary = MomentaryLinear(linear)
    first = momentary(x)
    torch.testing.assert_close(first, linear(x))
    momentary(y)
    torch.testing.assert_close(first, linear(y))


def test_scratch_grows_and_follows_the_precision():
    small = scratch("a test's", torch.zeros(1), 2, 3)
    again = scratch("a test's", torch.zeros(1), 3, 2)
    assert small.shape == (2, 3) and again.shape == (3, 2) and small.data_ptr() == again.data_ptr()
    assert scratch("a test's", torch.zeros(1), 100).shape == (100,)
    assert scratch("a test's", torch.zeros(1, dtype=torch.float64), 2).dtype == torch.float64
