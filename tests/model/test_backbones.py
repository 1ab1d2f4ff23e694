"""ResNets have torchvision's names, shapes and arithmetic, and carry the network at any frame size."""

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from support.builders import tiny_config
from support.project import TINY, write_params
from support.published_weights import DEPTHS, published_weights
from torch import nn

from effvis.data.sizes import KeptRatio
from effvis.model.backbone import build_backbone
from effvis.model.efficientvis import EfficientVIS
from effvis.model.fpn import FPN
from effvis.model.resnet import FrozenBatchNorm2d, ResNet
from pipeline.grid.rows import headline_spec
from pipeline.settings.loading import load_params

PROJECT = Path(__file__).resolve().parents[2]
# Parameters of the published classifiers, in which the affine parts of BatchNorm count as parameters.
PUBLISHED_PARAMETERS = {"resnet18": 11_689_512, "resnet50": 25_557_032, "resnet101": 44_549_160}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_published_weights_have_these_names_and_load_unchanged(name):
    weights = published_weights(name)
    counted = {key: value.numel() for key, value in weights.items() if key.rpartition(".")[2] in ("weight", "bias")}
    assert sum(counted.values()) == PUBLISHED_PARAMETERS[name]
    body = ResNet(name)
    body.load_state_dict(weights)
    expected = {key for key in weights if not key.endswith("num_batches_tracked") and not key.startswith("fc.")}
    assert set(body.state_dict()) == expected
    assert all(torch.equal(value, weights[key]) for key, value in body.state_dict().items())


def test_another_network_s_weights_do_not_load():
    weights = published_weights("resnet18")
    with pytest.raises(RuntimeError, match="layer1.0.conv3"):
        ResNet("resnet50").load_state_dict(weights)
    with pytest.raises(RuntimeError, match="classifier"):
        ResNet("resnet18").load_state_dict(weights | {"classifier.weight": torch.zeros(1)})


def test_frozen_batch_norm_is_batch_norm_in_evaluation():
    torch.manual_seed(0)
    reference = nn.BatchNorm2d(6)
    for tensor in (reference.weight.data, reference.bias.data, reference.running_mean):
        tensor.normal_()
    reference.running_var.uniform_(0.1, 3)
    frozen = FrozenBatchNorm2d(6)
    frozen.load_state_dict(reference.state_dict())
    x = torch.randn(2, 6, 5, 7)
    # Also in training mode, and without changing anything.
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    torch.testing.assert_close(frozen.train()(x), reference.eval()(x), atol=1e-6, rtol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert frozen(x.bfloat16()).dtype == torch.bfloat16


def _literal_bottleneck(weights, at, x, stride):
    """The block as the paper draws it, from a published state dict, with PyTorch's own batch norm."""

    def conv_bn(conv, bn, value, stride=1, padding=0):
        value = nn.functional.conv2d(value, weights[f"{conv}.weight"], stride=stride, padding=padding)
        return nn.functional.batch_norm(value, weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"],
                                        weights[f"{bn}.weight"], weights[f"{bn}.bias"])

    y = conv_bn(f"{at}.conv1", f"{at}.bn1", x).relu()
    y = conv_bn(f"{at}.conv2", f"{at}.bn2", y, stride, 1).relu()
    y = conv_bn(f"{at}.conv3", f"{at}.bn3", y)
    if f"{at}.downsample.0.weight" in weights:
        x = conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", x, stride)
    return (x + y).relu()


def test_resnet_50_computes_what_its_weights_mean():
    weights = published_weights("resnet50")
    body = ResNet("resnet50")
    body.load_state_dict(weights)
    frames = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        x = nn.functional.conv2d(frames, weights["conv1.weight"], stride=2, padding=3)
        x = nn.functional.batch_norm(x, weights["bn1.running_mean"], weights["bn1.running_var"], weights["bn1.weight"],
                                     weights["bn1.bias"]).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        levels = body(frames)
        for stage, depth in enumerate(DEPTHS["resnet50"], 1):
            for number in range(depth):
                x = _literal_bottleneck(weights, f"layer{stage}.{number}", x, 2 if stage > 1 and number == 0 else 1)
            assert float((levels[stage - 1] - x).abs().max()) < 1e-5 * float(x.abs().max())


def test_only_convolutions_learn():
    backbone = build_backbone("resnet18", 8).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    assert before and all(".bn" in name or ".downsample.1." in name for name in before)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(level.square().sum() for level in backbone(torch.randn(1, 3, 64, 64))).backward()
    for name, parameter in backbone.named_parameters():
        assert ".bn" not in name and parameter.grad is not None and float(parameter.grad.abs().sum()) > 0, name
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())


