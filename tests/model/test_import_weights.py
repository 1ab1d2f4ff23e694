"""Published weights find their places: small checkpoints, made here with the published names and kinds of shapes."""

import argparse
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from support.published_detectors import detector
from support.published_weights import (
    INNER,
    MASK_ROI,
    ROI,
    STAGES,
    WIDTH,
    Harmful,
    command_in,
    network,
    published_weights,
)

import effvis
from effvis.errors import UserError
from effvis.model.categories import COCO
from effvis.model.convert import convert
from effvis.model.efficientvis import EfficientVIS


def outcomes(conversion, outcome):
    return {fate.name: fate.reason for fate in conversion.fates if fate.outcome == outcome}


def norm(weights, at, x):
    return F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"])


def filtered(weights, at, query, regions):
    """The dynamic convolution of Sparse R-CNN, instance by instance: (N, P, C)."""
    out = []
    for q, region in zip(query, regions, strict=True):
        filters = weights[f"{at}.dynamic_layer.weight"] @ q + weights[f"{at}.dynamic_layer.bias"]
        first, second = filters[: WIDTH * INNER].view(WIDTH, INNER), filters[WIDTH * INNER:].view(INNER, WIDTH)
        out.append(norm(weights, f"{at}.norm_out", norm(weights, f"{at}.norm_in", region @ first).relu() @ second).relu())
    return torch.stack(out)


def literal_stage(weights, stage, query, regions):
    """Sparse R-CNN's head on one image from a published state dict: refined query, class logits, box deltas."""
    at = f"roi_head.bbox_head.{stage}"
    attention = torch.nn.MultiheadAttention(WIDTH, 2)
    attention.load_state_dict({name: weights[f"{at}.attention.attn.{name}"] for name in attention.state_dict()})
    query = norm(weights, f"{at}.attention_norm", query + attention(query, query, query)[0])
    x = filtered(weights, f"{at}.instance_interactive_conv", query, regions).flatten(1)
    x = F.linear(x, weights[f"{at}.instance_interactive_conv.fc_layer.weight"],
                 weights[f"{at}.instance_interactive_conv.fc_layer.bias"])
    x = norm(weights, f"{at}.instance_interactive_conv.fc_norm", x).relu()
    query = norm(weights, f"{at}.instance_interactive_conv_norm", query + x)
    x = F.linear(query, weights[f"{at}.ffn.layers.0.0.weight"], weights[f"{at}.ffn.layers.0.0.bias"]).relu()
    x = F.linear(x, weights[f"{at}.ffn.layers.1.weight"], weights[f"{at}.ffn.layers.1.bias"])
    query = norm(weights, f"{at}.ffn_norm", query + x)
    heads = []
    for tower, depth, last in (("cls_fcs", 1, "fc_cls"), ("reg_fcs", 3, "fc_reg")):
        x = query
        for k in range(depth):
            x = norm(weights, f"{at}.{tower}.{3 * k + 1}", x @ weights[f"{at}.{tower}.{3 * k}.weight"].T).relu()
        heads.append(F.linear(x, weights[f"{at}.{last}.weight"], weights[f"{at}.{last}.bias"]))
    return query, *heads


def literal_masks(weights, stage, query, regions):
    """QueryInst's mask head with its BatchNorm in evaluation: (N, K, S, S)."""
    at = f"roi_head.mask_head.{stage}"
    x = filtered(weights, f"{at}.instance_interactive_conv", query, regions).transpose(1, 2)
    x = F.conv2d(x.reshape(-1, WIDTH, MASK_ROI, MASK_ROI), weights[f"{at}.convs.0.conv.weight"],
                 weights.get(f"{at}.convs.0.conv.bias"), padding=1)
    bn = f"{at}.convs.0.bn"
    x = F.batch_norm(x, weights[f"{bn}.running_mean"], weights[f"{bn}.running_var"], weights[f"{bn}.weight"],
                     weights[f"{bn}.bias"]).relu()
    x = F.conv_transpose2d(x, weights[f"{at}.upsample.weight"], weights[f"{at}.upsample.bias"], stride=2).relu()
    return F.conv2d(x, weights[f"{at}.conv_logits.weight"], weights[f"{at}.conv_logits.bias"])


