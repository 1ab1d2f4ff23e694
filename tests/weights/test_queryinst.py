"""A converted QueryInst computes what mmdetection's does: ../shared/oracle/queryinst has its numbers, from made-up weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.project import CHECKOUT
from support.queryinst import ORACLE, PICTURES, needs_oracle, oracle_weights

from effvis.config import ModelConfig
from effvis.data.masks import decode
from effvis.model.boxes import apply_deltas, cxcywh_to_xyxy
from effvis.model.convert import convert
from effvis.model.efficientvis import BaseFeatures, EfficientVIS
from effvis.model.paste import paste_masks
from pipeline import import_weights

NUMBERS = json.loads(Path(__file__).with_name("queryinst_numbers.json").read_text())
PUBLISHED = dict(num_classes=80, clip_length=1, queries=100, backbone="resnet50", attention="spatial", mask_classes="specific")


@pytest.fixture(scope="module")
def weights_py():
    return oracle_weights()


@pytest.fixture(scope="module")
def cases():
    with np.load(ORACLE / "cases.npz") as file:
        return dict(file)


def converted(published, **changes):
    model = EfficientVIS(ModelConfig(**(PUBLISHED | changes))).eval().requires_grad_(False)
    conversion = convert(published, model, where="test")
    model.load_state_dict(conversion.weights)
    return model, conversion


def tensors(weights_py, names):
    return {name: torch.from_numpy(value) for name, value in weights_py.tensors(ORACLE / names).items()}


@pytest.fixture(scope="module")
def published(weights_py):
    return tensors(weights_py, "queryinst_names.json")


@pytest.fixture(scope="module")
def queryinst(published):
    model, conversion = converted(published)
    useful = [fate for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")]
    assert {fate.outcome for fate in useful} == {"loaded"}
    return model


def frames(weights_py, picture):
    """The picture as a clip of one frame."""
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
@pytest.mark.parametrize("picture", PICTURES)
def test_the_pictures_are_those_of_the_numbers(weights_py, cases, picture):
    made = weights_py.picture(*weights_py.PICTURES[picture])
    assert hashlib.sha256(made.tobytes()).hexdigest() == str(cases[f"{picture}/picture_sha256"])


@needs_oracle
def test_the_pyramid_is_that_of_padded_frames(computed, cases):
    picture, features, _ = computed
    for name, level, step in zip(("P2", "P3", "P4", "P5"), features.pyramid, (8, 4, 2, 1), strict=True):
        assert list(level.shape[1:]) == cases[f"{picture}/{name}_shape"].tolist()
        assert_near(level[0, ::16, ::step, ::step], cases[f"{picture}/{name}"], 1e-3)


@needs_oracle
def test_the_input_is_padded_after_it_is_normalised(weights_py, cases, queryinst, monkeypatch):
    seen = []
    monkeypatch.setattr(queryinst.backbone, "forward", lambda pixels: seen.append(pixels) or [pixels])
    for picture in PICTURES:
        queryinst.features(frames(weights_py, picture))
        assert list(seen[-1].shape[1:]) == cases[f"{picture}/input_shape"].tolist()
        assert_near(seen[-1][0, :, ::13, ::13], cases[f"{picture}/input"], 1e-5)


@needs_oracle
def test_the_first_boxes_are_parts_of_the_unpadded_picture(computed, cases, queryinst):
    picture, features, _ = computed
    boxes = cxcywh_to_xyxy(queryinst.proposal_NT4[:, 0]) * features.size_B4
    assert_near(boxes, cases[f"{picture}/boxes_initial"], 1e-6)


@needs_oracle
def test_every_stage_gives_the_logits_and_boxes(computed, cases):
    picture, _, outputs = computed
    assert len(outputs) == 6
    for stage, output in enumerate(outputs):
        assert_near(output.logits_BNTK[0, :, 0], cases[f"{picture}/queryinst/logits{stage}"], 1e-2)
        assert_near(output.boxes_BNT4[0, :, 0], cases[f"{picture}/queryinst/boxes{stage}"], 1e-2)
    for stage in (0, 5):
        assert_near(outputs[stage].logits_BNTK[0, :, 0], cases[f"{picture}/sparse_rcnn/logits{stage}"], 1e-2)
        assert_near(outputs[stage].boxes_BNT4[0, :, 0], cases[f"{picture}/sparse_rcnn/boxes{stage}"], 1e-2)


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
    # They are the best of all pairs of proposals and classes, with no suppression; equal scores have no order.
    every = last.logits_BNTK[0, :, 0].sigmoid().flatten()
    assert_near(every.topk(20).values, np.sort(found["scores"])[::-1].copy(), 1e-3)
    certain = found["scores"] > found["scores"].min() + 2e-3
    best = set(every.topk(20).indices.tolist())
    assert set((proposals * 80 + labels)[torch.from_numpy(certain)].tolist()) <= best
    boxes = last.boxes_BNT4[0, proposals, 0]
    assert_near(boxes, found["boxes"], 1e-2)
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
    other, _ = converted(tensors(weights_py, names))
    own = queryinst.state_dict()
    for name, value in other.state_dict().items():
        assert name.startswith("mask_heads.") or torch.equal(value, own[name]), name


@needs_oracle
def test_the_command_makes_the_same_network_of_the_file(weights_py, queryinst, tmp_path, capsys):
    """From a checkpoint in the form of the published ones to the weights that a training starts from."""
    weights_py.save(tmp_path / "queryinst.pth", ORACLE / "queryinst_names.json")
    assert import_weights.main([
        "--params", str(CHECKOUT / "params.yaml"), str(tmp_path / "queryinst.pth"), "--classes", "80",
        "--out", str(tmp_path / "start.safetensors"), *(part for setting in (
            "queries=100", "attention=spatial", "mask_classes=specific") for part in ("-S", f"model.{setting}"))]) == 0
    assert "left at init" in capsys.readouterr().out
    start, own = load_file(tmp_path / "start.safetensors"), queryinst.state_dict()
    assert start.keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in start.items())


@needs_oracle
def test_a_clips_network_of_three_frames_starts_as_the_published_one(weights_py, cases, published, queryinst):
    """Attention over time returns its input before its first step: on different frames the network is the spatial one, exactly,
    and on three copies of a picture, where neighbours are the frame itself, it has the reference numbers in each."""
    clip, conversion = converted(published, clip_length=3, attention="ftsa")
    assert {fate.outcome for fate in conversion.fates if ".temporal." in fate.name} == {"left at init"}
    spatial = EfficientVIS(queryinst.config.model_copy(update={"clip_length": 3})).eval().requires_grad_(False)
    assert spatial.load_initial(queryinst.state_dict()) == []
    chosen = torch.from_numpy(cases["mask_proposals"])[None]
    with torch.inference_mode():
        picture = frames(weights_py, "320x480")
        parts = torch.cat([picture[..., y: y + 96, x: x + 128] for y, x in ((0, 0), (96, 128), (200, 300))], dim=1)
        features = clip.features(parts)
        for one, other in zip(spatial(features), clip(features), strict=True):
            for name in ("logits_BNTK", "boxes_BNT4", "query_BNTC", "mask_query_BNTC"):
                assert torch.equal(getattr(one, name), getattr(other, name)), (one.stage, name)
            masks = (model.mask_logits(features, output, chosen) for model, output in ((spatial, one), (clip, other)))
            assert torch.equal(*masks)
        whole = clip.features(picture)
        copies = BaseFeatures([level.expand(3, -1, -1, -1) for level in whole.pyramid], 1, 3, whole.size_B4)
        for stage, output in enumerate(clip(copies)):
            masks = clip.mask_logits(copies, output, chosen) if stage in (0, 5) else None
            for t in range(3):
                assert_near(output.logits_BNTK[0, :, t], cases[f"320x480/queryinst/logits{stage}"], 1e-2)
                assert_near(output.boxes_BNT4[0, :, t], cases[f"320x480/queryinst/boxes{stage}"], 1e-2)
                if masks is not None:
                    assert_near(masks[0, :, t], cases[f"320x480/queryinst/masks{stage}"], 1e-2)


@needs_oracle
def test_the_numbers_of_box_decoding_are_the_oracles(cases):
    for name, numbers in NUMBERS["decode"].items():
        np.testing.assert_allclose(numbers, cases[f"decode/{name}"], rtol=1e-6)


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
