"""Recomputed activations change no gradient; frozen stages learn nothing."""

import pytest
import torch
from support.builders import tiny_config

from effvis.config import TrainConfig
from effvis.errors import UserError
from effvis.model.efficientvis import EfficientVIS
from effvis.model.recompute import prepare
from effvis.training.loop import optimizer_of


def resnet(**changes):
    torch.manual_seed(0)
    return EfficientVIS(tiny_config(2, backbone="resnet18", **changes)).train()


def gradients(model, *, autocast=False):
    frames = torch.randint(0, 255, (1, 2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = model.features(frames)
        outputs = model(features)
        total = sum(output.logits_BNTK.float().square().sum() + output.boxes_BNT4.float().sum() for output in outputs)
        total = total + sum(model.mask_logits(features, output).float().square().sum() for output in outputs)
    total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frozen", [0, 1])
def test_recomputing_changes_no_gradient(autocast, frozen):
    model = resnet()
    prepare(model, frozen_stages=frozen, recompute=False)
    kept = gradients(model, autocast=autocast)
    prepare(model, frozen_stages=frozen, recompute=True)
    again = gradients(model, autocast=autocast)
    assert {name for name, value in kept.items() if value is None} == {
        name for name, value in again.items() if value is None}
    for name, value in kept.items():
        if value is not None:
            torch.testing.assert_close(again[name], value, msg=name)


def saved_bytes(model):
    """Of all tensors that one forward pass keeps for the backward pass, each storage once."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model.features(torch.zeros(1, 2, 3, 64, 96))
        for output in model(features):
            model.mask_logits(features, output)
    return sum(storage.nbytes() for storage in found.values())


def test_recomputing_keeps_less():
    model = resnet()
    prepare(model, frozen_stages=1, recompute=False)
    kept = saved_bytes(model)
    prepare(model, frozen_stages=1, recompute=True)
    assert saved_bytes(model) < kept


def test_frozen_stages_learn_nothing():
    model = resnet()
    config = TrainConfig(frozen_stages=1, activation_checkpointing=True, weight_decay=0.5, lr=0.1)
    prepare(model, frozen_stages=config.frozen_stages, recompute=config.activation_checkpointing)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = optimizer_of(model, config)
    optimizer.param_groups[0]["lr"] = 0.1
    found = gradients(model)
    optimizer.step()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("backbone.body.conv1.", "backbone.body.layer1."))
        assert parameter.requires_grad != frozen, name
        if frozen:
            assert found[name] is None and torch.equal(parameter, before[name]), name
    assert not torch.equal(model.backbone.body.layer2[0].conv1.weight, before["backbone.body.layer2.0.conv1.weight"])
    prepare(model, frozen_stages=0, recompute=False)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_stages_cannot_freeze_any():
    model = EfficientVIS(tiny_config(2))
    prepare(model, frozen_stages=0, recompute=True)
    with pytest.raises(UserError, match="frozen_stages"):
        prepare(model, frozen_stages=1, recompute=False)


def test_the_settings_are_in_no_key_at_their_defaults():
    written = TrainConfig().model_dump()
    assert "activation_checkpointing" not in written and "frozen_stages" not in written
