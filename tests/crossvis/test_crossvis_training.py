"""What the losses of CrossVIS do not depend on, what they reach, and that they fall."""

from dataclasses import replace

import pytest
import torch
from support.crossvis import PAIRS, frame, pairs_of, tiny_crossvis

from effvis.crossvis.config import CrossVISConfig, CrossVISLossWeights
from effvis.crossvis.losses import frame_losses, pair_losses
from effvis.errors import UserError
from effvis.model.recompute import prepare

WEIGHTS = CrossVISLossWeights()
WIDE = (frame([(6, 1, 4, 4, 30, 20)], size=(24, 64)), frame([(6, 1, 10, 2, 36, 18)], size=(24, 64)))
EMPTY = (frame([]), frame([]))


def numbers(losses):
    return {name: value.item() for name, value in losses.items()}


def mixed(*pairs):
    """A batch of pairs of several sizes, padded as ``ClipPairs`` pads them."""
    height, width = (max(pair[0][0].shape[side] for pair in pairs) for side in (-2, -1))
    return pairs_of(*(tuple((torch.nn.functional.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])), clip)
                            for pixels, clip in pair) for pair in pairs))


@torch.no_grad()
def test_parts_of_a_batch_add_up_to_it_in_any_order():
    model, all_pairs = tiny_crossvis(), (*PAIRS, WIDE, EMPTY)
    whole = mixed(*all_pairs)
    expected = numbers(pair_losses(model, whole, WEIGHTS))
    counts = whole.counts()
    parts = [numbers(pair_losses(model, mixed(*part), WEIGHTS, counts=counts))
             for part in (all_pairs[:1], all_pairs[3:], (all_pairs[2], all_pairs[1]))]
    assert {name: sum(part[name] for part in parts) for name in expected} == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_the_weights_scale_the_losses():
    model, batch = tiny_crossvis(), pairs_of(*PAIRS)
    plain = numbers(pair_losses(model, batch, WEIGHTS))
    assert min(plain.values()) > 0
    weights = CrossVISLossWeights(category=2, box=3, centreness=4, mask=5, crossover=6, embedding=7)
    scaled = numbers(pair_losses(model, batch, weights))
    assert scaled == pytest.approx({name: getattr(weights, name) * value for name, value in plain.items()})


@torch.no_grad()
def test_only_what_both_frames_show_crosses_over():
    """Where the second frame shows other instances, nothing crosses; filters that cross a frame's copy are its own."""
    model = tiny_crossvis()
    apart = frame_losses(model, torch.cat((PAIRS[0][0][0], PAIRS[1][0][0])), ([PAIRS[0][0][1]], [PAIRS[1][0][1]]))
    assert apart["crossover"].tolist() == [0, 0] and (apart["mask"] > 0).all()
    one = frame([(1, 0, 8, 8, 13, 13)])  # so small that few locations predict it
    copied = frame_losses(model, torch.cat((one[0], one[0])), ([one[1]], [one[1]]))
    assert copied["crossover"].tolist() == pytest.approx(copied["mask"].tolist(), rel=0.2)
    assert copied["mask"][0] == pytest.approx(copied["mask"][1])


def test_a_still_picture_is_learned_as_by_condinst():
    """The authors' start is a CondInst of COCO's images: nothing crosses over, and no identity is learned."""
    model = tiny_crossvis()
    pixels = torch.cat([pair[0][0] for pair in PAIRS])
    clips = [pair[0][1] for pair in PAIRS]
    of_pairs = frame_losses(model, torch.cat((pixels, pixels)), (clips, clips))
    beyond = [replace(clip, track_ids_K=clip.track_ids_K + 1000) for clip in clips]
    alone = frame_losses(model, pixels, (beyond,))
    for name, value_F in alone.items():
        expected_F = 0 * of_pairs[name][:2] if name in ("crossover", "embedding") else of_pairs[name][:2]
        torch.testing.assert_close(value_F, expected_F)
    sum(value_F.sum() for value_F in alone.values()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert not model.identity.weight.grad.any()


def test_every_weight_gets_a_gradient_even_without_an_instance():
    """So that no worker waits for another's (docs/cluster.md)."""
    model = tiny_crossvis()
    for batch in (pairs_of(*PAIRS), pairs_of(EMPTY)):
        model.zero_grad()
        losses = pair_losses(model, batch, WEIGHTS)
        sum(losses.values()).backward()
        assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
        assert all(weight.grad.isfinite().all() for weight in model.parameters())
    assert {name for name, value in losses.items() if value != 0} == {"category"}


def test_recomputed_activations_give_the_same_gradients_and_half_precision_is_near():
    model, batch = tiny_crossvis(), pairs_of(*PAIRS)

    def gradient(recompute=False, half=False):
        prepare(model, frozen_stages=0, recompute=recompute)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses = pair_losses(model, batch, WEIGHTS)
        assert all(value.dtype == torch.float32 for value in losses.values())
        sum(losses.values()).backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters()])

    expected = gradient()
    torch.testing.assert_close(gradient(recompute=True), expected)
    assert torch.cosine_similarity(gradient(half=True), expected, dim=0) > 0.98


def test_an_instance_beyond_the_identities_says_what_to_set():
    batch = pairs_of((frame([(21, 0, 4, 4, 16, 14)]), frame([])))
    with pytest.raises(UserError, match=r"crossvis\.model\.identities.*is 20.*id 21.*highest id"):
        pair_losses(tiny_crossvis(), batch, WEIGHTS)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="hidden_dim 20 is not a multiple of norm_groups 8"):
        CrossVISConfig(num_classes=1, hidden_dim=20, norm_groups=8)
    with pytest.raises(ValueError, match="stride_in_1x1.*tiny has no bottlenecks"):
        CrossVISConfig(num_classes=1, backbone="tiny", stride_in_1x1=True)


def test_all_losses_fall_on_two_videos():
    """A few steps; ``python -m benchmarks.overfit_drawn --method crossvis`` goes on until the masks are right."""
    model, batch = tiny_crossvis(), pairs_of(*PAIRS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        optimizer.zero_grad()
        losses = pair_losses(model, batch, WEIGHTS)
        sum(losses.values()).backward()
        optimizer.step()
        history.append(numbers(losses))
    assert all(history[-1][name] < 0.9 * history[0][name] for name in ("category", "box", "mask", "crossover", "embedding"))
