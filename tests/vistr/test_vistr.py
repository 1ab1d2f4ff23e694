"""VisTR: against literal transcriptions, its symmetries, brute-force matching, and the size of the original."""

import dataclasses
import importlib
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from support.builders import pair_batch, rectangles, small_vistr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from effvis.config import HandcraftConfig, InferenceConfig
from effvis.data.clips import clip_frames
from effvis.data.targets import ClipTargets, counted, stack_targets
from effvis.inference.clip import TrackletPredictions
from effvis.inference.handcraft import link
from effvis.inference.tracklets import best_results
from effvis.model.resnet import ResNet
from effvis.training.matching import match
from effvis.vistr import clip as vistr_clip
from effvis.vistr.clip import predict_clip
from effvis.vistr.config import VisTRConfig, VisTRLossWeights
from effvis.vistr.losses import clip_losses, giou_loss, matching_cost, pair_losses
from effvis.vistr.model import VisTR, resize_masks
from effvis.vistr.parts import BoxAttention, deformable_conv3x3, sine_positions


def a_clip(tracks, clip_length=2, seed=0, absent=False):
    frames, targets = rectangles(tracks, clip_length, np.random.default_rng(seed), absent)
    return frames.unsqueeze(0), targets


def test_is_as_large_as_the_original():
    """It has 57.1M parameters, 2174 GFLOP and 60 per frame at T=36, 300x540; a multiply-add counts as two operations."""
    with torch.device("meta"):
        body = ResNet("resnet50")
        model = VisTR(VisTRConfig(num_classes=41, clip_length=36), body, body.channels).eval().requires_grad_(False)
        clip = torch.empty(1, 36, 3, 300, 540)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(57.1e6, rel=0.01)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        masks = model.mask_logits(model(clip))
    assert masks.shape == (1, 10, 36, 75, 135)
    assert counter.get_total_flops() == pytest.approx(2174e9, rel=0.05)
    assert counter.get_total_flops() / 36 == pytest.approx(60e9, rel=0.05)