@pytest.mark.parametrize("height, width", [(64, 96), (61, 83), (33, 40)])
def test_levels_of_any_frame_size(height, width):
    backbone = build_backbone("resnet18", 8)
    with torch.no_grad():
        levels = backbone(torch.randn(2, 3, height, width))
    expected = [(2, 8, -(-height // stride), -(-width // stride)) for stride in backbone.strides]
    assert [tuple(level.shape) for level in levels] == expected
    assert backbone.strides == (4, 8, 16, 32)


def test_pyramid_adds_the_coarser_levels_to_the_finer_ones():
    torch.manual_seed(0)
    fpn = FPN((3, 5), 4)
    fine, coarse = torch.randn(1, 3, 5, 7), torch.randn(1, 5, 3, 4)
    with torch.no_grad():
        outputs = fpn([fine, coarse])
        top = fpn.lateral[1](coarse)
        rows, columns = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 2, 2, 3])
        down = fpn.lateral[0](fine) + top[:, :, rows][..., columns]
        torch.testing.assert_close(outputs[1], fpn.output[1](top))
        torch.testing.assert_close(outputs[0], fpn.output[0](down))


def test_a_fresh_deep_network_keeps_its_scale():
    torch.manual_seed(0)
    with torch.no_grad():
        deepest = ResNet("resnet101")(torch.randn(1, 3, 64, 64))[-1]
    assert 0.05 < float(deepest.std()) < 50


def test_the_network_runs_on_resnet_50():
    torch.manual_seed(0)
    model = EfficientVIS(tiny_config(2, backbone="resnet50", queries=3, iterations=2)).eval()
    with torch.no_grad():
        features = model.features(torch.randint(0, 255, (1, 2, 3, 64, 96), dtype=torch.uint8))
        output = model(features)[-1]
        masks = model.mask_logits(features, output)
    assert len(features.pyramid) == 4
    assert output.logits_BNTK.shape == (1, 3, 2, 3) and masks.shape == (1, 3, 2, 8, 8)
    assert torch.isfinite(output.boxes_BNT4).all() and torch.isfinite(masks).all()


def test_the_paper_s_profile_says_what_the_paper_says(tiny_project):
    project = tiny_project()
    # The project's own params.yaml, with only the drawn videos in the fixture's small sizes.
    shutil.copy(PROJECT / "params.yaml", project)
    write_params(project, shapes=TINY["shapes"])
    params = load_params(project / "params.yaml", ["profile=paper", "pretrain.required=false"])
    spec = headline_spec(params).train
    model, train = spec.model, spec.train
    assert (model.backbone, model.hidden_dim, model.queries, model.iterations) == ("resnet50", 256, 10, 6)
    assert spec.input_size == KeptRatio(shorter=360, longer=640) and model.clip_length == 36
    assert (train.lr, train.epochs, train.lr_drop_epoch, train.weight_decay, train.clip_norm) == (2.5e-5, 33, 27, 1e-4, 1.0)
    assert (model.attention, model.dynamic_conv, model.query) == ("ftsa", "temporal", "time-disentangled")
    assert train.augmentation == "none"
    # 12 h on 4 GPUs for 33 x 2,238 videos leave 2.3 s for four clips: one on each GPU.
    assert (train.batch_size, params.resources.workers_per_run, params.resources.gpus_per_worker) == (4, 4, 1)
    for one in (train, params.vistr.train):
        assert (one.precision, one.activation_checkpointing, one.frozen_stages) == ("bf16", True, 1)
    assert train.loss.model_dump(exclude={"bce"}) == {"focal": 2, "l1": 5, "giou": 2, "dice": 8}
    # The small dataset's videos are shorter than 36 frames, so there is nothing to learn about a next clip.
    assert not train.correspondence and params.inference.linking == "end-to-end"


def test_the_operations_of_a_clip_are_those_of_its_layers(monkeypatch):
    monkeypatch.syspath_prepend(PROJECT)
    flops = importlib.import_module("benchmarks.flops")
    config = tiny_config(2, backbone="resnet50", hidden_dim=256, attention_heads=8)
    found = flops.cost(config, 224, 224)
    # torchvision publishes 4.09 billion multiplications of an image for ResNet-50, of which 2.05 million classify.
    body = 4.09e9 - 2.05e6
    pyramid = sum(side**2 * 256 * (channels + 9 * 256)
                  for side, channels in zip((56, 28, 14, 7), (256, 512, 1024, 2048), strict=True))
    assert found.backbone == pytest.approx(2 * config.clip_length * (body + pyramid), rel=2e-3)
    assert found.parameters == sum(parameter.numel() for parameter in EfficientVIS(config).parameters())
    # For 8 embeddings: twice 4 projections and 2 products of 2 or 4 with 8 values; filters, their use on three frames
    # and gathering; the feed-forward part, 4 layers of the towers, classes and boxes.
    width, inner, locations = 256, 8, 16
    attention = 2 * 4 * width**2 + 2 * width * (2 + 4)
    convolution = 2 * width * inner * width + 3 * 2 * locations * width * inner + locations * width**2
    heads = 2 * width * 32 + 4 * width**2 + width * (3 + 4)
    assert found.interactions == 2 * 2 * 8 * (attention + convolution + heads)
    assert found.pooling > 0 and found.masks > 0
