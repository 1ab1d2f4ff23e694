"""The paper's ablation switches, against literal transcriptions, and by the frames and tracklets that each variant can see."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.builders import opened, pair_batch, tiny_config, tiny_model
from support.models import LAPTOP, SCHEMES

from effvis.config import LossWeights, ModelConfig, TrainConfig
from effvis.model.attention import build_attention
from effvis.model.efficientvis import EfficientVIS
from effvis.training.correspondence import pair_losses

PRETRAINED = Path(__file__).resolve().parents[2] / "effvis" / "pretrained" / "laptop_cl.safetensors"
VARIANTS = [
    {}, *({"attention": scheme} for scheme in SCHEMES[1:]), {"dynamic_conv": "still"}, {"neighbour_crop": "here"},
    {"query": "time-shared"}]


def _name(variant):
    return "-".join(variant.values()) or "default"


def _literal_attention(module, sequence):
    """Embedding by embedding and head by head: softmax(q k / sqrt(d)) v, projection, residual, LayerNorm."""
    width = len(sequence[0])
    depth = width // module.heads
    qkv = [module.project_in.weight @ x + module.project_in.bias for x in sequence]
    out = []
    for i, x in enumerate(sequence):
        heads = []
        for h in range(module.heads):
            q, k, v = (slice(part * width + h * depth, part * width + (h + 1) * depth) for part in range(3))
            weights = [math.exp(float(qkv[i][q] @ other[k]) / math.sqrt(depth)) for other in qkv]
            heads.append(sum(w * other[v] for w, other in zip(weights, qkv, strict=True)) / sum(weights))
        y = x + module.project_out.weight @ torch.cat(heads) + module.project_out.bias
        y = (y - y.mean()) / (y.var(unbiased=False) + module.norm.eps).sqrt() * module.norm.weight + module.norm.bias
        # A temporal block moves each channel as far as its gate is open.
        out.append(y if module.gate is None else x + module.gate * (y - x))
    return out


def _literally(module, scheme, query_NTC):
    tracklets, frames, _ = query_NTC.shape
    query = query_NTC.clone()

    def temporal():
        for i in range(tracklets):
            query[i] = torch.stack(_literal_attention(module.temporal, [query[i, t] for t in range(frames)]))

    def spatial():
        for t in range(frames):
            query[:, t] = torch.stack(_literal_attention(module.spatial, [query[i, t] for i in range(tracklets)]))

    if scheme == "joint":
        places = [(i, t) for i in range(tracklets) for t in range(frames)]
        for (i, t), x in zip(places, _literal_attention(module.joint, [query_NTC[i, t] for i, t in places]), strict=True):
            query[i, t] = x
    for step in {"ftsa": (temporal, spatial), "ftsa-st": (spatial, temporal), "spatial": (spatial,),
                 "temporal": (temporal,), "joint": ()}[scheme]:
        step()
    return query


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_is_its_literal_transcription(scheme):
    torch.manual_seed(0)
    module = opened(build_attention(scheme, 8, 2)).double()
    query = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    expected = torch.stack([_literally(module, scheme, clip) for clip in query])
    torch.testing.assert_close(module(query), expected, atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_reaches_what_its_name_says(scheme):
    """A change to tracklet 0 in frame 0 may reach another frame, another tracklet, and another place in both."""
    torch.manual_seed(0)
    module = opened(build_attention(scheme, 8, 2)).double()
    query = torch.randn(1, 3, 4, 8, dtype=torch.float64)
    changed = query.clone()
    changed[:, 0, 0] += 1
    moved = ((module(query) - module(changed)).abs() > 1e-9).any(dim=-1)[0]
    other_frame, other_tracklet, both = moved[0, 1].item(), moved[1, 0].item(), moved[1, 1].item()
    assert (other_frame, other_tracklet, both) == {
        "spatial": (False, True, False), "temporal": (True, False, False)}.get(scheme, (True, True, True))


@torch.no_grad()
def test_spatial_attention_permutes_with_frames_and_temporal_with_tracklets():
    torch.manual_seed(0)
    query = torch.randn(1, 3, 4, 8, dtype=torch.float64)
    for scheme, order, axis in (("spatial", [2, 0, 3, 1], 2), ("temporal", [2, 0, 1], 1)):
        module = opened(build_attention(scheme, 8, 2)).double()
        torch.testing.assert_close(
            module(query.index_select(axis, torch.tensor(order))),
            module(query).index_select(axis, torch.tensor(order)), atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("variant, reach", [
    ({}, 1), ({"neighbour_crop": "here"}, 1), ({"dynamic_conv": "still"}, 0)], ids=["own", "here", "still"])
def test_one_interaction_looks_so_many_frames_far(variant, reach):
    """The first interaction's queries do not know the frames yet: information reaches a frame only by the convolution."""
    model = tiny_model(4, **variant).eval()
    clip = torch.randint(0, 255, (1, 4, 3, 32, 48), dtype=torch.uint8)
    changed = clip.clone()
    changed[:, 0] = 255 - changed[:, 0]
    before, after = (model(model.features(c))[0] for c in (clip, changed))
    for t in range(4):
        assert torch.equal(before.query_BNTC[:, :, t], after.query_BNTC[:, :, t]) == (t > reach)
    # The boxes are the same for both: those of frame 1 have seen frame 0, and would crop frame 2's neighbour elsewhere.
    masks = [model.mask_logits(model.features(c), before) for c in (clip, changed)]
    for t in range(4):
        assert torch.equal(masks[0][:, :, t], masks[1][:, :, t]) == (t > reach)