@pytest.mark.parametrize("bias", [False, True])
def test_on_single_frames_a_converted_network_is_the_published_one(bias):
    # One class, so that class and mask layers are used too; spatial attention, because theirs is spatial only.
    published, model = detector("mmdetection", classes=1), network(num_classes=1, attention="spatial")
    if bias:
        # Before a BatchNorm, mmdetection's convolutions have no bias; those of QueryInst's own repository have one.
        published |= {f"roi_head.mask_head.{stage}.convs.0.conv.bias": torch.randn(WIDTH) for stage in range(STAGES)}
    conversion = convert(published, model, where="test")
    assert not outcomes(conversion, "left at init")
    assert all("counts no batches" in reason for reason in outcomes(conversion, "dropped").values())
    model.load_state_dict(conversion.weights)
    regions = torch.randn(4, ROI**2, WIDTH)
    mask_regions = torch.randn(4, MASK_ROI**2, WIDTH)
    query = torch.randn(4, WIDTH)
    for stage in range(STAGES):
        with torch.no_grad():
            expected = literal_stage(published, stage, query, regions)
            ours = model.interactions[stage](query.view(1, 4, 1, WIDTH), regions.view(1, 4, 1, -1, WIDTH))
            for value, wanted in zip(ours[:3], expected, strict=True):
                torch.testing.assert_close(value.view(wanted.shape), wanted, atol=1e-5, rtol=1e-5)
            masks = model.mask_heads[stage](query.view(1, 4, 1, WIDTH), mask_regions.view(1, 4, 1, -1, WIDTH),
                                            torch.zeros(1, 4, 1, dtype=torch.long))
            torch.testing.assert_close(
                masks.view(4, 1, 8, 8), literal_masks(published, stage, query, mask_regions), atol=1e-5, rtol=1e-4)
    assert torch.equal(model.query_NTC[:, 0], published["rpn_head.init_proposal_features.weight"][:4])
    assert torch.equal(model.proposal_NT4[:, 0], published["rpn_head.init_proposal_bboxes.weight"][:4])
    for level in range(4):
        for ours, theirs in ((model.backbone.fpn.lateral, "lateral_convs"), (model.backbone.fpn.output, "fpn_convs")):
            assert torch.equal(ours[level].weight, published[f"neck.{theirs}.{level}.conv.weight"])
            assert torch.equal(ours[level].bias, published[f"neck.{theirs}.{level}.conv.bias"])
    assert torch.equal(model.backbone.body.layer3[0].downsample[1].running_mean,
                       published["backbone.layer3.0.downsample.1.running_mean"])


def test_both_projects_names_mean_the_same():
    there, here = (convert(detector(style), network(), where="test") for style in ("mmdetection", "detectron2"))
    masks = {name for name in here.weights if name.startswith("mask_heads.")}
    assert {name for name in here.weights if not torch.equal(here.weights[name], there.weights[name])} <= masks
    assert masks <= set(outcomes(here, "left at init"))


