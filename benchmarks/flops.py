"""Parameters and floating-point operations of a clip, for each backbone and each variant of the network, and for VisTR.

    python -m benchmarks.flops
    python -m benchmarks.flops --frames 18 --height 300 --width 540

Nothing is computed: tensors on the meta device have shapes alone. A multiplication with its addition counts as two
operations; only matrix products and convolutions count, as in torch.utils.flop_counter. Pooling is RoIAlign as two dense
products (effvis/model/roi_align.py), most of whose factors are zero. VisTR has ResNet-50, and is also counted at its
own input size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from effvis.config import ModelConfig
from effvis.model.efficientvis import EfficientVIS
from effvis.model.resnet import ResNet
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR

VISTR_SIZE = (300, 540)
VARIANTS: tuple[dict[str, Any], ...] = (
    {"backbone": "resnet50"}, {"backbone": "resnet101"}, {"backbone": "resnet18"}, {"backbone": "efficientnet-lite0"},
    {"backbone": "tiny"},
    {"attention": "ftsa-st"}, {"attention": "spatial"}, {"attention": "temporal"}, {"attention": "joint"},
    {"dynamic_conv": "still"}, {"neighbour_crop": "here"}, {"query": "time-shared"}, {"queries": 20},
)


@dataclass(frozen=True)
class Cost:
    """Parameters, and operations for one clip: of the backbone, the pooling, the M interactions and the last masks.

    VisTR pools nothing; its transformer, with the class and box layers, takes the place of the interactions.
    """

    parameters: int
    backbone: int
    pooling: int
    interactions: int
    masks: int

    @property
    def total(self) -> int:
        return self.backbone + self.pooling + self.interactions + self.masks


def cost(config: ModelConfig, height: int, width: int) -> Cost:
    """The cost of a clip of ``config.clip_length`` frames at inference, with all tracklets' masks of the last interaction."""
    with torch.device("meta"):
        model = EfficientVIS(config).eval().requires_grad_(False)
        frames = torch.empty(1, config.clip_length, 3, height, width, dtype=torch.uint8)
        features = model.features(frames)
        output = model(features)[-1]
        shape = (1, config.queries, config.clip_length)
        regions = torch.empty(*shape, config.roi_size**2, config.hidden_dim)
        mask_regions = torch.empty(*shape, config.mask_roi_size**2, config.hidden_dim)
        labels = torch.empty(shape, dtype=torch.long)
        interactions = sum(_operations(lambda part=part: part(output.query_BNTC, regions)) for part in model.interactions)
        masks = _operations(lambda: model.mask_heads[-1](output.mask_query_BNTC, mask_regions, labels))
        with_pooling = _operations(lambda: model(features)) + _operations(lambda: model.mask_logits(features, output))
        return Cost(
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            backbone=_operations(lambda: model.features(frames)),
            pooling=with_pooling - interactions - masks, interactions=interactions, masks=masks)


def vistr_cost(config: VisTRConfig, height: int, width: int) -> Cost:
    """The cost of a clip of ``config.clip_length`` frames and the masks of all its tracklets, with ResNet-50."""
    with torch.device("meta"):
        body = ResNet("resnet50")
        model = VisTR(config, body, body.channels).eval().requires_grad_(False)
        frames = torch.empty(1, config.clip_length, 3, height, width, dtype=torch.uint8)
        output = model(frames)
        backbone = _operations(lambda: body(torch.empty(config.clip_length, 3, height, width)))
        return Cost(
            parameters=sum(parameter.numel() for parameter in model.parameters()), backbone=backbone, pooling=0,
            interactions=_operations(lambda: model(frames)) - backbone, masks=_operations(lambda: model.mask_logits(output)))


def _operations(call: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flops", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=36, help="T (default: 36)")
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--classes", type=int, default=40)
    args = parser.parse_args(argv)

    from rich import box
    from rich.console import Console
    from rich.table import Table

    size = (args.height, args.width)
    rows = []
    for variant in VARIANTS:
        config = ModelConfig(**({"backbone": "resnet50"} | variant), num_classes=args.classes, clip_length=args.frames)
        rows.append((" ".join(f"{name}={value}" for name, value in variant.items()), cost(config, *size)))
    vistr = VisTRConfig(num_classes=args.classes, clip_length=args.frames)
    for own in dict.fromkeys((size, VISTR_SIZE)):
        rows.append((f"VisTR, {own[0]}x{own[1]}", vistr_cost(vistr, *own)))

    table = Table("variant", "parameters", "backbone", "pooling", "interactions", "masks", "total", "per frame",
                  box=box.SIMPLE_HEAD, title=f"EfficientVIS, {args.frames} frames of {args.height}x{args.width}, and VisTR",
                  caption="millions of parameters; billions of operations; VisTR's transformer counts as interactions")
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    for name, found in rows:
        numbers = (found.backbone, found.pooling, found.interactions, found.masks, found.total, found.total / args.frames)
        table.add_row(name, f"{found.parameters / 1e6:.1f}", *(f"{number / 1e9:.1f}" for number in numbers))
    Console(width=110).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
