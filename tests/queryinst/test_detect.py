"""Detections of single frames: which pairs, in which pixels, with which masks; and those of ../shared/oracle/queryinst."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.builders import tiny_model
from support.models import noise, put
from support.queryinst import ORACLE, PICTURES, needs_oracle, oracle_weights, tiny_queryinst

import effvis
from effvis.data.dataset import Category
from effvis.data.masks import decode
from effvis.errors import UserError
from effvis.methods import build_model
from effvis.model.paste import paste_masks
from pipeline import methods
from pipeline.methods.base import Classes
from pipeline.weights.convert import read

FRAME = noise(1, 40, 60)[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return put(tmp_path_factory.mktemp("models") / "small", tiny_queryinst(), input_size={"shorter": 32, "longer": 90})


def test_every_pair_of_proposal_and_class_is_a_detection_the_best_first(small):
    found = effvis.load(small).detect(FRAME)
    assert len(found.scores) == 12 and (np.diff(found.scores) <= 0).all()
    pairs = set(zip(found.proposals.tolist(), found.labels.tolist(), strict=True))
    assert pairs == {(n, k) for n in range(4) for k in range(3)}
    assert found.boxes.shape == (12, 4) and found.masks.shape == (12, 40, 60) and found.masks.dtype == bool


def test_a_hundred_are_given_at_most(tmp_path):
    model = tiny_queryinst(num_classes=5, queries=30)
    found = effvis.load(put(tmp_path / "many", model)).detect(FRAME)
    with torch.inference_mode():
        scores = model(model.features(resized(FRAME, 32, 48)))[-1].logits_BNTK.sigmoid().flatten()
    np.testing.assert_array_equal(found.scores, np.sort(scores.numpy())[::-1][:100])


def resized(frame, height, width):
    image = np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None, None]


@pytest.mark.parametrize("resize", [True, False])
def test_each_is_what_the_network_says_of_its_proposal_and_class(small, resize):
    """With the frame resized to 32x48 by the model's rule, or as it is; boxes and masks in pixels of the frame given."""
    network = effvis.load(small).model
    found = effvis.load(small).detect(FRAME, resize=resize)
    size = (32, 48) if resize else FRAME.shape[:2]
    with torch.inference_mode():
        features = network.features(resized(FRAME, *size))
        output = network(features)[-1]
        for n, k, score, box, mask in zip(
                found.proposals, found.labels, found.scores, found.boxes, found.masks, strict=True):
            assert score == output.logits_BNTK[0, n, 0, k].sigmoid()
            theirs = output.boxes_BNT4[0, n, 0] * (FRAME.shape[0] / size[0])
            torch.testing.assert_close(torch.from_numpy(box), theirs)
            chosen = torch.tensor([[n]]), torch.tensor([[k]])
            logits = network.mask_logits(features, output, *chosen)[0, 0]
            values = paste_masks(logits.sigmoid(), theirs[None], FRAME.shape[:2])[0].numpy()
            clear = abs(values - 0.5) > 1e-4
            np.testing.assert_array_equal(mask[clear], values[clear] >= 0.5)


def test_boxes_are_not_clipped(tmp_path):
    model = tiny_queryinst()
    model.proposal_NT4.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]))
    boxes = effvis.load(put(tmp_path / "beyond", model)).detect(FRAME).boxes
    assert (boxes[:, :2] < 0).all()


def test_pictures_and_arrays_are_the_same_frame(small):
    network = effvis.load(small)
    one, other = network.detect(FRAME), network.detect(Image.fromarray(FRAME))
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name))


def test_the_fast_network_detects_the_same(small):
    plain, fast = (effvis.load(small, fast=fast).detect(FRAME) for fast in (False, True))
    np.testing.assert_allclose(fast.scores, plain.scores, atol=1e-5)
    assert (fast.masks == plain.masks).mean() > 0.999


def test_what_is_no_frame_and_what_needs_a_clip_is_refused(small, tmp_path):
    with pytest.raises(UserError, match=r"frame: is float64 \(40, 60, 3\), not an RGB frame"):
        effvis.load(small).detect(FRAME / 255)
    with pytest.raises(UserError, match="efficientvis finds nothing in a single frame"):
        effvis.load(put(tmp_path / "clips", tiny_model(1))).detect(FRAME)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A model folder of the checkpoint that the oracle's weights.py saves."""
    folder = tmp_path_factory.mktemp("published")
    oracle_weights().save(folder / "queryinst.pth", ORACLE / "queryinst_names.json")
    weights, method = read(folder / "queryinst.pth"), methods.get("queryinst")
    torch.manual_seed(0)
    conversion = method.convert(
        weights.tensors, method.settings(), Classes(80, published=weights.classes), None, folder / "queryinst.pth", "")
    assert {fate.outcome for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")} == {"loaded"}
    model = build_model(method.settings().model.resolve(80, 1))
    model.load_state_dict(conversion.weights)
    labels = [vars(Category(number, f"class {number}")) for number in range(1, 81)]
    return effvis.load(put(folder / "model", model, labels=labels, input_size={"shorter": 800, "longer": 1333}))


@needs_oracle
@pytest.mark.parametrize("picture", PICTURES)
def test_a_published_model_s_detections_are_the_reference_s(published, picture):
    weights = oracle_weights()
    found = published.detect(weights.picture(*weights.PICTURES[picture]), resize=False)
    assert len(found.scores) == 100
    pairs = list(zip(found.proposals.tolist(), found.labels.tolist(), strict=True))
    with np.load(ORACLE / "cases.npz") as cases:
        theirs = {name: cases[f"{picture}/queryinst/detections/{name}"] for name in (
            "scores", "labels", "proposals", "boxes", "rle")}
    size = weights.PICTURES[picture][:2]
    np.testing.assert_allclose(found.scores[:20], np.sort(theirs["scores"])[::-1], atol=1e-3)
    for score, label, proposal, box, rle in zip(*(theirs[name] for name in (
            "scores", "labels", "proposals", "boxes", "rle")), strict=True):
        place = pairs.index((proposal, label))
        assert abs(found.scores[place] - score) < 1e-3
        np.testing.assert_allclose(found.boxes[place], box, atol=1e-2 * abs(theirs["boxes"]).max())
        mask, ours = decode({"size": list(size), "counts": rle.decode()}).astype(bool), found.masks[place]
        assert (ours & mask).sum() >= 0.99 * (ours | mask).sum()