def test_what_does_not_fit_is_said():
    published = detector("mmdetection")
    conversion = convert(published, network(iterations=1), where="test")
    dropped, left = outcomes(conversion, "dropped"), outcomes(conversion, "left at init")
    assert dropped["roi_head.bbox_head.0.fc_cls.weight"] == "80 classes there, 3 here"
    assert dropped["roi_head.bbox_head.1.fc_reg.weight"] == "this network has only 1 iterations"
    assert outcomes(conversion, "cut") == dict.fromkeys(
        ("query_NTC", "proposal_NT4"), "the first 4 of 10 proposals") | dict.fromkeys(
        ("mask_heads.0.logits.weight", "mask_heads.0.logits.bias"), "the mean of 80 masks, one per class")
    for part in ("weight", "bias"):
        masks = published[f"roi_head.mask_head.0.conv_logits.{part}"]
        torch.testing.assert_close(conversion.weights[f"mask_heads.0.logits.{part}"], masks.sum(dim=0, keepdim=True) / 80)
    assert left["interactions.0.attention.temporal.norm.weight"] == "images have no time"
    assert set(left) == {name for name in conversion.weights if ".temporal." in name or ".class_logits." in name}
    # Nothing is lost: every tensor of ours and every published one has exactly one fate.
    reached = set(outcomes(conversion, "loaded")) | set(outcomes(conversion, "cut")) | set(left)
    assert reached == set(conversion.weights)


def test_classes_are_carried_over_by_name():
    published = detector("mmdetection")
    names = ("giant_panda", "motorbike", "mouse", "Person")  # COCO's mouse is no animal
    model = network(num_classes=4, mask_classes="specific")
    conversion = convert(published, model, where="test", categories=names)
    cut = outcomes(conversion, "cut")
    own, at = model.state_dict(), "roi_head.bbox_head.0.fc_cls.weight"
    classes, masks = (conversion.weights[f"{name}.weight"] for name in ("interactions.0.class_logits", "mask_heads.0.logits"))
    assert cut["interactions.0.class_logits.weight"] == cut["mask_heads.0.logits.bias"] == "2 of 4 classes, by name"
    assert torch.equal(classes[[1, 3]], published[at][[3, 0]])
    assert torch.equal(classes[[0, 2]], own["interactions.0.class_logits.weight"][[0, 2]])
    theirs = published["roi_head.mask_head.0.conv_logits.weight"]
    assert torch.equal(masks[[1, 3]], theirs[[3, 0]])
    torch.testing.assert_close(masks[[0, 2]], theirs.mean(dim=0).expand(2, -1, -1, -1))
    with pytest.raises(UserError, match="there are 1, the network has 4") as error:
        convert(published, model, where="start.pth", categories=names[:1])
    assert error.value.key == "categories"


def test_coco_itself_keeps_all_its_classes():
    published = detector("mmdetection")
    for names in ((), COCO):
        weights = convert(published, network(num_classes=80, mask_classes="specific"), where="test", categories=names).weights
        assert torch.equal(weights["interactions.1.class_logits.weight"], published["roi_head.bbox_head.1.fc_cls.weight"])
        assert torch.equal(weights["mask_heads.1.logits.bias"], published["roi_head.mask_head.1.conv_logits.bias"])


def test_fewer_proposals_than_queries_stay_out():
    conversion = convert(detector("detectron2"), network(queries=11), where="test")
    assert outcomes(conversion, "dropped")["init_proposal_features.weight"] == "10 proposals are fewer than 11 queries"
    assert "query_NTC" in outcomes(conversion, "left at init")


def test_an_imagenet_backbone():
    published = published_weights("resnet18")
    conversion = convert({f"module.{name}": value for name, value in published.items()}, network(), where="test")
    assert torch.equal(conversion.weights["backbone.body.layer4.1.conv2.weight"], published["layer4.1.conv2.weight"])
    assert set(outcomes(conversion, "loaded")) == {name for name in conversion.weights if name.startswith("backbone.body.")}
    assert outcomes(conversion, "dropped")["fc.weight"] == "ImageNet's classifier"


