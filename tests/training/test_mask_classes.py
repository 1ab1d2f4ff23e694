"""Class-specific masks: what they learn from, what they start from, and the queries whose filters make masks."""

from dataclasses import replace

import pytest
import torch
from support.builders import pair_batch, tiny_config, tiny_model

from effvis.config import LossWeights
from effvis.model.efficientvis import EfficientVIS
from effvis.training.correspondence import pair_losses

ROWS = [f"mask_heads.{stage}.logits.{part}" for stage in range(2) for part in ("weight", "bias")]


def masks_moved(model):
    """The network with masks, and matches by them, away from their initial values."""
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if name in ROWS or ".box_deltas.weight" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def of_classes(label, pair=([0, 1], [1, 2])):
    """A batch of one pair of clips whose instances all have the class that ``label`` gives their tracks."""
    batch = pair_batch([pair], 2, seed=1, absent=True)
    return replace(batch, targets=tuple(
        [replace(clip, labels_K=torch.tensor([label(track) for track in clip.track_ids_K.tolist()])) for clip in clips]
        for clips in batch.targets))


@pytest.mark.parametrize("correspondence", [True, False])
@pytest.mark.parametrize("label, present", [(lambda track: 1, [1]), (lambda track: 0 if track == 1 else 2, [0, 2])])
def test_gradients_reach_the_rows_of_the_true_classes_alone(label, present, correspondence):
    model = masks_moved(tiny_model(2, seed=3, mask_classes="specific"))
    found = pair_losses(model, of_classes(label), LossWeights(), correspondence)
    sum(found.values()).backward()
    parameters = dict(model.named_parameters())
    for name in ROWS:
        reached = parameters[name].grad.flatten(1) if name.endswith("weight") else parameters[name].grad[:, None]
        assert reached.abs().amax(dim=1).nonzero().flatten().tolist() == present, name


@torch.no_grad()
@pytest.mark.parametrize("correspondence", [True, False])
def test_the_losses_are_those_of_the_true_classes_mask(correspondence):
    """They are those of a class-agnostic network with this mask, whatever masks the other classes have, and the best scored."""
    specific = masks_moved(tiny_model(2, seed=3, mask_classes="specific")).double()
    agnostic = EfficientVIS(tiny_config(2)).double()
    weights = specific.state_dict()
    agnostic.load_state_dict({name: value[1:2] if name in ROWS else value for name, value in weights.items()})
    batch = of_classes(lambda track: 1)
    expected = pair_losses(agnostic, batch, LossWeights(), correspondence)
    assert expected["dice"] > 0 and expected["bce"] > 0
    best = specific(specific.features(batch.frames[0]))[-1].best_classes()
    assert (best != 1).any()
    for row, same in ((0, True), (2, True), (1, False)):
        changed = {name: value.clone() for name, value in weights.items()}
        for name in ROWS:
            changed[name][row] += 1.0
        specific.load_state_dict(changed)
        found = pair_losses(specific, batch, LossWeights(), correspondence)
        for name in ("focal", "l1", "giou", "dice", "bce"):
            if same:
                torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=1e-9)
        assert same or not torch.isclose(found["bce"], expected["bce"])


def test_class_specific_masks_start_from_the_agnostic_one_and_it_from_their_mean():
    specific, agnostic = (masks_moved(tiny_model(1, seed=seed, mask_classes=kind))
                          for seed, kind in ((1, "specific"), (2, "agnostic")))
    to_specific, to_agnostic = (EfficientVIS(tiny_config(3, mask_classes=kind)) for kind in ("specific", "agnostic"))
    assert to_specific.load_initial(agnostic.state_dict()) == [] and to_agnostic.load_initial(specific.state_dict()) == []
    for name in ROWS:
        one, three = agnostic.state_dict()[name], specific.state_dict()[name]
        assert torch.equal(to_specific.state_dict()[name], one.expand_as(three)), name
        torch.testing.assert_close(to_agnostic.state_dict()[name], three.sum(dim=0, keepdim=True) / 3)
    other = EfficientVIS(tiny_config(3, mask_classes="specific", num_classes=5))
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    left = other.load_initial(specific.state_dict())
    assert set(ROWS) < set(left) and all(name in ROWS or ".class_logits." in name for name in left)
    assert all(torch.equal(other.state_dict()[name], fresh[name]) for name in left)
    # Where the classes are others but the start's mask is for all of them, only the class layers are new.
    assert all(".class_logits." in name for name in other.load_initial(agnostic.state_dict()))


@torch.no_grad()
@pytest.mark.parametrize("query", ["time-shared", "time-disentangled"])
@pytest.mark.parametrize("which", ["attended", "refined"])
def test_masks_are_made_by_the_query_that_is_set(which, query):
    model = tiny_model(3, seed=5, mask_query=which, query=query).eval()
    features = model.features(torch.randint(0, 255, (2, 3, 3, 32, 48), dtype=torch.uint8))
    attended, filters = [], []
    for interaction, head in zip(model.interactions, model.mask_heads, strict=True):
        interaction.attention.register_forward_hook(lambda module, inputs, result: attended.append(result))
        head.register_forward_pre_hook(lambda module, inputs: filters.append(inputs[0]))
    outputs = model(features)
    for stage, output in enumerate(outputs):
        model.mask_logits(features, output)
        expected = attended[stage] if which == "attended" else output.query_BNTC
        assert torch.equal(filters[stage], expected) and torch.equal(output.mask_query_BNTC, expected)
        assert not torch.allclose(attended[stage], output.query_BNTC, atol=1e-3)
        # The learned queries are the same in all frames, and equal ones attend alike.
        first_attended = stage == 0 and which == "attended"
        same_in_all_frames = torch.allclose(expected, expected[:, :, :1].expand_as(expected), atol=1e-6)
        assert same_in_all_frames == (query == "time-shared" or first_attended)


@torch.no_grad()
@pytest.mark.parametrize("query", ["time-shared", "time-disentangled"])
def test_the_query_of_masks_changes_masks_alone(query):
    attended, refined = (tiny_model(3, seed=5, mask_query=which, query=query).eval() for which in ("attended", "refined"))
    features = attended.features(torch.randint(0, 255, (1, 3, 3, 32, 48), dtype=torch.uint8))
    for one, other in zip(attended(features), refined(features), strict=True):
        for name in ("logits_BNTK", "boxes_BNT4", "query_BNTC"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert not torch.allclose(attended.mask_logits(features, one), refined.mask_logits(features, other))
