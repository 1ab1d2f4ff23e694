"""Eq. 1 to 3, the queries of the next clip (Sec. 3.3) and footnote 1, against transcriptions of the paper's sentences."""

import importlib.util

import numpy as np
import pytest
import torch
from support import equations
from support.builders import tiny_config, tiny_model
from support.project import CHECKOUT

from effvis.model.attention import FactorisedTemporoSpatialAttention
from effvis.model.dynamic_conv import DynamicConv, TemporalDynamicConv, boxes_of_neighbours, looked_at
from effvis.model.heads import Interaction, MaskHead
from effvis.model.roi_align import multilevel_roi_align

ORACLE = CHECKOUT.parent / "shared" / "oracle" / "equations" / "equations.py"


@pytest.fixture(scope="module")
def oracle():
    if not ORACLE.exists():
        pytest.skip(f"{ORACLE} is absent: only the project's own transcription is tested")
    spec = importlib.util.spec_from_file_location("oracle_equations", ORACLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def literal(conv):
    """The dynamic convolution of one region by the filter of one query, from the layers' parameters."""
    def norm(x, layer):
        x = (x - x.mean()) / np.sqrt(x.var() + layer.eps)
        return np.maximum(x * layer.weight.detach().numpy() + layer.bias.detach().numpy(), 0)

    def convolve(query, region):
        filters = conv.filters.weight.detach().numpy() @ query + conv.filters.bias.detach().numpy()
        first, second = np.split(filters, 2)
        inner = [norm(x @ first.reshape(conv.hidden_dim, conv.dynamic_dim), conv.norm1) for x in region]
        return np.stack([norm(x @ second.reshape(conv.dynamic_dim, conv.hidden_dim), conv.norm2) for x in inner])

    return convolve


def moved(conv):
    """The layer in double precision, with norms that are not the identity."""
    for norm in (conv.norm1, conv.norm2):
        torch.nn.init.normal_(norm.weight, 1, 0.3)
        torch.nn.init.normal_(norm.bias, 0, 0.5)
    return conv.double()


def attention_of_pytorch(block):
    """PyTorch's own multi-head attention with a block's weights, then residual sum and norm: (L, C) to (L, C)."""
    width = block.project_out.in_features
    attention = torch.nn.MultiheadAttention(width, block.heads, batch_first=True).double()
    attention.load_state_dict({
        "in_proj_weight": block.project_in.weight, "in_proj_bias": block.project_in.bias,
        "out_proj.weight": block.project_out.weight, "out_proj.bias": block.project_out.bias})

    def attend(x_LC):
        x = torch.from_numpy(x_LC)
        mixed, _ = attention(x, x, x, need_weights=False)
        return torch.nn.functional.layer_norm(x + mixed, (width,), block.norm.weight, block.norm.bias, block.norm.eps).numpy()

    return attend


@torch.no_grad()
@pytest.mark.parametrize("order", ["time first", "instances first"])
def test_attention_is_equation_1_and_equation_2_where_the_gates_are_open(order):
    torch.manual_seed(0)
    ftsa = FactorisedTemporoSpatialAttention(8, 2, spatial_first=order == "instances first").double()
    for parameter in ftsa.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.5)
    torch.nn.init.ones_(ftsa.temporal.gate)
    steps = [(equations.over_time, ftsa.temporal), (equations.over_instances, ftsa.spatial)]
    if order == "instances first":
        steps.reverse()
    query = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    found = ftsa(query)
    for b in range(2):
        expected = query[b].numpy()
        for equation, block in steps:
            expected = equation(attention_of_pytorch(block), expected)
        np.testing.assert_allclose(found[b], expected, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 2, 3, 5])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_temporal_dynamic_convolution_is_equation_3(frames, temperature):
    torch.manual_seed(0)
    conv = moved(TemporalDynamicConv(6, 4, temperature))
    query, regions = torch.randn(2, 3, frames, 6).double(), torch.randn(2, 3, frames, 5, 6).double()
    found = conv(query, regions)
    for b, n in np.ndindex(2, 3):
        expected = equations.tracklet_feature(
            literal(conv), query[b, n].numpy(), lambda t, u, b=b, n=n: regions[b, n, u].numpy(), temperature)
        assert np.abs(found[b, n].numpy() - expected).max() < 1e-9
    if frames == 1:
        plain = DynamicConv(6, 4).double()
        plain.load_state_dict(conv.state_dict())
        assert torch.equal(plain(query, regions), found)


