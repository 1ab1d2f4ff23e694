"""EfficientNet-Lite0 computes what the published package does, with its ImageNet weights and with any others.

The oracle is the package ``efficientnet_lite_pytorch`` (in the extra ``dev``), from which this project has no code.
"""

import pytest
import torch
from support.builders import tiny_config
from support.models import resnet_model
from torch import nn

from effvis.fast.optimise import optimised
from effvis.model.backbone import build_backbone
from effvis.model.convert import convert
from effvis.model.efficientnet import EfficientNetLite0, body_weights
from effvis.model.efficientvis import EfficientVIS
from effvis.model.recompute import prepare
from effvis.model.resnet import FrozenBatchNorm2d

SIZES = [(224, 224), (160, 288), (61, 83), (33, 40)]


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("efficientnet_lite_pytorch", reason="efficientnet_lite_pytorch cannot be imported: "
                               "features are not compared with its features")


@pytest.fixture(scope="module")
def theirs(package):
    """Their network with random weights and statistics. It pads frames of any size, as TensorFlow does."""
    torch.manual_seed(0)
    network = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval().requires_grad_(False)


def their_levels(network, frames):
    """What the last block of each stride gives."""
    levels, x = {}, torch.nn.functional.relu6(network._bn0(network._conv_stem(frames)))
    for block in network._blocks:
        x = block(x)
        levels[x.shape[-2:]] = x
    return list(levels.values())[1:]


@pytest.mark.parametrize("height, width", SIZES)
def test_features_are_those_of_the_package(theirs, height, width):
    body = EfficientNetLite0().train()  # frozen normalisation knows no other mode
    body.load_state_dict(body_weights(theirs.state_dict()))
    frames = torch.randn(2, 3, height, width)
    with torch.no_grad():
        levels, expected = body(frames), their_levels(theirs, frames)
    assert len(levels) == len(expected) == 4
    for level, there, stride, channels in zip(levels, expected, body.strides, body.channels, strict=True):
        assert level.shape == (2, channels, -(-height // stride), -(-width // stride))
        torch.testing.assert_close(level, there, rtol=1e-4, atol=1e-4)


def test_every_published_weight_of_the_body_has_one_place(theirs):
    published, body = theirs.state_dict(), EfficientNetLite0()
    weights = body_weights(published)
    head = ("_conv_head.", "_bn1.", "_fc.")
    assert len(weights) == sum(not name.startswith(head) and "num_batches" not in name for name in published)
    assert {name: value.shape for name, value in weights.items()} == {n: v.shape for n, v in body.state_dict().items()}


def test_import_weights_reads_the_published_names(theirs):
    model = EfficientVIS(tiny_config(1, backbone="efficientnet-lite0"))
    conversion = convert(theirs.state_dict(), model, where="test")
    loaded = {fate.name for fate in conversion.fates if fate.outcome == "loaded"}
    assert loaded == {name for name in model.state_dict() if name.startswith("backbone.body.")}
    assert torch.equal(conversion.weights["backbone.body.blocks.4.depthwise.weight"],
                       theirs._blocks[4]._depthwise_conv.weight)
    why = {fate.name: fate.reason for fate in conversion.fates if fate.outcome == "dropped"}
    assert why["_fc.weight"] == why["_conv_head.weight"] == why["_bn1.bias"] == "ImageNet's classifier"


def test_only_convolutions_learn_and_all_do():
    backbone = build_backbone("efficientnet-lite0", 8).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(level.square().sum() for level in backbone(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert "norm" not in name and float(parameter.grad.abs().sum()) > 0, name
    optimizer.step()
    assert before and all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


def test_a_fresh_one_keeps_its_scale():
    torch.manual_seed(0)
    with torch.no_grad():
        levels = EfficientNetLite0()(torch.randn(1, 3, 96, 96))
    assert all(0.05 < float(level.std()) < 50 for level in levels)


def test_recomputed_activations_give_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        body = EfficientNetLite0().train()
        prepare(body, frozen_stages=0, recompute=recompute)
        sum(level.square().mean() for level in body(torch.randn(1, 3, 48, 64))).backward()
        gradients.append([parameter.grad for parameter in body.parameters()])
    for kept, anew in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, anew)


@pytest.mark.parametrize("stages, first_learning", [(0, 0), (1, 3), (2, 5), (3, 11), (4, 16)])
def test_frozen_stages_are_the_stem_and_the_blocks_up_to_a_stride(stages, first_learning):
    body = EfficientNetLite0()
    prepare(body, frozen_stages=stages, recompute=False)
    learns = [all(parameter.requires_grad for parameter in block.parameters()) for block in body.blocks]
    assert learns == [number >= first_learning for number in range(16)]
    assert body.stem.weight.requires_grad == (stages == 0)


@pytest.mark.parametrize("pool_first", [True, False])
def test_it_can_be_made_fast(pool_first):
    # As many channels as the finest level has, so that its lateral is postponed, too.
    model = resnet_model("efficientnet-lite0", hidden_dim=24)
    fast = optimised(model, (75, 101), pool_first=pool_first)
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in fast.modules())
    frames = torch.randint(0, 255, (1, 3, 3, 75, 101), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = model(model.features(frames))[-1], fast(fast.features(frames))[-1]
    torch.testing.assert_close(found.boxes_BNT4, expected.boxes_BNT4, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.logits_BNTK, expected.logits_BNTK, rtol=1e-3, atol=1e-3)
