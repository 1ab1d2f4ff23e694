"""DETR and VisTR converted to our VisTR: networks written with the published names compute the same after conversion."""

import pytest
import torch
from support.literal_detr import BODY, CLASSES, FFN, FRAMES, HEADS, LAYERS, QUERIES, WIDTH, LiteralDETR, literal_segmenter
from support.published_weights import published_weights

from effvis.errors import UserError
from effvis.vistr.config import VisTRConfig
from effvis.vistr.convert import convert_vistr, published_form
from effvis.vistr.model import build_vistr
from effvis.vistr.parts import sine_positions

HEIGHT, WIDE = 64, 96
PUBLISHED_FRAMES = 36


def converted(published, frames, **changes):
    model = vistr(clip_length=frames, **changes)
    conversion = convert_vistr(published, model, where="test")
    model.load_state_dict(conversion.weights)
    return model.double().eval(), conversion


def vistr(**changes):
    torch.manual_seed(0)
    values = dict(num_classes=CLASSES, clip_length=1, queries=QUERIES, backbone=BODY, hidden_dim=WIDTH, encoder_layers=LAYERS,
                  decoder_layers=LAYERS, attention_heads=HEADS, ffn_dim=FFN)
    return build_vistr(VisTRConfig(**(values | changes)))


def clip(frames):
    """uint8 frames, the same frames as the network's input pixels, and their tokens' positions."""
    torch.manual_seed(2)
    clip_TCHW = torch.randint(0, 255, (frames, 3, HEIGHT, WIDE), dtype=torch.uint8)
    model = vistr()
    pixels = (clip_TCHW.double() - model.pixel_mean.double()) / model.pixel_std.double()
    position = sine_positions(frames, HEIGHT // 32, WIDE // 32, WIDTH, pixels).flatten(0, 2).unsqueeze(1)
    return clip_TCHW, pixels, position


def assert_near(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def to_pixels(boxes):
    """Converts cxcywh fractions to xyxy pixels."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1) * torch.tensor([WIDE, HEIGHT] * 2)


def outcomes(conversion, outcome):
    return {fate.name: fate.reason for fate in conversion.fates if fate.outcome == outcome}


@torch.no_grad()
def test_on_one_frame_a_converted_detr_is_the_published_one():
    """All parts match except the mask head's input and end: VisTR's head reads the encoder's output, and 3-D convolutions
    follow."""
    literal = literal_segmenter("detr")
    model, conversion = converted(literal.state_dict(), frames=1)
    assert set(outcomes(conversion, "left at init")) == {
        name for name in conversion.weights if name.startswith(("sequence_masks.", "frame_masks.offsets."))}
    assert not outcomes(conversion, "cut")
    assert {name for name in outcomes(conversion, "dropped") if not name.endswith("num_batches_tracked")} == {
        "mask_head.out_lay.weight", "mask_head.out_lay.bias"}

    frames, pixels, position = clip(1)
    features, memory, decoded, logits, boxes = literal.detr(pixels, position)
    ours = model(frames.unsqueeze(0))
    for level, feature in zip((*ours.levels, model.body(pixels)[-1]), features, strict=True):
        assert_near(level / feature.abs().max(), feature / feature.abs().max())
    tokens = model.project(features[-1]).flatten(2).transpose(1, 2)
    one_layer = literal.detr.transformer.encoder.layers[0](tokens.transpose(0, 1), position)
    assert_near(model.encoder[0](tokens, position.transpose(0, 1)), one_layer.transpose(0, 1))
    assert_near(ours.memory_FCHW.flatten(2).permute(2, 0, 1), memory)
    assert_near(ours.query_BNTC[0, :, 0], decoded)
    assert_near(ours.logits_DBNTK[-1, 0, :, 0], logits)
    assert_near(ours.boxes_DBNT4[-1, 0, :, 0], to_pixels(boxes))
    attention = model.box_attention(decoded.unsqueeze(0), ours.memory_FCHW)
    masks = model.frame_masks(ours.memory_FCHW, attention, ours.levels)
    for n in range(QUERIES):
        expected = literal.bbox_attention(decoded[n], ours.memory_FCHW[0])
        assert_near(attention[0, n], expected)
        assert_near(masks[0, n], literal.mask_head(ours.memory_FCHW[0], expected, [level[0] for level in ours.levels]))


@torch.no_grad()
def test_on_a_clip_a_converted_vistr_is_the_published_one():
    """Masks included, with the offsets of its deformable convolution at zero."""
    literal = literal_segmenter("vistr")
    literal.mask_head.conv_offset.bias.data.zero_()
    model, conversion = converted(literal.state_dict(), frames=FRAMES)
    assert outcomes(conversion, "left at init") == {"frame_masks.convs.4.bias": "nothing was published"}
    assert not outcomes(conversion, "cut")
    assert not [name for name in outcomes(conversion, "dropped") if not name.endswith("num_batches_tracked")]

    frames, pixels, position = clip(FRAMES)
    features, memory, decoded, logits, boxes = literal.vistr(pixels, position)
    ours = model(frames.unsqueeze(0))
    memory_TCHW = memory.view(FRAMES, HEIGHT // 32, WIDE // 32, WIDTH).permute(0, 3, 1, 2)
    masks = model.mask_logits(ours)
    for n in range(QUERIES):
        sequence = []
        for t in range(FRAMES):
            at = t * QUERIES + n  # frame after frame
            assert_near(ours.logits_DBNTK[-1, 0, n, t], logits[at])
            assert_near(ours.boxes_DBNT4[-1, 0, n, t], to_pixels(boxes[at]))
            attention = literal.bbox_attention(decoded[at], memory_TCHW[t])
            sequence.append(literal.mask_head(memory_TCHW[t], attention, [feature[t] for feature in features[:3]]))
        expected = literal.insmask_head(torch.stack(sequence, dim=1).unsqueeze(0))[0, 0]
        assert_near(masks[0, n], expected)


def detector(queries=QUERIES, rows=CLASSES + 1, width=WIDTH):
    """A box DETR by name."""
    torch.manual_seed(1)
    return LiteralDETR(width, queries, rows).state_dict()


def vistr_weights(queries, rows=CLASSES + 1):
    return {f"vistr.{name}": value for name, value in detector(queries, rows).items()} | {
        "insmask_head.0.weight": torch.zeros(WIDTH // 32, WIDTH // 16, 3, 3, 3)}


def test_of_a_detr_of_another_width_the_backbone_is_taken_alone():
    conversion = convert_vistr(detector(width=256), vistr(), where="test")
    assert set(outcomes(conversion, "loaded")) == {name for name in conversion.weights if name.startswith("body.")}
    dropped = outcomes(conversion, "dropped")
    # This holds even if a shape would fit by chance: the four box coordinates, the inner width of the feed-forward part.
    for name in ("bbox_embed.layers.2.bias", "transformer.encoder.layers.0.linear1.bias", "query_embed.weight"):
        assert dropped[name] == "256 wide there, 384 here"
    assert set(outcomes(conversion, "left at init").values()) == {"what was published is 256 wide"}
    own = vistr().state_dict()
    assert all(torch.equal(value, own[name]) for name, value in conversion.weights.items() if not name.startswith("body."))
    assert set(conversion.weights) == set(own)


def test_every_tensor_has_one_fate():
    published = literal_segmenter("vistr").state_dict()
    conversion = convert_vistr(published, vistr(encoder_layers=1, decoder_layers=3), where="test")
    own = vistr(encoder_layers=1, decoder_layers=3).state_dict()
    reached = [fate.name for fate in conversion.fates if fate.outcome in ("loaded", "cut")]
    dropped, left = outcomes(conversion, "dropped"), outcomes(conversion, "left at init")
    assert sorted([*reached, *left]) == sorted(own) and len(reached) + len(dropped) == len(published)
    assert dropped["vistr.transformer.encoder.layers.1.norm1.bias"] == "this network has only 1 encoder layers"
    assert left["decoder.2.ffn.norm.weight"] == "nothing was published"
    assert dropped["vistr.backbone.0.body.bn1.num_batches_tracked"] == "frozen BatchNorm counts no batches"


@pytest.mark.parametrize("names", ["", "detr.", "vistr.", "module.", "module.detr."])
def test_a_detr_is_known_under_all_its_names(names):
    plain = convert_vistr(detector(), vistr(), where="test")
    conversion = convert_vistr({names + name: value for name, value in detector().items()}, vistr(), where="test")
    assert conversion.source == "DETR"
    assert all(torch.equal(value, plain.weights[name]) for name, value in conversion.weights.items())


def test_an_imagenet_backbone():
    published = published_weights(BODY)
    conversion = convert_vistr(published, vistr(), where="test")
    assert torch.equal(conversion.weights["body.layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])
    assert set(outcomes(conversion, "loaded")) == {name for name in conversion.weights if name.startswith("body.")}
    assert outcomes(conversion, "dropped")["fc.weight"] == "ImageNet's classifier"
    assert set(outcomes(conversion, "left at init").values()) == {"nothing was published"}


def test_queries_of_a_detr_are_the_same_in_all_frames():
    published = detector(queries=5)
    conversion = convert_vistr(published, vistr(clip_length=2), where="test")
    assert outcomes(conversion, "cut") == {"query_NTC": "the first 3 of 5 queries"}
    for t in range(2):
        assert torch.equal(conversion.weights["query_NTC"][:, t], published["query_embed.weight"][:3])


@pytest.mark.parametrize("per_frame, frames, reason", [
    (QUERIES, PUBLISHED_FRAMES, ""),
    (QUERIES, 1, "36 frames averaged to 1"),
    (QUERIES, 2, "36 frames averaged to 2"),
])
def test_queries_of_a_vistr(per_frame, frames, reason):
    published = vistr_weights(per_frame * PUBLISHED_FRAMES)
    conversion = convert_vistr(published, vistr(clip_length=frames), where="test")
    by_frame = published["vistr.query_embed.weight"].view(PUBLISHED_FRAMES, per_frame, WIDTH)
    share = PUBLISHED_FRAMES // frames
    for n in range(QUERIES):
        for t in range(frames):
            expected = by_frame[t * share: (t + 1) * share, n].mean(dim=0)
            torch.testing.assert_close(conversion.weights["query_NTC"][n, t], expected, atol=1e-6, rtol=1e-6)
    fate = next(fate for fate in conversion.fates if fate.name == "query_NTC")
    assert (fate.outcome, fate.reason) == ("cut" if reason else "loaded", reason)


@pytest.mark.parametrize("published, reason", [
    (lambda: detector(queries=2), "2 queries per frame are fewer than 3"),
    (lambda: vistr_weights(40), "40 queries are no multiple of 3 per frame"),
])
def test_queries_that_do_not_fit_stay_out(published, reason):
    conversion = convert_vistr(published(), vistr(), where="test")
    name = next(name for name in published() if name.endswith("query_embed.weight"))
    assert outcomes(conversion, "dropped")[name] == reason and "query_NTC" in outcomes(conversion, "left at init")


def test_class_layers():
    assert "class_logits.weight" in outcomes(convert_vistr(detector(), vistr(), where="test"), "loaded")
    dropped = outcomes(convert_vistr(detector(rows=92), vistr(), where="test"), "dropped")
    assert dropped["class_embed.weight"] == dropped["class_embed.bias"] == "92 class rows there, 6 here"


@pytest.mark.parametrize("extra", [0, 1])
def test_the_rows_of_a_vistr_say_whether_absence_has_one(extra):
    published = vistr_weights(QUERIES * 6, rows=CLASSES + 1 + extra)
    config = published_form(published, vistr().config, where="test")
    assert (config.absent_row, config.clip_length) == (extra == 1, 6)
    conversion = convert_vistr(published, build_vistr(config), where="test")
    for part in ("weight", "bias"):
        assert torch.equal(conversion.weights[f"class_logits.{part}"], published[f"vistr.class_embed.{part}"])


@pytest.mark.parametrize("queries, rows, name", [(QUERIES, CLASSES + 3, "class_embed.bias"), (40, CLASSES + 1, "query_embed")])
def test_a_vistr_of_other_classes_or_queries_is_an_error(queries, rows, name):
    with pytest.raises(UserError, match=name) as error:
        published_form(vistr_weights(queries, rows), vistr().config, where="start.pth")
    assert error.value.where == "start.pth"


def test_other_files_leave_the_form_as_it_is():
    assert published_form(detector(rows=92), vistr().config, where="test") == vistr().config


@pytest.mark.parametrize("published, changes, key, problem", [
    (lambda: {"encoder.weight": torch.zeros(2)}, {}, "encoder.weight", "no known network"),
    (lambda: published_weights("resnet50"), {}, "body.layer1.0", "not this network's. Set vistr.model.backbone"),
    (lambda: detector(), {"ffn_dim": 32}, "encoder.0.ffn.linear1.weight", "has shape"),
    (lambda: literal_segmenter("detr").state_dict(), {"attention_heads": 12}, "frame_masks.convs.0.weight", "has shape"),
    (lambda: detector() | {"transformer.encoder.norm.weight": torch.ones(WIDTH)}, {}, "transformer.encoder.norm.weight",
     "normalises before"),
])
def test_another_network_is_an_error(published, changes, key, problem):
    with pytest.raises(UserError, match=problem) as error:
        convert_vistr(published(), vistr(**changes), where="start.pth")
    assert error.value.key.startswith(key) and error.value.where == "start.pth"
