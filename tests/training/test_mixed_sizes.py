"""Clips of different sizes in one batch: each is predicted and supervised as it is alone."""

from functools import partial

import pytest
import torch
from support.builders import clip_pairs, small_vistr, tiny_model
from support.mixed import RULE, mixed_index

from effvis.config import LossWeights
from effvis.training.correspondence import pair_losses
from effvis.training.losses import crop_masks
from effvis.vistr.config import VisTRLossWeights
from effvis.vistr.losses import pair_losses as vistr_losses

PAIRS, CLASSES = 6, 6


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """All six videos in one step, at sizes of which no side is a multiple of 32 alone."""
    index = mixed_index(tmp_path_factory.mktemp("mixed"))
    return clip_pairs(index, input_size=RULE, batch_size=PAIRS, augmentation="random-crop", crop_share=(0.5, 0.9))


def _network(frames=2, **changes):
    """Boxes far from the start, so that some reach beyond their frames."""
    model = tiny_model(frames, num_classes=CLASSES, **changes)
    with torch.no_grad():
        model.proposal_NT4 += torch.tensor([[[0.2, 0.1, 0.1, 0.2]], [[0.0, 0.3, -0.5, 0.1]], [[-0.2, 0.0, 0.0, -0.6]],
                                            [[0.3, 0.3, -0.4, -0.4]]])
    return model


def _sizes(batch, place=0):
    return [clip.size for clip in batch.targets[place]]


@pytest.mark.parametrize("changes", [{}, {"neighbour_crop": "here"}, {"backbone": "resnet18"}], ids=str)
@torch.no_grad()
def test_a_clip_is_predicted_as_it_is_alone(pairs, changes):
    model, batch = _network(**changes), pairs.batch(0)
    features = model.features(batch.frames[0], _sizes(batch))
    assert features.size_B4.tolist() == [[width, height] * 2 for height, width in _sizes(batch)]
    outputs, later = model(features), []
    chosen = model(features.select(slice(1, 4)), outputs[-1].query_BNTC[1:4])[-1]
    masks = model.mask_logits(features, outputs[-1])
    beyond = 0
    for b, (height, width) in enumerate(_sizes(batch)):
        alone = model.features(batch.frames[0][b: b + 1, ..., :height, :width])
        expected = model(alone)
        for output, wanted in zip(outputs, expected, strict=True):
            for name in ("logits_BNTK", "boxes_BNT4", "query_BNTC"):
                torch.testing.assert_close(getattr(output, name)[b], getattr(wanted, name)[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(masks[b], model.mask_logits(alone, expected[-1])[0], atol=1e-5, rtol=1e-5)
        beyond += int((outputs[-1].boxes_BNT4[b] > features.size_B4[b]).any())
        if b in (1, 2, 3):
            later = model(alone, expected[-1].query_BNTC)[-1]
            torch.testing.assert_close(chosen.logits_BNTK[b - 1], later.logits_BNTK[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(chosen.boxes_BNT4[b - 1], later.boxes_BNT4[0], atol=1e-5, rtol=1e-5)
    assert beyond, "no box reaches beyond its frame, where the padding is"


@torch.no_grad()
def test_what_is_in_the_padding_is_not_looked_at(pairs):
    model, batch = _network(), pairs.batch(0)
    noisy = torch.randint(0, 256, batch.frames[0].shape, dtype=torch.uint8)
    for b, (height, width) in enumerate(_sizes(batch)):
        noisy[b, ..., :height, :width] = batch.frames[0][b, ..., :height, :width]
    assert not torch.equal(noisy, batch.frames[0])
    plain, other = (model(model.features(frames, _sizes(batch)))[-1] for frames in (batch.frames[0], noisy))
    assert torch.equal(plain.logits_BNTK, other.logits_BNTK) and torch.equal(plain.boxes_BNT4, other.boxes_BNT4)


def _sums_to(losses_of, model, pairs, step):
    """The losses and gradient of a batch, and the sums over its pairs, each alone and with the whole batch's normaliser."""
    batch = pairs.batch(step)
    assert len(set(_sizes(batch))) > 2
    losses = losses_of(batch, counts=batch.counts())
    sum(losses.values()).backward()
    gradient = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    sums = dict.fromkeys(losses, 0.0)
    for b in range(PAIRS):
        alone = losses_of(pairs.batch(step, b, PAIRS), counts=batch.counts())
        sum(alone.values()).backward()
        for name, value in alone.items():
            sums[name] += value.item()
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(sums, abs=1e-9, rel=1e-9)
    assert all(value > 0 for value in sums.values())
    for name, parameter in model.named_parameters():
        if name in gradient:
            scale = gradient[name].abs().max().item()
            torch.testing.assert_close(parameter.grad, gradient[name], atol=1e-9 * max(scale, 1), rtol=1e-9)


@pytest.mark.parametrize("correspondence", [False, True])
def test_the_loss_of_a_batch_is_the_sum_of_its_clips_losses(pairs, correspondence):
    model = _network().double()
    for step in range(2):
        _sums_to(partial(pair_losses, model, weights=LossWeights(), correspondence=correspondence), model, pairs, step)
        model.zero_grad()


def test_vistr_takes_the_clips_of_each_size_by_themselves(pairs):
    model = small_vistr(num_classes=CLASSES).double()
    _sums_to(partial(vistr_losses, model, weights=VisTRLossWeights()), model, pairs, 0)


def test_masks_end_where_their_frames_do():
    """A full mask of 20x30 in 32x48: samples beyond it by up to half a pixel belong to it, as at the border of a whole mask."""
    alone, padded = torch.ones(1, 20, 30, dtype=torch.bool), torch.zeros(1, 32, 48, dtype=torch.bool)
    padded[:, :20, :30] = True
    boxes = torch.tensor([[20.0, 10, 40, 26], [25, 15, 31, 21], [0, 0, 30, 20]])
    image = torch.zeros(3, dtype=torch.int64)
    size = torch.tensor([[30.0, 20] * 2]).expand(3, -1)
    cut = crop_masks(padded, image, boxes, 16, size)
    assert torch.equal(cut, crop_masks(alone, image, boxes, 16))
    assert not torch.equal(cut, crop_masks(padded, image, boxes, 16))
