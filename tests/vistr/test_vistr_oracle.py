"""VisTR equals its authors' code in numbers: their stored outputs for weights that anybody can rebuild."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from effvis.config import InferenceConfig
from effvis.data.targets import ClipTargets, stack_targets
from effvis.training.matching import match
from effvis.vistr.clip import encode_masks, predict_clip
from effvis.vistr.config import VisTRConfig, VisTRLossWeights
from effvis.vistr.convert import convert_vistr, published_form
from effvis.vistr.losses import clip_losses, matching_costs
from effvis.vistr.model import build_vistr

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "vistr"
pytestmark = pytest.mark.skipif(not ORACLE.is_dir(), reason="../shared/oracle/vistr is absent")


@pytest.fixture(scope="module")
def cases():
    return np.load(ORACLE / "cases.npz")


@pytest.fixture(scope="module")
def model():
    spec = importlib.util.spec_from_file_location("oracle_weights", ORACLE / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    published = {name: torch.from_numpy(value) for name, value in weights.tensors().items()}
    config = published_form(published, VisTRConfig(num_classes=40, clip_length=1), where="oracle")
    assert config.absent_row and config.clip_length == 6
    network = build_vistr(config)
    network.load_state_dict(convert_vistr(published, network, where="oracle").weights)
    return network.eval()


@pytest.fixture(scope="module", params=["a"])
def computed(request, cases, model):
    frames = torch.from_numpy(cases[f"{request.param}/frames"])
    with torch.no_grad():
        output = model(frames[None])
        return request.param, frames, output, model.mask_logits(output)[0]


def near(ours, theirs, tolerance):
    assert np.abs(np.asarray(ours, dtype=np.float64) - theirs).max() <= tolerance


def test_outputs(cases, computed):
    """Queries are frame after frame there."""
    clip, _, output, masks = computed
    near(output.logits_DBNTK[:, 0].transpose(1, 2).flatten(1, 2), cases[f"{clip}/logits"], 1e-3)
    xyxy = output.boxes_DBNT4[:, 0].transpose(1, 2).flatten(1, 2) / torch.tensor([output.width, output.height] * 2)
    boxes = torch.cat(((xyxy[..., :2] + xyxy[..., 2:]) / 2, xyxy[..., 2:] - xyxy[..., :2]), dim=-1)
    near(boxes, cases[f"{clip}/boxes"], 2e-5)
    near(masks.transpose(0, 1).flatten(0, 1), cases[f"{clip}/mask_logits"], 3e-4)


@pytest.mark.parametrize("kind", ["full", "part"])
def test_costs_and_losses(cases, model, computed, kind):
    clip, frames, output, _ = computed
    case = {name: cases[f"{clip}/{kind}/{name}"] for name in (
        "labels", "present", "boxes", "masks", "cost_class", "cost_l1", "cost_iou", "assignment", "loss_ce", "loss_bbox",
        "loss_giou", "loss_mask", "loss_dice", "weighted_total")}
    targets = ClipTargets(
        torch.arange(3), torch.from_numpy(case["labels"]).long() - 1, torch.from_numpy(case["present"]).bool(),
        torch.from_numpy(case["boxes"]).float(), torch.from_numpy(case["masks"]).bool())
    size = torch.tensor([output.width, output.height] * 2)
    costs = matching_costs(output.logits_DBNTK, output.boxes_DBNT4, stack_targets([targets]), size, absent_row=True)
    for name, ours in zip(("cost_class", "cost_l1", "cost_iou"), costs, strict=True):
        near(ours[:, 0], case[name], 3e-5)
    total = costs[0] + 5 * costs[1] + 2 * costs[2]
    assert [match(layer[0].numpy()).tolist() for layer in total] == case["assignment"].tolist()
    with torch.no_grad():
        losses = clip_losses(model, frames[None], [targets], VisTRLossWeights())
    near(losses["category"], case["loss_ce"].sum(), 6e-4)
    near(losses["l1"], 5 * case["loss_bbox"].sum(), 1.5e-4)
    near(losses["giou"], 2 * case["loss_giou"].sum(), 6e-5)
    near(losses["focal"], case["loss_mask"], 5e-6)
    near(losses["dice"], case["loss_dice"], 5e-6)
    near(sum(losses.values()), case["weighted_total"], 1e-3)


def test_masks_at_the_size_of_the_video(cases, model, computed):
    clip, frames, *_ = computed
    size = tuple(cases[f"{clip}/video_size"].tolist())
    found = predict_clip(model, frames, size, InferenceConfig(presence_threshold=0.001))
    different = 0
    for row, n in enumerate(cases[f"{clip}/video/query"]):
        for t in range(6):
            theirs, ours = bytes(cases[f"{clip}/video/rle"][row, t]), found.rles[n][t]
            assert bool(theirs) == (ours is not None)
            if theirs:
                different += int((coco_mask.decode({"size": list(size), "counts": theirs}) != coco_mask.decode(ours)).sum())
    assert different <= 100
    dropped = set(range(10)) - set(cases[f"{clip}/video/query"].tolist())
    assert not any(found.present_NT[n].any() for n in dropped)


@torch.no_grad()
def test_a_tracklet_without_any_pixel_is_dropped(cases, model, computed):
    clip, _, output, masks = computed
    lowered = masks.clone()
    lowered[3] -= 20
    present = output.logits_DBNTK[-1, 0].softmax(dim=-1)[..., :-1].amax(dim=-1) >= 0.001
    encode_masks(lambda _, chosen: lowered[chosen[0]].unsqueeze(0), output, present, (192, 320), 0.5)
    assert not present[3].any()
    assert 3 not in cases[f"{clip}/lowered/query"] and len(cases[f"{clip}/lowered/query"]) == 9
    assert all(present[n].any() for n in cases[f"{clip}/lowered/query"].tolist())
