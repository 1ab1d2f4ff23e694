"""A converted QueryInst computes what mmdetection's does: ../shared/oracle/queryinst has its numbers, from made-up weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effvis.config import ModelConfig
from effvis.data.masks import decode
from effvis.model.boxes import apply_deltas
from effvis.model.convert import convert
from effvis.model.efficientvis import EfficientVIS
from effvis.model.paste import paste_masks

CHECKOUT = Path(__file__).resolve().parents[2]
ORACLE = CHECKOUT.parent / "shared" / "oracle" / "queryinst"
NUMBERS = json.loads(Path(__file__).with_name("queryinst_numbers.json").read_text())
needs_oracle = pytest.mark.skipif(not (ORACLE / "cases.npz").is_file(), reason="there is no ../shared/oracle/queryinst")
PICTURES = ("320x480", "360x640")
PUBLISHED = dict(num_classes=80, clip_length=1, queries=100, backbone="resnet50", attention="spatial", mask_classes="specific")


@pytest.fixture(scope="module")
def weights_py():
    spec = importlib.util.spec_from_file_location("queryinst_weights", ORACLE / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases():
    with np.load(ORACLE / "cases.npz") as file:
        return dict(file)


def converted(weights_py, names, where="test"):
    model = EfficientVIS(ModelConfig(**PUBLISHED)).eval().requires_grad_(False)
    published = {name: torch.from_numpy(value) for name, value in weights_py.tensors(ORACLE / names).items()}
    conversion = convert(published, model, where=where)
    model.load_state_dict(conversion.weights)
    return model, conversion


@pytest.fixture(scope="module")
def queryinst(weights_py):
    model, conversion = converted(weights_py, "queryinst_names.json")
    useful = [fate for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")]
    assert {fate.outcome for fate in useful} == {"loaded"}
    return model


def frames(weights_py, picture):
    return torch.from_numpy(weights_py.picture(*weights_py.PICTURES[picture])).permute(2, 0, 1)[None, None]


@pytest.fixture(scope="module", params=PICTURES)
def computed(request, weights_py, queryinst):
    with torch.inference_mode():
        features = queryinst.features(frames(weights_py, request.param))
        return request.param, features, queryinst(features)


def assert_near(ours, theirs, share):
    theirs = torch.from_numpy(np.asarray(theirs))
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < share


@needs_oracle
def test_the_pyramid_is_that_of_padded_frames(computed, cases):
    picture, features, _ = computed
    for name, level, step in zip(("P2", "P3", "P4", "P5"), features.pyramid, (8, 4, 2, 1), strict=True):
        assert list(level.shape[1:]) == list(cases[f"{picture}/{name}_shape"])[-3:]
        assert_near(level[0, ::16, ::step, ::step], cases[f"{picture}/{name}"], 1e-3)


@needs_oracle
def test_the_input_is_padded_after_it_is_normalised(weights_py, cases, queryinst, monkeypatch):
    seen = []
    monkeypatch.setattr(queryinst.backbone, "forward", lambda pixels: seen.append(pixels) or [pixels])
    for picture in PICTURES:
        queryinst.features(frames(weights_py, picture))
        assert list(seen[-1].shape[-2:]) == list(cases[f"{picture}/input_shape"])[-2:]
        assert_near(seen[-1][0, :, ::13, ::13], cases[f"{picture}/input"], 1e-5)


@needs_oracle
def test_every_stage_gives_the_logits_and_boxes(computed, cases):
    picture, _, outputs = computed
    for stage, output in enumerate(outputs):
        assert_near(output.logits_BNTK[0, :, 0], cases[f"{picture}/queryinst/logits{stage}"], 1e-2)
        assert_near(output.boxes_BNT4[0, :, 0], cases[f"{picture}/queryinst/boxes{stage}"], 1e-2)


@needs_oracle
@pytest.mark.parametrize("stage", [0, 5])
def test_masks_are_those_of_the_best_classes(computed, cases, queryinst, stage):
    picture, features, outputs = computed
    chosen = torch.from_numpy(cases["mask_proposals"])[None]
    at = f"{picture}/queryinst"
    assert outputs[stage].best_classes()[0, chosen[0]].tolist() == cases[f"{at}/mask_classes{stage}"].tolist()
    with torch.inference_mode():
        masks = queryinst.mask_logits(features, outputs[stage], chosen)
    assert_near(masks[0, :, 0], cases[f"{at}/masks{stage}"], 1e-2)


@needs_oracle
def test_detections_have_the_scores_and_masks(weights_py, computed, cases, queryinst):
    picture, features, outputs = computed
    found = {name: cases[f"{picture}/queryinst/detections/{name}"] for name in
             ("scores", "labels", "proposals", "boxes", "mask_logits", "rle", "area")}
    proposals, labels = (torch.from_numpy(found[name]) for name in ("proposals", "labels"))
    last = outputs[-1]
    scores = last.logits_BNTK[0, proposals, 0, labels].sigmoid()
    assert float((scores - torch.from_numpy(found["scores"])).abs().max()) < 1e-3
    boxes = last.boxes_BNT4[0, proposals, 0]
    with torch.inference_mode():
        masks = queryinst.mask_logits(features, last, proposals[None], labels[None])[0, :, 0]
    assert_near(masks, found["mask_logits"], 1e-2)
    size = weights_py.PICTURES[picture][:2]
    for mask, rle, area in zip(paste_masks(masks.sigmoid(), boxes, size) >= 0.5, found["rle"], found["area"], strict=True):
        theirs = decode({"size": list(size), "counts": rle.decode()}).astype(bool)
        assert theirs.sum() == area
        ours = mask.numpy()
        assert (ours & theirs).sum() >= 0.99 * (ours | theirs).sum()


@needs_oracle
@pytest.mark.parametrize("names", ["sparse_rcnn_names.json", "sparse_rcnn_detectron2_names.json"])
def test_sparse_rcnn_is_the_same_without_masks(weights_py, queryinst, names):
    other, _ = converted(weights_py, names)
    own = queryinst.state_dict()
    for name, value in other.state_dict().items():
        assert name.startswith("mask_heads.") or torch.equal(value, own[name]), name


def test_boxes_are_decoded_with_the_clamp():
    boxes, deltas = (torch.tensor(NUMBERS["decode"][name]) for name in ("boxes", "deltas"))
    decoded = torch.tensor(NUMBERS["decode"]["decoded"])
    torch.testing.assert_close(apply_deltas(boxes, deltas), decoded, rtol=1e-5, atol=1e-2)
    assert (deltas[:, 2:].abs() > 4.2).any()


def test_a_mask_is_pasted_as_by_grid_sample():
    case = NUMBERS["pasted"]
    size = case["height"], case["width"]
    pasted = paste_masks(torch.tensor(case["mask_logits"])[None].sigmoid(), torch.tensor(case["box"])[None], size)[0] >= 0.5
    theirs = decode({"size": list(size), "counts": case["rle"]}).astype(bool)
    assert (pasted.numpy() & theirs).sum() >= 0.995 * (pasted.numpy() | theirs).sum()