def _predicted(model, clips):
    """Class logits, boxes, queries and masks (B, N, T, ...) after the last interaction."""
    features = model.features(clips)
    output = model(features)[-1]
    return output.logits_BNTK, output.boxes_BNT4, output.query_BNTC, model.mask_logits(features, output)


@torch.no_grad()
@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_batch_of_two_equals_two_batches_of_one(variant):
    model = tiny_model(3, **variant).eval().double()
    clips = torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8)
    both = _predicted(model, clips)
    for b in range(2):
        for together, alone in zip(both, _predicted(model, clips[b: b + 1]), strict=True):
            torch.testing.assert_close(together[b], alone[0], atol=1e-9, rtol=1e-9)
    assert not torch.allclose(both[0][0], both[0][1], atol=1e-3)


@torch.no_grad()
def test_with_spatial_attention_and_still_convolution_frames_in_another_order_are_predicted_in_that_order():
    """The whole network."""
    model = tiny_model(4, attention="spatial", dynamic_conv="still").eval().double()
    clip = torch.randint(0, 255, (1, 4, 3, 32, 48), dtype=torch.uint8)
    order = torch.tensor([2, 0, 3, 1])
    before = _predicted(model, clip)
    for old, new in zip(before, _predicted(model, clip[:, order]), strict=True):
        torch.testing.assert_close(new, old[:, :, order], atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_frames_know_of_each_other_but_with_spatial_attention(scheme):
    """The whole network, M times: another frame 0 changes all other frames' predictions, or none of them."""
    model = tiny_model(3, attention=scheme, dynamic_conv="still").eval().double()
    clip = torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8)
    before = _predicted(model, clip)
    clip[:, 0] = 255 - clip[:, 0]
    for old, new in zip(before, _predicted(model, clip), strict=True):
        changed = (old - new).abs().transpose(1, 2).flatten(2).amax(dim=-1)[0] > 1e-9
        assert changed.tolist() == [True] + [scheme != "spatial"] * 2


@torch.no_grad()
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tracklets_know_of_each_other_but_with_temporal_attention(scheme):
    """The whole network, M times: another query for tracklet 0 changes all the others' predictions, or none of them."""
    model = tiny_model(3, attention=scheme).eval().double()
    clip = torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8)
    before = _predicted(model, clip)
    model.query_NTC.data[0] += 1
    after = _predicted(model, clip)
    for old, new in zip(before, after, strict=True):
        changed = (old - new).abs().flatten(2).amax(dim=-1)[0] > 1e-9
        assert changed.tolist() == [True] + [scheme != "temporal"] * 3


@torch.no_grad()
def test_a_time_shared_query_is_one_embedding_for_all_frames_in_every_interaction():
    shared, own = tiny_model(3, query="time-shared").eval(), tiny_model(3).eval()
    clip = torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8)
    for model in (shared, own):
        entered = []
        for interaction in model.interactions:
            interaction.register_forward_pre_hook(lambda module, inputs, entered=entered: entered.append(inputs[0]))
        features = model.features(clip)
        output = model(features)[-1]
        model(features, output.query_BNTC)
        embeddings = [entered[1], entered[3], output.query_BNTC]  # these have been refined by frames; clips start from one
        alike = [torch.allclose(query, query[:, :, :1].expand_as(query)) for query in embeddings]
        assert alike == [model is shared] * len(embeddings)
        assert not torch.allclose(output.boxes_BNT4[:, :, 0], output.boxes_BNT4[:, :, 1]), "each frame has its box"


