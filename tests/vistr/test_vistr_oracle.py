"""VisTR equals its authors' code in numbers: their stored outputs for weights that anybody can rebuild."""

import importlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from effvis.config import InferenceConfig
from effvis.data.targets import ClipTargets, stack_targets
from effvis.inference.tracklets import VideoTracklet, best_results
from effvis.model.backbone import IMAGENET_MEAN, IMAGENET_STD
from effvis.training.matching import match
from effvis.vistr.clip import predict_clip
from effvis.vistr.config import VisTRConfig, VisTRLossWeights
from effvis.vistr.convert import convert_vistr, published_form
from effvis.vistr.losses import clip_losses, matching_costs
from effvis.vistr.model import VisTR, VisTROutput, build_vistr
from effvis.vistr.parts import sine_positions

ORACLE = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "vistr"
pytestmark = pytest.mark.skipif(not ORACLE.is_dir(), reason="../shared/oracle/vistr is absent")


@pytest.fixture(scope="module")
def cases():
    return np.load(ORACLE / "cases.npz")


@pytest.fixture(scope="module")
def published():
    spec = importlib.util.spec_from_file_location("oracle_weights", ORACLE / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    return {name: torch.from_numpy(value) for name, value in weights.tensors().items()}


# What is asked of float32 (first) and of float64 with the same constants, by the oracle's page. Scores leave predict_clip in
# float32.
LIMITS = {
    "layer": (1e-4, 1e-9), "projected": (1e-4, 1e-9), "positions": (2e-6, 1e-9), "memory": (5e-5, 1e-9),
    "decoder": (4e-4, 1e-9), "logits": (1e-3, 1e-9), "boxes": (2e-5, 1e-9), "box_attention": (5e-5, 1e-9),
    "offsets": (1e-4, 1e-9),
    "mask_features": (3e-4, 1e-9), "mask_logits": (3e-4, 3e-7), "cost": (3e-5, 1e-9), "loss_ce": (1e-4, 1e-9),
    "loss": (5e-6, 1e-9), "score": (3e-5, 1e-8)}


class Computed(NamedTuple):
    """Our network's output for a clip, with what it computes on the way, by the oracle's names."""

    model: VisTR
    frames: torch.Tensor
    output: VisTROutput
    found: dict[str, torch.Tensor]

    def near(self, name, ours, theirs, times=1):
        limit = LIMITS[name][self.model.query_NTC.dtype == torch.float64]
        assert np.abs(np.asarray(ours, dtype=np.float64) - theirs).max() <= times * limit, name


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def computed(request, cases, published):
    config = published_form(published, VisTRConfig(num_classes=40, clip_length=1), where="oracle")
    assert config.absent_row and config.clip_length == 6
    model = build_vistr(config)
    model.load_state_dict(convert_vistr(published, model, where="oracle").weights)
    model.eval().to(request.param)
    for name, value in (("pixel_mean", IMAGENET_MEAN), ("pixel_std", IMAGENET_STD)):
        getattr(model, name).copy_(torch.tensor(value, dtype=torch.float64).view(3, 1, 1) * 255)
    found = {}

    def keep(name, of=lambda out: out):
        def hook(_, inputs, out):
            found.setdefault(name, []).append(of(out))
        return hook

    hooks = [part.register_forward_hook(keep(name)) for name, part in (
        ("body", model.body), ("projected", model.project), ("decoder", model.decoder_norm),
        ("box_attention", model.box_attention), ("offsets", model.frame_masks.offsets), ("mask_features", model.frame_masks))]
    frames = torch.from_numpy(cases["a/frames"])
    with torch.no_grad():
        output = model(frames[None])
        found["mask_logits"] = model.mask_logits(output)[0].transpose(0, 1).flatten(0, 1)
    for hook in hooks:
        hook.remove()
    found |= {f"layer{number}": level for number, level in enumerate(found.pop("body")[0], 1)}
    found |= {name: found[name][0] for name in ("projected", "box_attention", "offsets", "mask_features")}
    # Queries are frame after frame there.
    found["decoder"] = torch.cat(found["decoder"]).unflatten(1, (10, 6)).transpose(1, 2).flatten(1, 2)
    found["offsets"] = found["offsets"].unflatten(0, (6, 10))
    found["memory"] = output.memory_FCHW
    positions = sine_positions(6, *output.memory_FCHW.shape[-2:], 384, output.memory_FCHW)
    found["positions"] = positions.permute(0, 3, 1, 2)
    return Computed(model, frames, output, found)


def test_frames_are_normalised_as_there(cases, computed):
    model = computed.model
    pixels = (computed.frames.to(torch.float64) - model.pixel_mean) / model.pixel_std
    sums = torch.stack((pixels, pixels.abs(), pixels**2)).sum(dim=(-2, -1))
    np.testing.assert_allclose(sums, cases["a/normalised_sums"], rtol=1e-6, atol=2e-3)


@pytest.mark.parametrize("name", ["layer1", "layer2", "layer3", "layer4", "projected", "positions", "memory", "decoder",
                                  "box_attention", "offsets", "mask_features"])
def test_what_is_computed_on_the_way(cases, computed, name):
    ours = computed.found[name]
    assert ours.shape == tuple(cases[f"a/{name}/shape"])
    computed.near(name.rstrip("1234"), ours.flatten()[:: int(cases[f"a/{name}/step"])], cases[f"a/{name}/sample"])


def test_outputs(cases, computed):
    output = computed.output
    computed.near("logits", output.logits_DBNTK[:, 0].transpose(1, 2).flatten(1, 2), cases["a/logits"])
    xyxy = output.boxes_DBNT4[:, 0].transpose(1, 2).flatten(1, 2) / torch.tensor([output.width, output.height] * 2)
    boxes = torch.cat(((xyxy[..., :2] + xyxy[..., 2:]) / 2, xyxy[..., 2:] - xyxy[..., :2]), dim=-1)
    computed.near("boxes", boxes, cases["a/boxes"])
    computed.near("mask_logits", computed.found["mask_logits"], cases["a/mask_logits"])


@pytest.mark.parametrize("kind", ["full", "part"])
def test_costs_and_losses(cases, computed, kind):
    case = {name: cases[f"a/{kind}/{name}"] for name in (
        "labels", "present", "boxes", "masks", "cost_class", "cost_l1", "cost_iou", "assignment", "loss_ce", "loss_bbox",
        "loss_giou", "loss_mask", "loss_dice", "weighted_total")}
    output, kind_of_number = computed.output, computed.output.boxes_DBNT4.dtype
    targets = ClipTargets(
        torch.arange(3), torch.from_numpy(case["labels"]).long() - 1, torch.from_numpy(case["present"]).bool(),
        torch.from_numpy(case["boxes"]).to(kind_of_number), torch.from_numpy(case["masks"]).bool())
    size = torch.tensor([output.width, output.height] * 2)
    costs = matching_costs(output.logits_DBNTK, output.boxes_DBNT4, stack_targets([targets]), size, absent_row=True)
    for name, ours in zip(("cost_class", "cost_l1", "cost_iou"), costs, strict=True):
        computed.near("cost", ours[:, 0], case[name])
    total = costs[0] + 5 * costs[1] + 2 * costs[2]
    assert [match(layer[0].numpy()).tolist() for layer in total] == case["assignment"].tolist()
    with torch.no_grad():
        losses = clip_losses(computed.model, computed.frames[None], [targets], VisTRLossWeights())
    # Sums over six layers.
    computed.near("loss_ce", losses["category"], case["loss_ce"].sum(), times=6)
    computed.near("loss", losses["l1"], 5 * case["loss_bbox"].sum(), times=30)
    computed.near("loss", losses["giou"], 2 * case["loss_giou"].sum(), times=12)
    computed.near("loss", losses["focal"], case["loss_mask"])
    computed.near("loss", losses["dice"], case["loss_dice"])
    computed.near("loss_ce", sum(losses.values()), case["weighted_total"], times=10)


@pytest.mark.parametrize("kind, frames", [("video", 6), ("four", 4), ("lowered", 6)])
def test_results(cases, computed, monkeypatch, kind, frames):
    """Category 0, which the authors' script gives out, is no category of a data set: such a tracklet is no result here."""
    size = tuple(cases["a/video_size"].tolist())
    if kind == "lowered":
        own = computed.model.mask_logits
        monkeypatch.setattr(computed.model, "mask_logits", lambda output, chosen: (
            own(output, chosen) - 20 * (chosen == 3)[..., None, None, None]))
    clip = predict_clip(computed.model, computed.frames, size, InferenceConfig(presence_threshold=0.001))
    case = {name: cases[f"a/{kind}/{name}"] for name in ("query", "score", "category", "rle")}
    tracklets = [VideoTracklet() for _ in range(10)]
    for n, tracklet in enumerate(tracklets):
        tracklet.add(clip, n, list(range(frames)))
    given = [n for n, tracklet in enumerate(tracklets) if tracklet.rles]
    assert given == sorted(case["query"].tolist())
    different = 0
    for n, score, category, rles in zip(*case.values(), strict=True):
        assert tracklets[n].vote()[0] + 1 == category
        computed.near("score", tracklets[n].vote()[1], score)
        for t, counts in enumerate(map(bytes, rles)):
            ours = tracklets[n].rles.get(t)
            assert bool(counts) == (ours is not None)
            if counts:
                theirs = coco_mask.decode({"size": list(size), "counts": counts})
                different += int((theirs != coco_mask.decode(ours)).sum())
    assert different <= (100 if computed.output.boxes_DBNT4.dtype == torch.float32 else 20)
    results = best_results(tracklets, video_id=1, category_ids=list(range(1, 41)), length=frames, most=10, category="vote")
    expected = sorted((c, s) for c, s in zip(case["category"].tolist(), case["score"], strict=True) if c)
    for result, (category, score) in zip(sorted(results, key=lambda r: (r["category_id"], r["score"])), expected, strict=True):
        assert result["category_id"] == category
        computed.near("score", result["score"], score)