@pytest.mark.parametrize("published, changes, key, problem", [
    (lambda: {"encoder.weight": torch.zeros(2)}, {}, "encoder.weight", "no known network"),
    (lambda: published_weights("resnet50"), {}, "backbone.body.layer1.0", "not this network's. Set model.backbone"),
    (lambda: published_weights("resnet18"), {"backbone": "tiny"}, "backbone.body", "not this network's"),
    (lambda: {name: value for name, value in published_weights("resnet18").items() if "layer2.1.bn1" not in name}, {},
     "backbone.body.layer2.1.bn1", "not this network's"),
    (lambda: detector("mmdetection"), {"roi_size": 5}, "interactions.0.gather.weight", "has shape"),
])
def test_another_network_is_an_error(published, changes, key, problem):
    with pytest.raises(UserError, match=problem) as error:
        convert(published(), network(**changes), where="start.pth")
    assert error.value.key.startswith(key) and error.value.where == "start.pth"


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run = command_in(tmp_path)
    return lambda file, out=tmp_path / "start.safetensors", *more: run(file, "--out", out, *more)


@pytest.mark.parametrize("style, part", [("mmdetection", "state_dict"), ("detectron2", "model")])
def test_the_command_writes_a_start_for_clips(command, tmp_path, capsys, style, part):
    torch.save({part: detector(style), "meta": {"epoch": 36}}, tmp_path / "published.pth")
    assert command(tmp_path / "published.pth", tmp_path / "start.safetensors", "--classes", "5") == 0
    shown = capsys.readouterr().out
    assert style in shown and "80 classes there, 5 here" in shown and "the first 4 of 10 proposals" in shown
    assert "interactions.*.attention.temporal" in shown and "left at init" in shown.splitlines()[-1]
    weights = load_file(tmp_path / "start.safetensors")
    clip = EfficientVIS(network(num_classes=3).config.model_copy(update={"clip_length": 3}))
    dropped = clip.load_initial(weights)
    assert dropped and all(".class_logits." in name for name in dropped)
    name = "rpn_head.init_proposal_features.weight" if style == "mmdetection" else "init_proposal_features.weight"
    assert torch.equal(clip.query_NTC[:, 0], detector(style)[name][:4])


def test_the_command_reads_safetensors_and_plain_state_dicts(command, tmp_path):
    weights = published_weights("resnet18")
    save_file(weights, tmp_path / "resnet18.safetensors")
    torch.save(weights, tmp_path / "resnet18.pth")
    assert command(tmp_path / "resnet18.safetensors", tmp_path / "a.safetensors") == 0
    assert command(tmp_path / "resnet18.pth", tmp_path / "b.safetensors") == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("new_format", [True, False])
def test_the_command_reads_both_formats_and_the_command_line_beside_the_weights(command, tmp_path, new_format):
    # mmdetection publishes in the format of PyTorch before 1.6; DETR and VisTR save their arguments too.
    weights = published_weights("resnet18")
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-4, masks=True)}, tmp_path / "checkpoint.pth",
               _use_new_zipfile_serialization=new_format)
    assert command(tmp_path / "checkpoint.pth") == 0
    assert torch.equal(load_file(tmp_path / "start.safetensors")["backbone.body.conv1.weight"], weights["conv1.weight"])


@pytest.mark.parametrize("beside", [Harmful(), argparse.Namespace(lr=Harmful())])
def test_no_code_is_unpickled(command, tmp_path, monkeypatch, beside):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": published_weights("resnet18"), "meta": beside}, tmp_path / "published.pth")
    with pytest.raises(UserError, match="holds no plain weights") as error:
        command(tmp_path / "published.pth")
    assert "published.pth" in error.value.where and "\n" not in error.value.problem
    assert not (tmp_path / "harm").exists() and not (tmp_path / "start.safetensors").exists()


