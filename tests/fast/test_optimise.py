"""The network optimised for inference computes the same as the plain network."""

import itertools

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.builders import tiny_config, tiny_model
from support.models import as_trained, put, resnet_model, tiny_vistr
from support.project import CHECKOUT

import effvis
from effvis.config import InferenceConfig, ModelConfig
from effvis.data.dataset import Category
from effvis.data.synthetic.shapes import ShapesConfig
from effvis.data.synthetic.shapes import write as write_shapes
from effvis.data.youtube_vis import read_split
from effvis.fast import pooling_first
from effvis.fast.optimise import PIXELS_AT_ONCE, optimised
from effvis.fast.pooling_first import ForInference, PoolingFirst, convolved_regions, pooling_first_pays
from effvis.inference.predictor import predict_split
from effvis.model.efficientvis import EfficientVIS
from effvis.model.resnet import FrozenBatchNorm2d, ResNet
from effvis.model.roi_align import multilevel_roi_align
from effvis.predictor import Predictor
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR

STRIDES = (4, 8, 16, 32)


def resnet_vistr(clip_length=3):
    torch.manual_seed(0)
    body = ResNet("resnet18")
    config = VisTRConfig(num_classes=3, clip_length=clip_length, queries=4, hidden_dim=96, encoder_layers=1, decoder_layers=2,
                         attention_heads=2, ffn_dim=64, dropout=0.0)
    return as_trained(VisTR(config, body, body.channels))


def frames(height=75, width=101, count=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, count, 3, height, width), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def outputs(model, clip):
    """Logits, boxes as fractions of the frame, and mask logits."""
    if isinstance(model, VisTR):
        output = model(clip)
        logits, boxes, masks = output.logits_DBNTK[-1], output.boxes_DBNT4[-1], model.mask_logits(output)
    else:
        features = model.features(clip)
        output = model(features)[-1]
        logits, boxes, masks = output.logits_BNTK, output.boxes_BNT4, model.mask_logits(features, output)
    return logits, boxes / clip.shape[-1], masks


def assert_near(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one.float() - other).abs().max() <= tolerance


@pytest.fixture(params=[0, 0.05, 1e9], ids=["no level convolved as a whole", "some", "all"])
def cells_per_bin(request, monkeypatch):
    monkeypatch.setattr(pooling_first, "CELLS_PER_BIN", request.param)
    return request.param


@pytest.mark.parametrize("pool_first", [True, False])
@pytest.mark.parametrize("backbone, changes", [
    # The body's finest level has 64 channels, like the pyramid: it stays as it is where no box looks.
    ("resnet18", {}), ("resnet18", {"hidden_dim": 64}), ("resnet50", {}), ("tiny", {})], ids=str)
def test_results_are_those_of_the_plain_network(backbone, changes, pool_first, cells_per_bin):
    model = resnet_model(backbone, **changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = optimised(model, (75, 101), pool_first=pool_first)
    assert isinstance(fast, PoolingFirst) == pool_first
    assert not any(isinstance(module, FrozenBatchNorm2d) for module in fast.modules())
    assert_near(outputs(fast, frames()), outputs(model, frames()), 1e-4)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "the model stays as it is"


@pytest.mark.parametrize("changes", [
    {"neighbour_crop": "here"}, {"query": "time-shared"}, {"attention": "joint"}, {"dynamic_conv": "still"}], ids=str)
def test_so_are_those_of_every_variant(changes, cells_per_bin):
    model = resnet_model("resnet18", hidden_dim=64, **changes)
    assert_near(outputs(optimised(model, (75, 101), pool_first=True), frames()), outputs(model, frames()), 1e-4)


def test_so_are_those_of_vistr():
    model = resnet_vistr()
    assert_near(outputs(optimised(model, (75, 101)), frames()), outputs(model, frames()), 1e-4)


@pytest.mark.parametrize("make", [lambda: resnet_model("resnet18"), resnet_vistr], ids=["efficientvis", "vistr"])
@pytest.mark.parametrize("pixels", [1, 2 * 75 * 101], ids=["one frame", "two frames"])
def test_so_are_those_of_frames_in_parts(monkeypatch, make, pixels):
    monkeypatch.setitem(PIXELS_AT_ONCE, "cpu", pixels)
    model = make()
    assert_near(outputs(optimised(model, (75, 101)), frames()), outputs(model, frames()), 1e-4)


@pytest.mark.parametrize("make", [lambda: resnet_model("resnet18", hidden_dim=64), resnet_vistr], ids=["efficientvis", "vistr"])
def test_half_precision_comes_near(make):
    model = make()
    expected = outputs(model, frames())
    assert_near(outputs(optimised(model, (75, 101), precision="bf16"), frames()), expected, 0.3)
    if isinstance(model, EfficientVIS):
        assert_near(outputs(optimised(model, (75, 101), precision="bf16", pool_first=True), frames()), expected, 0.3)
    half = Predictor(optimised(model, (64, 96), precision="bf16"), input_size=(64, 96),
                     inference=InferenceConfig(presence_threshold=0.0), categories=[Category(n, f"{n}") for n in range(3)])
    video = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), dtype=np.uint8)
    assert len(half.track(video, minimum_score=0.0).tracklets) == 4