@torch.no_grad()
def test_time_shared_queries_are_carried_by_their_mean():
    model = tiny_model(3, query="time-shared").eval()
    features = model.features(torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8))
    query = torch.randn(1, 4, 3, 16)
    by_mean = model(features, query.mean(dim=2, keepdim=True).expand(-1, -1, 3, -1).contiguous())[-1]
    torch.testing.assert_close(model(features, query)[-1].query_BNTC, by_mean.query_BNTC, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_training_step_has_finite_gradients_everywhere(variant, half):
    model = tiny_model(3, **variant)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        losses = pair_losses(model, pair_batch([([7, 8], [8])], 3, absent=True), LossWeights(), True)
    total = torch.stack([value.float() for value in losses.values()]).sum()
    total.backward()
    assert torch.isfinite(total)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_variants_are_different_networks_of_the_names_they_share():
    names = {scheme: set(tiny_model(attention=scheme).state_dict()) for scheme in SCHEMES}
    assert names["ftsa"] == names["ftsa-st"] == names["spatial"] | names["temporal"]
    assert all(".attention." in name for name in names["ftsa"] ^ names["joint"])
    features, outputs = None, []
    for variant in VARIANTS:
        model = tiny_model(3, **variant).eval()
        if features is None:
            features = model.features(torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8))
        with torch.no_grad():
            outputs.append(model(features)[-1].logits_BNTK)
    for i, one in enumerate(outputs):
        assert not any(torch.allclose(one, other, atol=1e-6) for other in outputs[:i]), VARIANTS[i]


def test_shipped_weights_start_every_variant():
    weights = load_file(PRETRAINED)
    for variant in ({}, {"attention": "ftsa-st"}, {"dynamic_conv": "still"}, {"neighbour_crop": "here"}):
        model = EfficientVIS(ModelConfig(**LAPTOP, clip_length=3, **variant))
        assert model.load_initial(weights) == []
        for name, value in model.state_dict().items():
            assert torch.equal(value, weights[name].float().expand_as(value)), name
    shared = EfficientVIS(ModelConfig(**LAPTOP, clip_length=3, query="time-shared"))
    assert shared.load_initial(weights) == []
    assert torch.equal(shared.query_NTC, weights["query_NTC"].float())


@pytest.mark.parametrize("scheme, from_block, unused", [
    ("spatial", "spatial", {"temporal"}), ("temporal", "temporal", {"spatial"}), ("joint", "spatial", {"temporal"})])
def test_attention_variants_start_from_the_blocks_of_ftsa(scheme, from_block, unused):
    weights = load_file(PRETRAINED)
    model = EfficientVIS(ModelConfig(**LAPTOP, clip_length=3, attention=scheme))
    left_out = model.load_initial(weights)
    assert left_out and {name.split(".attention.")[1].split(".")[0] for name in left_out} == unused
    for name, value in model.state_dict().items():
        source = name.replace(f".attention.{scheme}.", f".attention.{from_block}.")
        assert torch.equal(value, weights[source].float().expand_as(value)), name
    whole = EfficientVIS(ModelConfig(**LAPTOP, clip_length=3))
    if scheme == "spatial":  # as of images: what is missing is what has no effect yet
        assert {name.split(".attention.")[1].split(".")[0] for name in whole.load_initial(model.state_dict())} == {"temporal"}
    else:
        with pytest.raises(ValueError, match="not among"):
            whole.load_initial(model.state_dict())


@torch.no_grad()
@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.get("attention") not in ("ftsa-st", "spatial", "temporal")],
                         ids=_name)
def test_at_one_frame_names_the_same_network(variant):
    config = tiny_config(1, **variant)
    same = config.at_one_frame()
    assert tiny_config(9, **variant).at_one_frame() == same == same.at_one_frame()
    torch.manual_seed(0)
    model = EfficientVIS(config).eval()
    torch.manual_seed(5)
    twin = EfficientVIS(same).eval()
    twin.load_state_dict({k.replace(".attention.joint.", ".attention.spatial."): v for k, v in model.state_dict().items()})
    frame = torch.randint(0, 255, (2, 1, 3, 32, 48), dtype=torch.uint8)
    one, other = (m(m.features(frame))[-1] for m in (model, twin))
    assert torch.equal(one.logits_BNTK, other.logits_BNTK) and torch.equal(one.boxes_BNT4, other.boxes_BNT4)


def test_at_one_frame_keeps_different_networks_apart():
    names = [tiny_config(1, attention=scheme).at_one_frame() for scheme in SCHEMES]
    assert len({config.model_dump_json() for config in names}) == 4  # joint is spatial


def test_a_switch_that_does_not_exist_is_refused():
    for switch in ("attention", "dynamic_conv", "neighbour_crop", "query"):
        with pytest.raises(ValidationError, match=switch):
            tiny_config(**{switch: "other"})
    for wrong in ({"crop_share": (0.9, 0.5)}, {"crop_share": (0, 1)}, {"scales": ()}, {"scales": (0,)}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            TrainConfig(**wrong)