def test_the_operations_beside_ours_are_those_of_its_parts(monkeypatch):
    """The benchmark's sum over the parts, on a network of another size, equals one count of the whole."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2])
    flops = importlib.import_module("benchmarks.flops")
    config = VisTRConfig(num_classes=3, clip_length=2, queries=4, hidden_dim=96, encoder_layers=1, decoder_layers=2, ffn_dim=64)
    found = flops.vistr_cost(config, 96, 128)
    with torch.device("meta"):
        body = ResNet("resnet50")
        model = VisTR(config, body, body.channels).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.mask_logits(model(torch.empty(1, 2, 3, 96, 128, device="meta")))
    assert found.total == counter.get_total_flops()
    assert found.parameters == sum(p.numel() for p in model.parameters())
    # torchvision publishes 4.09 billion multiplications of 224x224 pixels for ResNet-50, of which 2.05 million classify.
    assert found.backbone == pytest.approx(2 * 2 * (4.09e9 - 2.05e6) * 96 * 128 / 224**2, rel=2e-3)
    assert found.interactions > 0 and found.masks > 0 and found.pooling == 0


def test_positions_are_sines_of_time_height_and_width():
    positions = sine_positions(2, 3, 4, 12, torch.zeros(1))
    for t, y, x in itertools.product(range(2), range(3), range(4)):
        expected = []
        for place, length in ((t, 2), (y, 3), (x, 4)):
            angle = (place + 1) / length * 2 * math.pi
            for pair in range(2):
                frequency = 10000 ** (-2 * pair / 4)
                expected += [math.sin(angle * frequency), math.cos(angle * frequency)]
        torch.testing.assert_close(positions[t, y, x], torch.tensor(expected), atol=1e-5, rtol=0)


def test_box_attention_is_a_softmax_over_heads_and_locations():
    torch.manual_seed(0)
    attention = BoxAttention(8, 2).double()
    query, memory = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 8, 2, 3, dtype=torch.float64)
    weights = attention(query, memory)
    for f, k in itertools.product(range(2), range(3)):
        q = attention.query.weight @ query[f, k] + attention.query.bias
        score = torch.zeros(2, 2, 3, dtype=torch.float64)
        for a, y, x in itertools.product(range(2), range(2), range(3)):
            key = attention.key.weight @ memory[f, :, y, x] + attention.key.bias
            score[a, y, x] = q[4 * a: 4 * a + 4] @ key[4 * a: 4 * a + 4] / 2
        torch.testing.assert_close(weights[f, k], score.exp() / score.exp().sum(), atol=1e-9, rtol=0)


@torch.no_grad()
def test_batch_of_two_equals_two_batches_of_one():
    model = small_vistr(3).eval().double()
    clips = torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8)
    both = model(clips)
    masks = model.mask_logits(both)
    for b in range(2):
        alone = model(clips[b: b + 1])
        for together, single in ((both.logits_DBNTK[:, b], alone.logits_DBNTK[:, 0]),
                                 (both.boxes_DBNT4[:, b], alone.boxes_DBNT4[:, 0]),
                                 (masks[b], model.mask_logits(alone)[0])):
            torch.testing.assert_close(together, single, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])  # 1, T-1, T, T+1, 3T+2 at T = 3
def test_every_frame_of_a_video_gets_each_tracklet_once(length):
    model, inference = small_vistr(3).eval(), InferenceConfig(presence_threshold=0.0)
    video = torch.randint(0, 255, (length, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clips = [(list(range(start, min(start + 3, length))),
              predict_clip(model, video[clip_frames(start, 3, length)], (32, 48), inference)) for start in range(0, length, 3)]
    always, never = (link(clips, (32, 48), HandcraftConfig(new_tracklet_below=below, score_threshold=0.0))
                     for below in (-100.0, 100.0))
    assert [sorted(tracklet.rles) for tracklet in always] == [list(range(length))] * 4
    assert sorted(frame for tracklet in never for frame in tracklet.rles) == sorted(list(range(length)) * 4)
    results = best_results(always, video_id=7, category_ids=[1, 2, 3], length=length, most=10)
    assert len(results) == 10
    assert all(len(r["segmentations"]) == length and None not in r["segmentations"] for r in results)


def test_a_clip_may_show_nothing():
    """A network that is certain of no-object gives tracklets without a mask, which linking leaves out."""
    model = small_vistr(2).eval()
    model.class_logits.bias.data[-1] = 100
    clip = predict_clip(model, torch.zeros(2, 3, 32, 48, dtype=torch.uint8), (32, 48), InferenceConfig())
    assert not clip.present_NT.any() and clip.rles == [[None, None]] * 4
    assert link([([0, 1], clip)], (32, 48), HandcraftConfig(score_threshold=0)) == []


@torch.no_grad()
def test_masks_part_by_part_are_those_of_all_at_once(monkeypatch):
    model, inference = small_vistr(3).eval(), InferenceConfig(presence_threshold=0.0)
    clip, size = torch.randint(0, 255, (3, 3, 32, 48), dtype=torch.uint8), (64, 90)
    # An untrained network's masks are all or nothing; now they are half.
    model.sequence_masks[-1].bias.sub_(model.mask_logits(model(clip[None])).median())
    logits_NTHW = model.mask_logits(model(clip[None]))[0]
    one_by_one = np.array([[nn.functional.interpolate(mask[None, None], size, mode="bilinear")[0, 0] >= 0 for mask in masks]
                           for masks in logits_NTHW])
    assert 0.2 < one_by_one.mean() < 0.8
    for tracklets, pixels in ((100, 10**9), (1, 1), (3, 2 * 64 * 90)):
        monkeypatch.setattr(vistr_clip, "TRACKLET_CHUNK", tracklets)
        monkeypatch.setattr(vistr_clip, "MASK_PIXELS_AT_ONCE", pixels)
        found = predict_clip(model, clip, size, inference)
        decoded = np.array([[coco_mask.decode(rle) for rle in rles] for rles in found.rles])
        assert (decoded != one_by_one).mean(axis=(2, 3)).max() < 0.002


def test_permuting_tracklet_queries_permutes_tracklets():
    model = small_vistr(2).eval()
    clip = a_clip([0, 1])[0]
    before = model(clip)
    masks = model.mask_logits(before)
    assert not torch.allclose(before.logits_DBNTK[:, :, 0], before.logits_DBNTK[:, :, 1], atol=1e-3)
    order = torch.tensor([2, 0, 3, 1])
    model.query_NTC.data = model.query_NTC.data[order]
    after = model(clip)
    torch.testing.assert_close(after.logits_DBNTK, before.logits_DBNTK[:, :, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.boxes_DBNT4, before.boxes_DBNT4[:, :, order], atol=1e-3, rtol=1e-5)
    torch.testing.assert_close(model.mask_logits(after), masks[:, order], atol=1e-5, rtol=1e-4)


def test_selected_masks_are_those_of_all_tracklets():
    model = small_vistr(2).eval()
    output = model(torch.randint(0, 255, (2, 2, 3, 32, 48), dtype=torch.uint8))
    everything = model.mask_logits(output)
    chosen = model.mask_logits(output, torch.tensor([[3, 1], [0, 2]]))
    torch.testing.assert_close(chosen[0], everything[0, [3, 1]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(chosen[1], everything[1, [0, 2]], atol=1e-5, rtol=1e-4)


def test_a_mask_comes_from_its_own_query_and_frame_before_the_3d_convolutions():
    """With a pointwise last layer, a change in one frame or one query changes only the masks of these."""
    model = small_vistr(3).eval()
    model.sequence_masks = nn.Conv3d(6, 1, 1)
    output = model(torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8))
    before = model.mask_logits(output)

    def changed(**values):
        difference = (model.mask_logits(dataclasses.replace(output, **values)) - before).abs().amax(dim=(-2, -1))
        return [tuple(place) for place in (difference > 1e-4).nonzero().tolist()]

    query = output.query_BNTC.clone()
    query[1, 2, 0] += torch.randn(96)
    assert changed(query_BNTC=query) == [(1, 2, 0)]
    memory = output.memory_FCHW.clone()
    memory[5] += torch.randn(96, 1, 2)
    assert changed(memory_FCHW=memory) == [(1, n, 2) for n in range(4)]
    fine = output.levels[0].clone()
    fine[1] += torch.randn(8, 8, 12)
    assert changed(levels=[fine, *output.levels[1:]]) == [(0, n, 1) for n in range(4)]


def test_frames_see_each_other_and_know_their_time():
    model = small_vistr(4).eval()
    clip = torch.randint(0, 255, (1, 4, 3, 32, 48), dtype=torch.uint8)
    changed = clip.clone()
    changed[:, 0] = 0
    before, after = model(clip), model(changed)
    assert not torch.allclose(before.memory_FCHW[3], after.memory_FCHW[3], atol=1e-5)
    still = model(clip[:, :1].expand(-1, 4, -1, -1, -1)).memory_FCHW
    assert not torch.allclose(still[0], still[3], atol=1e-3)


def test_a_clip_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 frames were given, the queries are for 2"):
        small_vistr(2)(torch.zeros(1, 3, 3, 32, 48))


@torch.no_grad()
def test_sides_that_are_no_multiple_of_4():
    """The map of 23 x 38 cells is stretched to the whole frame of 90 x 150 pixels; nothing is cut."""
    model = small_vistr(2).eval()
    output = model(torch.randint(0, 255, (1, 2, 3, 90, 150), dtype=torch.uint8))
    coarse = model.mask_logits(output)[0]
    side = model.mask_stride
    assert coarse.shape[-2:] == (math.ceil(90 / side), math.ceil(150 / side))
    columns = torch.arange(38.0).expand(1, 1, 23, 38)
    full = resize_masks(columns, (90, 150))[0, 0, 45]
    expected = ((torch.arange(150) + 0.5) * 38 / 150 - 0.5).clamp(0, 37)
    torch.testing.assert_close(full, expected, atol=1e-4, rtol=0)


def test_a_deformable_convolution_reads_beside_its_places():
    """Against a literal sum over taps and corners; offsets of zero give the plain convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, padding=1).double()
    x, offsets = torch.randn(1, 2, 4, 5).double(), 2 * torch.randn(1, 18, 4, 5).double()
    found = deformable_conv3x3(x, offsets, conv)
    torch.testing.assert_close(deformable_conv3x3(x, torch.zeros_like(offsets), conv), conv(x), atol=1e-12, rtol=0)
    for y, column in itertools.product(range(4), range(5)):
        total = conv.bias.clone()
        for k in range(9):
            row_at = y + k // 3 - 1 + offsets[0, 2 * k, y, column].item()
            column_at = column + k % 3 - 1 + offsets[0, 2 * k + 1, y, column].item()
            for r, c in itertools.product(range(4), range(5)):
                share = max(0, 1 - abs(row_at - r)) * max(0, 1 - abs(column_at - c))
                total = total + share * conv.weight[:, :, k // 3, k % 3] @ x[0, :, r, c]
        torch.testing.assert_close(found[0, :, y, column], total, atol=1e-12, rtol=0)


def test_weights_without_offsets_load_as_zero():
    model = small_vistr(2)
    weights = {name: value for name, value in model.state_dict().items() if name not in model.zero_where_missing}
    nn.init.ones_(model.frame_masks.offsets.weight)
    model.load_state_dict(weights)
    assert not model.frame_masks.offsets.weight.any()
    nn.init.ones_(model.frame_masks.offsets.weight)
    assert model.load_initial(weights) == [] and not model.frame_masks.offsets.weight.any()


@pytest.mark.parametrize("absent_row", [False, True])
def test_losses_are_normalised_by_the_targets_alone(absent_row):
    """Losses of parts, each with the counts of the whole batch, sum to those of the batch."""
    model = small_vistr(2, absent_row=absent_row).eval()
    clips = [a_clip([0, 1], seed=1, absent=True), a_clip([2], seed=2)]
    together = clip_losses(model, torch.cat([frames for frames, _ in clips]), [t for _, t in clips], VisTRLossWeights())
    counts = counted([[targets for _, targets in clips]])
    parts = [clip_losses(model, frames, [targets], VisTRLossWeights(), counts) for frames, targets in clips]
    for name, value in together.items():
        assert sum(part[name] for part in parts).item() == pytest.approx(value.item(), rel=1e-4), name


def centre_size(box):
    return torch.cat(((box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]), dim=-1)


def test_matching_is_the_best_of_all_assignments():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    size = torch.tensor([48.0, 32, 48, 32])
    weights = VisTRLossWeights()
    for _ in range(5):
        targets = rectangles([0, 1, 2], 2, rng, absent=True)[1]
        logits = torch.randn(4, 2, 4, dtype=torch.float64)
        corner = torch.rand(4, 2, 2, dtype=torch.float64) * 20
        boxes = torch.cat((corner, corner + 4 + torch.rand(4, 2, 2, dtype=torch.float64) * 10), dim=-1)

        def pair_cost(n, k, targets=targets, logits=logits, boxes=boxes):
            total = 0.0
            for t in range(2):
                present = bool(targets.present_KT[k, t])
                probability = logits[n, t].exp() / logits[n, t].exp().sum()
                total -= float(probability[targets.labels_K[k] if present else 3])
                own, true = boxes[n, t] / size, targets.boxes_KT4[k, t].double() / size
                total += 5 * float(centre_size(own).sub(centre_size(true)).abs().mean())
                shared = (torch.minimum(own[2:], true[2:]) - torch.maximum(own[:2], true[:2])).clamp(min=0).prod()
                union = (own[2:] - own[:2]).prod() + (true[2:] - true[:2]).prod() - shared
                total -= 2 * float((shared + 1e-6) / (union + 1e-6))
            return total / 2

        literal = np.array([[pair_cost(n, k) for k in range(3)] for n in range(4)])
        cost = matching_cost(logits[None], boxes[None], stack_targets([targets]), size, weights)[0]
        np.testing.assert_allclose(cost.numpy(), literal, atol=1e-5)
        best = min(itertools.permutations(range(4), 3), key=lambda chosen: sum(literal[n, k] for k, n in enumerate(chosen)))
        assert tuple(match(cost)) == best


@pytest.mark.parametrize("pairs", [
    [([], [])], [([0], []), ([], [1])], [([0, 1, 2, 3, 4, 5], [0, 1])],
], ids=["empty", "one clip empty", "more instances than queries"])
@pytest.mark.parametrize("frames", [1, 2])  # Of one frame only, each clip's first instance is absent throughout.
def test_losses_are_finite_and_reach_every_parameter(pairs, frames):
    model = small_vistr(frames)
    losses = pair_losses(model, pair_batch(pairs, frames, absent=True), VisTRLossWeights())
    assert set(losses) == {"category", "l1", "giou", "focal", "dice"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert not [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]


def test_gradients_are_finite_in_bf16():
    model = small_vistr(2)
    frames, targets = a_clip([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = sum(clip_losses(model, frames, [targets], VisTRLossWeights()).values())
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_losses_are_those_of_the_paper_pair_by_pair():
    """There is one layer, and the first of two instances is absent in frame 0; every loss is computed by hand."""
    model = small_vistr(2, decoder_layers=1)
    frames, targets = a_clip([1, 2], absent=True)
    weights = VisTRLossWeights()
    with torch.no_grad():
        losses = clip_losses(model, frames, [targets], weights)
        output = model(frames)
        masks = resize_masks(model.mask_logits(output)[0], (32, 48)).double()
    size = torch.tensor([48.0, 32, 48, 32])
    boxes, log_p = output.boxes_DBNT4[0, 0], output.logits_DBNTK[0, 0].log_softmax(dim=-1)
    owners = match(matching_cost(output.logits_DBNTK[0], output.boxes_DBNT4[0], stack_targets([targets]), size, weights)[0])
    owners = owners.tolist()
    expected, class_weights = dict.fromkeys(losses, 0.0), 0.0
    for n, t in itertools.product(range(4), range(2)):
        k = owners.index(n) if n in owners else None
        visible = k is not None and bool(targets.present_KT[k, t])
        expected["category"] -= (1.0 if visible else 0.1) * float(log_p[n, t, targets.labels_K[k] if visible else 3])
        class_weights += 1.0 if visible else 0.1
        if not visible:
            continue
        # Four (instance, frame) pairs, of which three are present.
        expected["l1"] += 5 * float((centre_size(boxes[n, t] - targets.boxes_KT4[k, t]) / size).abs().sum()) / 4
        expected["giou"] += 2 * float(giou_loss(boxes[n, t] / size, targets.boxes_KT4[k, t] / size)) / 4
        p, true = masks[n, t].sigmoid(), targets.masks_KTHW[k, t]
        focal = torch.where(true, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
        expected["focal"] += float(focal.mean()) / 4
        expected["dice"] += float(1 - (2 * p[true].sum() + 1) / (p.sum() + true.sum() + 1)) / 4
    expected["category"] /= class_weights
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_every_decoder_layer_is_trained():
    """Class and box losses of D layers add up; the first layer alone cannot give them."""
    model = small_vistr(2, decoder_layers=2)
    frames, targets = a_clip([0, 1])
    with torch.no_grad():
        two = clip_losses(model, frames, [targets], VisTRLossWeights())
        last = model.decoder[1]
        del model.decoder[1]
        one = clip_losses(model, frames, [targets], VisTRLossWeights())
        model.decoder.append(last)
        output = model(frames)
    owners = match(matching_cost(output.logits_DBNTK[1], output.boxes_DBNT4[1], stack_targets([targets]),
                                 torch.tensor([48.0, 32, 48, 32]), VisTRLossWeights())[0])
    difference = centre_size(output.boxes_DBNT4[1, 0, owners] - targets.boxes_KT4) / torch.tensor([48.0, 32, 48, 32])
    l1 = difference.abs().sum() * 5 / 4
    assert two["l1"].item() == pytest.approx(one["l1"].item() + l1.item(), rel=1e-4)
    assert two["category"] > one["category"]


@pytest.mark.slow
def test_overfits_one_clip_finds_its_instances_and_links_them():
    """The whole path from pixels to the tracklets of a video, which shows the learned clip and then its last frame again."""
    small, truth = a_clip([0, 1], seed=3)
    frames = _twice_as_large(small)
    targets = ClipTargets(
        truth.track_ids_K, truth.labels_K, truth.present_KT, truth.boxes_KT4 * 2, _twice_as_large(truth.masks_KTHW))
    model = small_vistr(2)
    last_layers = list(model.sequence_masks.parameters())
    others = [p for name, p in model.named_parameters() if not name.startswith("sequence_masks.")]
    # Few narrow layers make the mask: at the transformer's rate they would need thousands of steps. At higher rates both
    # instances share one mask for a long time, and the step that separates them depends on the processor's rounding.
    optimizer = torch.optim.AdamW([{"params": last_layers, "lr": 3e-3}, {"params": others, "lr": 3e-4}])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [300])
    totals = []
    for _ in range(400):
        total = sum(clip_losses(model, frames, [targets], VisTRLossWeights()).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        totals.append(total.item())
    assert totals[-1] < 0.1 * totals[0]

    config, video_size = InferenceConfig(presence_threshold=0.5), (128, 192)
    model.eval()
    clip = predict_clip(model, frames[0], video_size, config)
    found = np.flatnonzero(clip.present_NT.all(axis=1))
    assert len(found) == 2 and clip.present_NT.sum() == 4
    for k in range(2):
        n = next(n for n in found if clip.probabilities_NTK[n, 0].argmax() == targets.labels_K[k])
        np.testing.assert_allclose(clip.boxes_NT4[n], 2 * targets.boxes_KT4[k], atol=8)
        for t in range(2):
            mask, true = coco_mask.decode(clip.rles[n][t]), _twice_as_large(targets.masks_KTHW[k, t]).numpy()
            assert (mask & true).sum() / (mask | true).sum() > 0.7

    # A video that shows the clip and then the same clip backwards: its second half starts where the first one ends.
    backwards = TrackletPredictions(
        clip.probabilities_NTK[:, ::-1], clip.present_NT[:, ::-1], clip.boxes_NT4[:, ::-1], [rles[::-1] for rles in clip.rles])
    tracklets = link([([0, 1], clip), ([2, 3], backwards)], video_size, HandcraftConfig(score_threshold=0.1))
    assert [sorted(tracklet.rles) for tracklet in tracklets] == [[0, 1, 2, 3]] * 2
    assert {int(tracklet.score_K().argmax()) for tracklet in tracklets} == {0, 1}


def _twice_as_large(image):
    return image.repeat_interleave(2, -1).repeat_interleave(2, -2)
