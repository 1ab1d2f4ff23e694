"""Matching, losses and correspondence learning."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from support.builders import clip_pairs, pair_batch, rectangles, tiny_config, tiny_model

from effvis.config import LossWeights, MatchingConfig, TrainConfig
from effvis.data.targets import followed_by, stack_targets
from effvis.model.efficientvis import EfficientVIS
from effvis.model.roi_align import roi_align
from effvis.training.correspondence import pair_losses
from effvis.training.loop import learning_rate, optimizer_of, total_steps, train
from effvis.training.losses import crop_masks
from effvis.training.matching import match, matching_cost


@pytest.mark.parametrize("tracklets, instances", [(4, 2), (4, 4), (3, 5), (4, 0)])
def test_match_is_the_cheapest_assignment(tracklets, instances):
    cost = torch.tensor(np.random.default_rng(0).normal(size=(tracklets, instances)))
    found = match(cost)
    chosen = [n for n in found if n >= 0]
    assert len(chosen) == len(set(chosen)) == min(tracklets, instances)
    total = sum(cost[n, k] for k, n in enumerate(found) if n >= 0)
    if instances <= tracklets:
        brute = [sum(cost[n, k] for k, n in enumerate(p)) for p in itertools.permutations(range(tracklets), instances)]
    else:
        brute = [sum(cost[n, k] for n, k in enumerate(p)) for p in itertools.permutations(range(instances), tracklets)]
    assert float(total) == pytest.approx(float(min(brute)))


def test_known_instances_keep_their_tracklet_and_new_ones_take_only_free_ones():
    cost = torch.zeros(4, 3)
    cost[2, :] = -5  # the best for everyone, but it belongs to instance 1
    found = match(cost, fixed=[-1, 2, -1])
    assert found[1] == 2 and set(found[[0, 2]]) < {0, 1, 3}
    assert match(cost[:1], fixed=[0, -1, -1]).tolist() == [0, -1, -1]


@pytest.mark.parametrize("class_cost", ["probability", "focal"])
def test_matching_cost_prefers_the_tracklet_that_is_absent_with_its_instance(class_cost):
    _, targets = rectangles([0], 2, np.random.default_rng(0), absent=True)
    boxes = targets.boxes_KT4.repeat(1, 2, 1, 1)
    logits = torch.full((1, 2, 2, 3), -4.0)
    logits[:, :, 1, 0] = 4.0
    logits[:, 0, 0, 0] = 4.0  # tracklet 0 claims to see it in frame 0, too
    cost = matching_cost(logits, boxes, stack_targets([targets]), torch.tensor([[48.0, 32, 48, 32]]),
                         MatchingConfig(class_cost=class_cost, mask=0))
    assert cost[0, 1, 0] < cost[0, 0, 0]


def test_a_second_clip_teaches_what_has_gone_as_absent():
    rng = np.random.default_rng(0)
    _, before = rectangles([5, 6, 7], 2, rng)
    _, after = rectangles([7, 9, 5], 2, rng)
    joined = followed_by(before, after)
    assert joined.track_ids_K.tolist() == [7, 9, 5, 6] and joined.labels_K.tolist() == [1, 0, 2, 0]
    assert not joined.present_KT[3].any() and not joined.masks_KTHW[3].any()
    assert torch.equal(joined.masks_KTHW[:3], after.masks_KTHW) and joined.boxes_KT4.shape == (4, 2, 4)


@pytest.mark.parametrize("correspondence", [True, False])
@pytest.mark.parametrize("pairs", [
    [([], [])], [([0], []), ([], [1])], [([0, 1, 2, 3, 4, 5], [0, 1])], [([0, 1], [1, 2])],
], ids=["empty", "one clip empty", "more instances than queries", "one new, one gone"])
@pytest.mark.parametrize("frames", [1, 2])  # With one frame, each clip's first instance is absent throughout.
def test_losses_are_finite_and_reach_every_parameter(pairs, frames, correspondence):
    model = tiny_model(frames)
    losses = pair_losses(model, pair_batch(pairs, frames, absent=True), LossWeights(), correspondence)
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_correspondence_sends_gradient_of_the_second_clip_through_the_first():
    model = tiny_model(1)
    batch = pair_batch([([0], [0])], 1)
    features = model.features(batch.frames[0])
    query = model(features)[-1].query_BNTC
    query.retain_grad()
    second = model(model.features(batch.frames[1]), query)[-1]
    second.logits_BNTK.sum().backward()
    assert query.grad.abs().sum() > 0


def test_a_batch_of_pairs_has_the_mean_loss_of_its_parts_when_they_hold_as_many_instances():
    model = tiny_model(1)
    pairs = [([0, 1], [0, 1]), ([2, 3], [2, 3])]
    batch = pair_batch(pairs, 1)
    together = pair_losses(model, batch, LossWeights(), True)
    alone = []
    for b in range(2):
        part = type(batch)(tuple(f[b: b + 1] for f in batch.frames), tuple([t[b]] for t in batch.targets), [b])
        alone.append(pair_losses(model, part, LossWeights(), True))
    for name, value in together.items():
        assert value.item() == pytest.approx((alone[0][name].item() + alone[1][name].item()) / 2, rel=1e-4, abs=1e-5), name


def test_crop_masks_cuts_a_rectangle_exactly():
    masks = torch.zeros(2, 32, 48, dtype=torch.bool)
    masks[1, 8:16, 8:24] = True
    boxes = torch.tensor([[8.0, 8.0, 24.0, 16.0], [8.0, 8.0, 40.0, 16.0], [8.0, 8.0, 24.0, 16.0]])
    full, half, other = crop_masks(masks, torch.tensor([1, 1, 0]), boxes, 8)
    assert full.eq(1).all() and other.eq(0).all()
    assert half[..., :4].eq(1).all() and half[..., 4:].eq(0).all()


def test_crop_masks_is_roi_align_and_a_threshold():
    torch.manual_seed(0)
    masks = torch.nn.functional.interpolate(torch.rand(3, 1, 4, 6), size=(32, 48), mode="bilinear")[:, 0] > 0.5
    corner, size = torch.rand(60, 2) * 40 - 8, torch.rand(60, 2) * 30  # many boxes reach beyond the mask
    boxes, image = torch.cat((corner, corner + size), dim=-1), torch.arange(60) % 3
    pooled = roi_align(masks[:, None].float(), torch.cat((image[:, None].float(), boxes), dim=1), 8, sampling_ratio=1)[:, 0]
    clear = (pooled - 0.5).abs() > 1e-5
    assert 0.15 < pooled.ge(0.5).float().mean() < 0.85 and clear.float().mean() > 0.9
    assert torch.equal(crop_masks(masks, image, boxes, 8).bool()[clear], (pooled >= 0.5)[clear])


def test_crop_masks_survives_boxes_that_are_not_finite():
    boxes = torch.tensor([[float("nan")] * 4, [0.0, 0.0, float("inf"), float("inf")], [1e30, 1e30, 2e30, 2e30]])
    cut = crop_masks(torch.ones(1, 32, 48, dtype=torch.bool), torch.zeros(3, dtype=torch.int64), boxes, 8)
    assert cut[0].eq(0).all() and cut[2].eq(0).all()


def test_overfits_one_clip():
    """The whole path from pixels to masks can learn: losses on one fixed pair fall to less than half."""
    model = tiny_model(2, hidden_dim=32)
    batch = pair_batch([([0, 1], [0, 1])], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(80):
        total = sum(pair_losses(model, batch, LossWeights(), True).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(total.item())
    assert np.mean(totals[-5:]) < 0.5 * totals[0]


def test_schedule():
    config = TrainConfig(epochs=3, lr=1.0, lr_drop_epoch=2, warmup_steps=4)
    assert total_steps(config, 10) == 30
    rates = [learning_rate(config, step, 10) for step in range(30)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates[19] == 1.0
    assert rates[20:] == pytest.approx([0.1] * 10)


def test_each_weight_learns_once_at_its_own_rate():
    model = tiny_model(2, backbone="resnet18")
    config = TrainConfig(lr=1.0, backbone_lr=0.5, gate_lr=0.25)
    rates = {id(weight): group["full_lr"] for group in optimizer_of(model, config).param_groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        wanted = 0.5 if name.startswith("backbone.") else 0.25 if name.endswith("temporal.gate") else 1.0
        assert rates.pop(id(weight), None) == (wanted if weight.requires_grad else None), name
    assert not rates
    (group,) = optimizer_of(model, TrainConfig(lr=1.0)).param_groups
    assert group["full_lr"] == 1.0


def test_a_closed_gate_opens_at_a_rate_of_its_own(drawn_index):
    """At the rate of the other weights, as the paper's, it would stay almost closed for a whole training."""
    def opened_to(gate_lr):
        torch.manual_seed(0)
        model = EfficientVIS(tiny_config(2, num_classes=len(drawn_index.categories)))
        config = TrainConfig(epochs=20, lr=2.5e-5, gate_lr=gate_lr)
        losses = partial(pair_losses, model, weights=LossWeights(), correspondence=True)
        for _ in train(model, losses, clip_pairs(drawn_index, batch_size=5), config):
            pass
        return [part.attention.temporal.gate.abs().max().item() for part in model.interactions]

    assert max(opened_to(None)) < 1e-3
    assert min(opened_to(1e-2)) > 0.05
