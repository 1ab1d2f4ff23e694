"""The network against slow, literal transcriptions of the paper's equations, and against its own invariances."""

import math

import pytest
import torch
from support.builders import opened, tiny_config, tiny_model

from effvis.model.attention import FactorisedTemporoSpatialAttention
from effvis.model.efficientvis import EfficientVIS
from effvis.model.heads import MaskHead


def _literal_attention(module, sequence_LC):
    """softmax(q k / sqrt(d)) v for each head, embedding by embedding, then projection, residual and LayerNorm."""
    length, width = sequence_LC.shape
    depth = width // module.heads
    qkv = [module.project_in.weight @ x + module.project_in.bias for x in sequence_LC]
    out = []
    for i in range(length):
        heads = []
        for h in range(module.heads):
            part = slice(h * depth, (h + 1) * depth)
            q = qkv[i][:width][part]
            logits = torch.stack([(q @ qkv[j][width: 2 * width][part]) / math.sqrt(depth) for j in range(length)])
            weight = logits.exp() / logits.exp().sum()
            heads.append(sum(weight[j] * qkv[j][2 * width:][part] for j in range(length)))
        mixed = module.project_out.weight @ torch.cat(heads) + module.project_out.bias
        x = sequence_LC[i] + mixed
        out.append((x - x.mean()) / (x.var(unbiased=False) + module.norm.eps).sqrt() * module.norm.weight + module.norm.bias)
    attended = torch.stack(out)
    return attended if module.gate is None else sequence_LC + module.gate * (attended - sequence_LC)


def test_ftsa_is_equation_1_then_equation_2():
    torch.manual_seed(0)
    ftsa = opened(FactorisedTemporoSpatialAttention(8, 2)).double()
    query = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    expected = query.clone()
    for b in range(2):
        for i in range(3):
            expected[b, i] = _literal_attention(ftsa.temporal, expected[b, i])
        for t in range(4):
            expected[b, :, t] = _literal_attention(ftsa.spatial, expected[b, :, t])
    torch.testing.assert_close(ftsa(query), expected, atol=1e-9, rtol=0)


@torch.no_grad()
def test_nothing_tells_the_network_which_way_time_runs():
    """Sec. 3.1 gives attention over time no positions, and Eq. 3 treats the frame before like the frame after."""
    model = tiny_model(4, seed=1).double().eval()
    frames = torch.randint(0, 255, (1, 4, 3, 32, 48), dtype=torch.uint8)
    forth, back = (model(model.features(order))[-1] for order in (frames, frames.flip(1)))
    assert (forth.boxes_BNT4[:, :, 0] - forth.boxes_BNT4[:, :, -1]).abs().max() > 1e-3  # frames differ
    torch.testing.assert_close(back.boxes_BNT4, forth.boxes_BNT4.flip(2), atol=1e-9, rtol=0)
    torch.testing.assert_close(back.logits_BNTK, forth.logits_BNTK.flip(2), atol=1e-9, rtol=0)


@pytest.mark.parametrize("classes", ["agnostic", "specific"])
def test_mask_head_is_its_layers_one_after_the_other(classes):
    torch.manual_seed(0)
    head = MaskHead(tiny_config(mask_classes=classes)).double()
    query, regions = torch.randn(1, 2, 3, 16, dtype=torch.float64), torch.randn(1, 2, 3, 16, 16, dtype=torch.float64)
    x = head.dynamic_conv(query, regions).transpose(-1, -2).reshape(6, 16, 4, 4)
    for conv in head.convs:
        x = torch.relu(conv(x))
    label = torch.tensor([[[0, 1, 2], [2, 2, 0]]])
    expected = head.logits(torch.relu(head.upsample(x))).unflatten(0, (1, 2, 3))
    channel = label if classes == "specific" else torch.zeros_like(label)
    expected = expected.gather(3, channel[..., None, None, None].expand(-1, -1, -1, 1, 8, 8))[:, :, :, 0]
    torch.testing.assert_close(head(query, regions, label), expected, atol=1e-12, rtol=0)


def test_selected_masks_are_those_of_all_tracklets():
    model = tiny_model(2).eval()
    features = model.features(torch.randint(0, 255, (2, 2, 3, 32, 48), dtype=torch.uint8))
    output = model(features)[-1]
    everything = model.mask_logits(features, output)
    chosen = model.mask_logits(features, output, torch.tensor([[3, 1], [0, 2]]))
    torch.testing.assert_close(chosen[0], everything[0, [3, 1]], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(chosen[1], everything[1, [0, 2]], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["ftsa", "ftsa-st"])
def test_a_fresh_temporal_block_leaves_a_pretrained_spatial_network_as_it_is(scheme):
    """Exactly, norm included, at every stage: what was learned on images works from the first step."""
    spatial = tiny_model(3, seed=1, attention="spatial").eval()
    torch.manual_seed(2)
    factorised = EfficientVIS(tiny_config(3, attention=scheme)).eval()
    factorised.load_state_dict(spatial.state_dict(), strict=False)
    features = spatial.features(torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8))
    for one, other in zip(spatial(features), factorised(features), strict=True):
        assert torch.equal(one.logits_BNTK, other.logits_BNTK) and torch.equal(one.boxes_BNT4, other.boxes_BNT4)
        assert torch.equal(one.query_BNTC, other.query_BNTC)
        assert torch.equal(spatial.mask_logits(features, one), factorised.mask_logits(features, other))


def test_one_frame_of_evidence_reaches_the_others_through_attention():
    """The content of frame 0 changes the queries of frame 3, which temporal dynamic convolution alone cannot do."""
    model = tiny_model(4, iterations=2).eval()
    clip = torch.randint(0, 255, (1, 4, 3, 32, 48), dtype=torch.uint8)
    changed = clip.clone()
    changed[:, 0] = 0
    before, after = (model(model.features(c)) for c in (clip, changed))
    assert torch.equal(before[0].query_BNTC[:, :, 3], after[0].query_BNTC[:, :, 3])
    assert not torch.allclose(before[1].query_BNTC[:, :, 3], after[1].query_BNTC[:, :, 3])


def test_weights_of_one_frame_start_a_clip_model():
    single, clip = tiny_model(1, seed=1), tiny_model(3, seed=2)
    assert clip.load_initial(single.state_dict()) == []
    assert torch.equal(clip.query_NTC, single.query_NTC)
    other_classes = EfficientVIS(tiny_config(3, num_classes=7))
    dropped = other_classes.load_initial(single.state_dict())
    assert dropped and all(".class_logits." in name for name in dropped)
    with pytest.raises(ValueError, match="has shape"):
        tiny_model(3, ffn_dim=48).load_initial(single.state_dict())
    with pytest.raises(ValueError, match="not among"):
        tiny_model(3, iterations=3).load_initial(single.state_dict())
