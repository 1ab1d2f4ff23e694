"""Random weights under published names."""

import shutil
from pathlib import Path

import torch
from support.builders import tiny_config

from effvis.model.efficientvis import EfficientVIS
from pipeline import import_weights

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


def published_shapes(name):
    """Names and shapes of torchvision's state dict, following the ResNet paper's table of architectures."""
    shapes = {}

    def conv_bn(conv, bn, outer, inner, kernel):
        shapes[f"{conv}.weight"] = (outer, inner, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{bn}.{part}"] = (outer,)
        shapes[f"{bn}.num_batches_tracked"] = ()

    conv_bn("conv1", "bn1", 64, 3, 7)
    inner = 64
    for stage, (depth, width) in enumerate(zip(DEPTHS[name], (64, 128, 256, 512), strict=True), 1):
        for number in range(depth):
            at = f"layer{stage}.{number}"
            outer = width if name == "resnet18" else 4 * width
            if name == "resnet18":
                conv_bn(f"{at}.conv1", f"{at}.bn1", width, inner, 3)
                conv_bn(f"{at}.conv2", f"{at}.bn2", width, width, 3)
            else:
                conv_bn(f"{at}.conv1", f"{at}.bn1", width, inner, 1)
                conv_bn(f"{at}.conv2", f"{at}.bn2", width, width, 3)
                conv_bn(f"{at}.conv3", f"{at}.bn3", outer, width, 1)
            if number == 0 and (stage > 1 or outer != inner):
                conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", outer, inner, 1)
            inner = outer
    return shapes | {"fc.weight": (1000, inner), "fc.bias": (1000,)}


def published_weights(name):
    """A published file's content by names and shapes, with values of a trained network's magnitude."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, shape in published_shapes(name).items():
        fan = max(1, torch.Size(shape[1:]).numel())
        value = torch.randn(shape, generator=generator) / fan**0.5
        if key.endswith("num_batches_tracked"):
            value = torch.tensor(7)
        elif key.endswith("running_var"):
            value = value.abs() + 0.5
        weights[key] = value
    return weights

PROJECT = Path(__file__).resolve().parents[2]
WIDTH, INNER, FFN, ROI, MASK_ROI, STAGES, PROPOSALS = 16, 4, 32, 3, 4, 2, 10


def network(**changes):
    torch.manual_seed(0)
    values = dict(backbone="resnet18", hidden_dim=WIDTH, dynamic_dim=INNER, ffn_dim=FFN, roi_size=ROI, mask_roi_size=MASK_ROI,
                  iterations=STAGES, queries=4)
    return EfficientVIS(tiny_config(1, **(values | changes))).eval()


def command_in(folder):
    """The import command in a project of its own in this folder, for a small network in the paper's profile."""
    shutil.copy(PROJECT / "params.yaml", folder)
    shutil.copytree(PROJECT / "experiments", folder / "experiments")
    config = network().config
    sizes = [f"model.{name}={getattr(config, name)}" for name in (
        "backbone", "hidden_dim", "dynamic_dim", "ffn_dim", "roi_size", "mask_roi_size", "iterations", "queries",
        "attention_heads", "mask_convs")]

    def run(*arguments):
        settings = [argument for size in sizes for argument in ("-S", size)]
        return import_weights.main(["--params", str(folder / "params.yaml"), *settings, *map(str, arguments)])

    return run


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)