def test_boxes_of_every_level_and_place_are_pooled_as_ever():
    torch.manual_seed(0)
    height, width = 203, 310
    maps = [torch.randn(2, 5, -(-height // s), -(-width // s)).contiguous(memory_format=torch.channels_last) for s in STRIDES]
    convolutions = torch.nn.ModuleList(torch.nn.Conv2d(5, 5, 3, 1, 1) for _ in STRIDES).requires_grad_(False)
    corners = torch.tensor([-900.0, -40.0, -1.0, 0.0, 17.0, 90.0, 199.0, 205.0, 306.0, 315.0, 700.0])
    spans = list(itertools.combinations_with_replacement(corners.tolist(), 2))
    boxes = torch.tensor([(x0, y0, x1, y1) for x0, x1 in spans for y0, y1 in spans])
    boxes_FN4 = torch.stack((boxes, boxes.flip(0)))
    convolved = [convolution(feature) for convolution, feature in zip(convolutions, maps, strict=True)]
    expected = multilevel_roi_align(convolved, STRIDES, boxes_FN4, 3)
    found = convolved_regions(maps, STRIDES, convolutions, boxes_FN4, 3)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_level_is_convolved_as_a_whole_when_enough_boxes_belong_to_it():
    model = optimised(resnet_model("resnet18"), (75, 101), pool_first=True)
    config, features = model.config, model.features(frames())
    assert None not in features.waiting
    cells = [level[0, 0].numel() for level in features.pyramid]
    bins = config.iterations * config.roi_size**2 + config.mask_roi_size**2
    # On the finest level, cropping pays sooner the more boxes a frame has.
    few, many = (torch.tensor([10.0, 10, 40, 40]).expand(1, count, features.frames, 4)
                 for count in (cells[0] // (2 * bins), cells[0] // (2 * bins) + 1))
    before = list(features.pyramid)
    pooled = model._crop(features, few, config.roi_size)
    assert features.waiting == list(model.convolutions) and features.select(slice(0, 1)).waiting == features.waiting
    again = model._crop(features, many, config.roi_size)
    assert features.waiting == [None, *model.convolutions[1:]] and features.select(slice(0, 1)).waiting == features.waiting
    assert [a is b for a, b in zip(before, features.pyramid, strict=True)] == [False, True, True, True]
    torch.testing.assert_close(again[:, :1], pooled[:, :1], atol=1e-5, rtol=1e-5)


def test_the_finest_level_is_made_in_the_frames_where_a_box_looks_at_it():
    model = resnet_model("resnet18", hidden_dim=64)
    fast, plain = optimised(model, (75, 101), pool_first=True), optimised(model, (75, 101), pool_first=False)
    features, expected = fast.features(frames()), plain.features(frames())
    large, small = [-300.0, -300, 700, 700], [10.0, 10, 40, 40]

    def crop(*boxes_of_frames):
        boxes_BNT4 = torch.tensor([[boxes_of_frames]])
        torch.testing.assert_close(
            fast._crop(features, boxes_BNT4, 4), plain._crop(expected, boxes_BNT4, 4), atol=1e-4, rtol=1e-4)
        return features.unmerged.left_F.tolist()

    assert crop(large, large, large) == [True, True, True]
    assert crop(large, small, large) == [True, False, True]
    assert crop(large, small, small) == [True, False, False]  # no frame is made twice: its values would be others'
    # A value made in the features of some clips is made in those of all, because they share the maps.
    same = features.select(slice(0, 1))
    same.merge(torch.tensor([True, False, False]))
    assert crop(small, small, small) == [False, False, False]


def test_a_finest_level_that_is_convolved_as_a_whole_is_made_first():
    model = resnet_model("resnet18", hidden_dim=64)
    fast, plain = optimised(model, (75, 101), pool_first=True), optimised(model, (75, 101), pool_first=False)
    features, expected = fast.features(frames()), plain.features(frames())
    features.finish(1)  # the coarser level as it was is still needed
    features.finish(0)
    for level in (0, 1):
        torch.testing.assert_close(features.pyramid[level], expected.pyramid[level], atol=1e-4, rtol=1e-4)


def test_it_is_pooled_first_where_frames_are_large():
    config = tiny_config(3, backbone="resnet18", queries=10, iterations=6, roi_size=7, mask_roi_size=14)
    model = EfficientVIS(config)
    assert pooling_first_pays(model, (300, 540)) and not pooling_first_pays(model, (64, 96))
    assert isinstance(optimised(model, (300, 540)), PoolingFirst)
    assert type(optimised(model, (64, 96))) is ForInference


@pytest.mark.parametrize("model", [tiny_model(3, num_classes=5), tiny_vistr(3)], ids=["efficientvis", "vistr"])
def test_a_video_has_the_same_tracklets(model):
    inference = InferenceConfig(presence_threshold=0.0)
    categories = [Category(number, f"shape{number}") for number in range(1, 6)]
    video = np.random.default_rng(0).integers(0, 255, (7, 32, 48, 3), dtype=np.uint8)
    networks = [model, optimised(model, (32, 48), pool_first=True)]
    plain, fast = (Predictor(network, input_size=(32, 48), inference=inference, categories=categories)
                   .track(video, minimum_score=0.0) for network in networks)
    assert len(plain.tracklets) == len(fast.tracklets) > 0
    for one, other in zip(plain.tracklets, fast.tracklets, strict=True):
        assert one.category == other.category and one.score == pytest.approx(other.score, abs=1e-5)
        assert list(one.rles) == list(other.rles)
        assert all((one.mask(frame) != other.mask(frame)).mean() < 0.01 for frame in one.rles)


def test_a_trained_network_finds_the_same(tmp_path):
    profile = yaml.safe_load((CHECKOUT / "experiments" / "profiles" / "laptop.yaml").read_text())
    model = EfficientVIS(ModelConfig(**profile["model"], num_classes=5, clip_length=6))
    model.load_initial(load_file(CHECKOUT / "effvis" / "pretrained" / "laptop_cl.safetensors"))
    write_shapes(ShapesConfig(train_videos=1, val_videos=4, height=64, width=96), tmp_path, workers=1)
    index, inference = read_split(tmp_path / "val"), InferenceConfig(**profile["inference"])
    networks = [model, optimised(model, (64, 96), pool_first=True)]
    plain, fast = (predict_split(network, index, inference, input_size=(64, 96)).results for network in networks)
    assert max(result["score"] for result in plain) > 0.5, "it is trained"
    for one, other in zip(plain, fast, strict=True):
        assert (one["video_id"], one["category_id"]) == (other["video_id"], other["category_id"])
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    pairs = [pair for one, other in zip(plain, fast, strict=True)
             for pair in zip(one["segmentations"], other["segmentations"], strict=True)]
    assert sum(a != b for a, b in pairs) <= len(pairs) // 100


@pytest.mark.parametrize("make", [lambda: resnet_model("resnet18"), lambda: tiny_vistr(3)], ids=["efficientvis", "vistr"])
def test_a_model_folder_is_loaded_fast(tmp_path, make):
    folder = put(tmp_path / "model", make())
    video = np.random.default_rng(0).integers(0, 255, (4, 64, 96, 3), dtype=np.uint8)
    networks = effvis.load(folder), effvis.load(folder, fast=True)
    assert type(networks[0].model) in (EfficientVIS, VisTR)
    if isinstance(networks[0].model, EfficientVIS):
        assert isinstance(networks[1].model, ForInference)
    plain, fast = (network.track(video, minimum_score=0.0).tracklets for network in networks)
    assert [one.category for one in plain] == [one.category for one in fast]
    assert [one.score for one in plain] == pytest.approx([one.score for one in fast], abs=1e-5)


@pytest.mark.slow
def test_the_paper_s_interactions_compile_as_one_graph():
    """A graph break would keep CUDA graphs from the code after it."""
    model = optimised(resnet_model("resnet18"), (75, 101), pool_first=False)
    features = model.features(frames())
    compiled = torch.compile(model.forward, backend="eager", fullgraph=True)
    assert compiled(features)[-1].boxes_BNT4.equal(model(features)[-1].boxes_BNT4)