@torch.no_grad()
def test_where_a_frames_proposal_crops_its_neighbours_equation_3_takes_what_that_proposal_crops():
    torch.manual_seed(0)
    conv = moved(TemporalDynamicConv(6, 4))
    query, regions = torch.randn(2, 3, 4, 6).double(), torch.randn(2, 3, 4, 3, 5, 6).double()
    found = conv(query, regions)
    for b, n in np.ndindex(2, 3):
        expected = equations.tracklet_feature(
            literal(conv), query[b, n].numpy(), lambda t, u, b=b, n=n: regions[b, n, t, u - t + 1].numpy())
        assert np.abs(found[b, n].numpy() - expected).max() < 1e-9


@torch.no_grad()
@pytest.mark.parametrize("crop", ["own", "here"])
@pytest.mark.parametrize("branch", ["box", "mask"])
def test_both_branches_filter_the_regions_that_proposals_crop(crop, branch):
    """Frame u of the pyramid under b^u, or under the b^t of the frame t that looks at it."""
    torch.manual_seed(0)
    model = tiny_model(3, neighbour_crop=crop).double().eval()
    frames = torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8)
    features, query = model.features(frames), torch.randn(2, 3, 3, 16).double()
    low = torch.rand(2, 3, 3, 2).double() * 16
    boxes = torch.cat((low, low + 6 + 10 * torch.rand_like(low)), dim=-1)
    conv = (model.interactions[0] if branch == "box" else model.mask_heads[0]).dynamic_conv
    found = moved(conv)(query, model.regions(features, boxes, 4))

    def region(b, n, t, u):
        maps = [level[b * 3 + u][None] for level in features.pyramid]
        box = boxes[b, n, u if crop == "own" else t].view(1, 1, 4)
        return multilevel_roi_align(maps, model.backbone.strides, box, 4).view(16, -1).numpy()

    for b, n in np.ndindex(2, 3):
        expected = equations.tracklet_feature(
            literal(conv), query[b, n].numpy(), lambda t, u, b=b, n=n: region(b, n, t, u),
            model.config.similarity_temperature)
        assert np.abs(found[b, n].numpy() - expected).max() < 1e-6


def test_both_branches_are_temporal_where_the_configuration_says_so():
    for kind, layer in (("temporal", TemporalDynamicConv), ("still", DynamicConv)):
        config = tiny_config(dynamic_conv=kind)
        assert {type(module.dynamic_conv) for module in (Interaction(config), MaskHead(config))} == {layer}


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_the_gradient_of_equation_3_is_its_derivative(frames):
    torch.manual_seed(0)
    conv = moved(TemporalDynamicConv(4, 3, 0.3))
    query, regions = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
                      for shape in ((1, 2, frames, 4), (1, 2, frames, 3, 4)))
    assert torch.autograd.gradcheck(conv, (query, regions))


def test_equation_3_lives_with_outputs_without_any_feature():
    conv = TemporalDynamicConv(6, 4)
    torch.nn.init.constant_(conv.norm2.weight, 0)
    regions = torch.zeros(1, 2, 3, 4, 6, requires_grad=True)
    conv(torch.randn(1, 2, 3, 6), regions).sum().backward()
    assert torch.isfinite(regions.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in conv.parameters())


@torch.no_grad()
def test_each_frame_looks_at_what_its_own_box_crops_of_its_neighbours():
    boxes = torch.arange(5.0).view(1, 1, 5, 1).expand(-1, -1, -1, 4)
    cropped = boxes_of_neighbours(boxes)
    assert cropped[..., 0].flatten(1).tolist() == [[1, 2, 3, 4, 4], [0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]
    # A region that names its frame and its box: frame u under box b is 10 u + b.
    regions = 10 * torch.arange(5.0).view(1, 1, 1, 5, 1, 1) + cropped[..., :1, None]
    seen = looked_at(regions)[0, 0, :, :, 0, 0].tolist()
    assert seen[2] == [12, 22, 32] and seen[0][1:] == [0, 10] and seen[4][:2] == [34, 44]


@torch.no_grad()
def test_the_next_clip_starts_from_the_mean_over_time_whatever_the_order():
    model = tiny_model(3).double().eval()
    features = model.features(torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8))
    query = torch.randn(1, 4, 5, 16).double()  # of a clip of another length
    entered = []
    model.interactions[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    first = model(features, query)[-1].query_BNTC
    expected = equations.mean_over_time(query[0].numpy(), 3)
    assert np.abs(entered[0][0].numpy() - expected).max() < 1e-12
    torch.testing.assert_close(model(features, query[:, :, [3, 0, 4, 1, 2]])[-1].query_BNTC, first, atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 6, 12])
