"""Small networks, and model folders with them."""

import hashlib

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from support.builders import tiny_config

from effvis.model.efficientvis import EfficientVIS
from effvis.model.resnet import FrozenBatchNorm2d
from effvis.model_file import describe, write
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import build_vistr


def put(folder, model, **changes):
    """Writes a model folder as pipeline.export does."""
    weights = folder.parent / "trained.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    values = {
        "method": model.config.method, "input_size": [32, 48],
        "model": model.config.model_dump(mode="json"), "inference": {"presence_threshold": 0.0},
        "labels": [{"id": number + 3, "name": name} for number, name in enumerate("abcde"[: model.config.num_classes])],
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "provenance": {"metrics": {"AP": 0.25}},
    }
    write(folder, describe(values | changes, where="test"), weights)
    return folder


def as_trained(model):
    """Gives a network BatchNorm statistics, queries and boxes that differ from those of a fresh one."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.weight.mul_(torch.empty_like(module.weight).uniform_(0.5, 1.5))
            module.bias.normal_(std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    if isinstance(model, EfficientVIS):
        torch.nn.init.normal_(model.query_NTC)
        for interaction in model.interactions:
            torch.nn.init.normal_(interaction.box_deltas.bias, std=0.3)
    return model.eval().requires_grad_(False)


def resnet_model(backbone, **changes):
    torch.manual_seed(0)
    return as_trained(EfficientVIS(tiny_config(3, backbone=backbone, **changes)))


def tiny_vistr(clip_length=2, seed=0, **changes):
    torch.manual_seed(seed)
    values = dict(num_classes=5, queries=4, backbone="tiny", hidden_dim=96, encoder_layers=1, decoder_layers=1,
                  attention_heads=2, ffn_dim=32, dropout=0.0)
    return build_vistr(VisTRConfig(**(values | changes), clip_length=clip_length))


def put_frames(folder, frames):
    """Writes frames as 0.png, 1.png and so on into a new folder."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    return folder


def noise(count, height=32, width=48):
    return np.random.default_rng(0).integers(0, 255, (count, height, width, 3), dtype=np.uint8)
LAPTOP = dict(num_classes=5, queries=6, iterations=3, hidden_dim=48, attention_heads=4, ffn_dim=192, dynamic_dim=16,
              roi_size=8, mask_roi_size=8, mask_convs=2, similarity_temperature=0.1)
SCHEMES = ("ftsa", "ftsa-st", "spatial", "temporal", "joint")