@pytest.mark.parametrize("name, content, problem", [
    ("missing.pth", None, "cannot be read"),
    ("missing.safetensors", None, "cannot be read"),
    ("text.pth", b"not weights", "holds no plain weights"),
    ("empty.pth", b"", "holds no plain weights"),
    ("text.safetensors", b"not weights", "is not a safetensors file"),
])
def test_a_file_of_another_kind_is_an_error(command, tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        command(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {"epoch": 3}}, {}])
def test_a_checkpoint_without_tensors_is_an_error(command, tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no tensors"):
        command(tmp_path / "other.pth")


@pytest.mark.parametrize("meta", [
    {"CLASSES": ("a", "b", "c")}, {"dataset_meta": {"classes": ["a", "b", "c"], "palette": [[1, 2, 3]]}},
    {"dataset_meta": {"CLASSES": ("a", "b", "c")}}])
def test_a_folder_becomes_a_model_with_the_classes_that_the_file_names(command, tmp_path, meta):
    published = detector("mmdetection", classes=3)
    torch.save({"state_dict": published, "meta": meta}, tmp_path / "published.pth")
    assert command(tmp_path / "published.pth", tmp_path / "model") == 0
    loaded = effvis.load(tmp_path / "model")
    assert [(category.id, category.name) for category in loaded.categories] == [(1, "a"), (2, "b"), (3, "c")]
    assert loaded.model.config.num_classes == 3 and loaded.model.config.clip_length == 1
    assert torch.equal(loaded.model.interactions[1].class_logits.weight, published["roi_head.bbox_head.1.fc_cls.weight"])
    assert command(tmp_path / "published.pth", tmp_path / "start.safetensors", "--classes", "3") == 0
    start = load_file(tmp_path / "start.safetensors")
    assert all(torch.equal(value, start[name]) for name, value in loaded.model.state_dict().items())


def test_a_model_of_80_rows_without_names_has_cocos(command, tmp_path):
    published = detector("detectron2")
    torch.save({"model": published}, tmp_path / "published.pth")
    assert command(tmp_path / "published.pth", tmp_path / "model") == 0
    loaded = effvis.load(tmp_path / "model")
    assert tuple(category.name for category in loaded.categories) == COCO
    assert torch.equal(loaded.model.interactions[0].class_logits.bias, published["head.head_series.0.class_logits.bias"])


def test_a_model_has_both_of_two_classes_whose_names_mean_the_same(command, tmp_path):
    published = detector("mmdetection", classes=2)
    torch.save({"state_dict": published, "meta": {"CLASSES": ("car", "sedan")}}, tmp_path / "published.pth")
    assert command(tmp_path / "published.pth", tmp_path / "model") == 0
    loaded = effvis.load(tmp_path / "model")
    assert torch.equal(loaded.model.interactions[0].class_logits.weight, published["roi_head.bbox_head.0.fc_cls.weight"])


def test_a_folder_that_would_be_no_model_is_not_written(command, tmp_path):
    def refused(meta, *more, out=tmp_path / "model"):
        torch.save({"state_dict": detector("mmdetection", classes=3), "meta": meta}, tmp_path / "published.pth")
        with pytest.raises(UserError) as error:
            command(tmp_path / "published.pth", out, *more)
        assert not (tmp_path / "model" / "config.yaml").exists()
        return str(error.value)

    assert "names 4 classes, but class layers have 3 rows" in refused({"CLASSES": tuple("abcd")})
    assert "pipeline.index" in refused({}), "no names, and no data set to take them from"
    four = tmp_path / "four.json"
    four.write_text(json.dumps({"categories": [{"id": number, "name": name} for number, name in enumerate("abcd")]}))
    assert "no class layer for these 4 classes: a, b, c …" in refused({}, "--categories", four)
    assert "a model has those of its file, x, y, z" in refused({"CLASSES": tuple("xyz")}, "--categories", four)
    assert "--classes: 3: is for a start" in refused({"CLASSES": tuple("abc")}, "--classes", "3")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "--out: exists already" in refused({"CLASSES": tuple("abc")}, out=tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_the_output_has_to_be_a_safetensors_file_or_a_folder(command, tmp_path):
    torch.save(published_weights("resnet18"), tmp_path / "resnet18.pth")
    for out in (tmp_path / "start.pth", tmp_path / "nowhere" / "start.safetensors", tmp_path / "nowhere" / "model"):
        with pytest.raises(UserError, match="--out"):
            command(tmp_path / "resnet18.pth", out)