def test_weights_of_three_frames_run_at_any_clip_length(frames):
    """Footnote 1: a learned query, and a learned proposal, is one vector that each frame of a clip repeats."""
    weights = {name: value + 0.1 * torch.randn_like(value) for name, value in tiny_model(3).state_dict().items()}
    model = tiny_model(frames).eval()
    model.load_state_dict(weights)
    assert model.load_initial(weights) == []
    assert model.query_NTC.shape == (4, 1, 16) and model.proposal_NT4.shape == (4, 1, 4)
    entered = []
    model.interactions[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    output = model(model.features(torch.randint(0, 255, (2, frames, 3, 32, 48), dtype=torch.uint8)))[-1]
    assert output.boxes_BNT4.shape == (2, 4, frames, 4)
    assert torch.equal(entered[0], weights["query_NTC"].expand(2, -1, frames, -1))


def test_the_transcription_says_what_another_one_says(oracle):
    """Both were written from the text, by different people."""
    rng = np.random.default_rng(0)
    query, regions, mixing = rng.normal(size=(4, 6)), rng.normal(size=(4, 5, 6)), rng.normal(size=(6, 6, 6))

    def convolve(q, region):
        return np.tanh(region @ np.tensordot(q, mixing, 1))

    def region(t, u):
        return regions[u] + 0.1 * t

    def attend(x_LC):
        return x_LC + np.cumsum(np.tanh(x_LC), axis=0)

    several = rng.normal(size=(3, 4, 6))
    np.testing.assert_array_equal(equations.over_time(attend, several), oracle.temporal_attention(attend, several))
    np.testing.assert_array_equal(equations.over_instances(attend, several), oracle.spatial_attention(attend, several))
    np.testing.assert_allclose(
        equations.tracklet_feature(convolve, query, region, 0.5), oracle.tracklet_feature(convolve, query, region, 0.5))
    carried = rng.normal(size=(2, 4, 6))
    np.testing.assert_allclose(equations.mean_over_time(carried, 4), oracle.second_clip_queries(carried))

    present, labels = rng.random((3, 4)) < 0.6, [1, 0, 1]
    score, background = rng.normal(size=(5, 4, 2)), rng.normal(size=(5, 4))
    box, iou = rng.normal(size=(5, 3, 4)), rng.random((5, 3, 4))
    cost = equations.matching_cost(
        present, 5, lambda n, k, t: score[n, t, labels[k]] + box[n, k, t] + 0.7 * (1 - iou[n, k, t]),
        lambda n, k, t: background[n, t])
    np.testing.assert_allclose(cost, oracle.matching_cost(
        5, lambda n, t, k: score[n, t, k], lambda n, t: background[n, t], lambda n, g, t: box[n, g, t],
        lambda n, g, t: iou[n, g, t], 0.7, labels, present))
    assert equations.assignment(cost) == list(oracle.best_assignment(cost))

    owner = [2, 0, 4]
    sums = equations.clip_sums(
        owner, present, lambda n, t, k: {"class_": score[n, t, 0] + (k is None), "bce": score[n, t, 1] + (k is None)},
        lambda n, t, k: {"box": box[n, k, t], "dice": iou[n, k, t]})
    expected, counts = oracle.clip_loss_terms(
        owner, present, lambda n, t, g: score[n, t, 0] + (g is None), lambda n, t, g: box[n, g, t],
        lambda n, t, g: iou[n, g, t], lambda n, t, g: score[n, t, 1] + (g is None))
    assert sums == pytest.approx(expected)
    assert counts["bce"] == counts["class_"] == present.size
