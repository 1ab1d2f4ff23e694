"""Published CrossVIS and CondInst compute the same here: networks written from their sources, and their conversions."""

import pytest
import torch
from safetensors.torch import save_file
from support.published_condinst import EMBEDDING, IDENTITIES, MASKS, WIDTH, AdelaiDet, as_mmdetection, randomise

from effvis.crossvis.convert import convert_crossvis, published_form
from effvis.crossvis.model import CrossVIS
from effvis.errors import UserError
from effvis.model.categories import COCO
from pipeline import methods
from pipeline.grid import starts
from pipeline.methods.base import Classes

METHOD = methods.get("crossvis")


def settings():
    small = METHOD.settings()
    return small.model_copy(update={"model": small.model.model_copy(update=dict(
        hidden_dim=WIDTH, norm_groups=4, mask_branch_dim=MASKS, embedding_dim=EMBEDDING))})


@pytest.fixture(scope="module")
def crossvis():
    with torch.no_grad():
        return randomise(AdelaiDet(classes=3), seed=1)


@pytest.fixture(scope="module")
def condinst():
    with torch.no_grad():
        return randomise(AdelaiDet(classes=80, embeddings=False, semantic=True), seed=2)


def outcomes(conversion):
    return {(fate.outcome, fate.reason) for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")}


@torch.no_grad()
def test_a_published_crossvis_computes_the_same_here(crossvis):
    conversion = METHOD.convert(crossvis.state_dict(), settings(), Classes(3), None, "test.pth", "")
    assert outcomes(conversion) == {("loaded", ""), ("dropped", "a constant there")}
    assert (conversion.config.identities, conversion.config.norm) == (IDENTITIES, "batch")
    assert conversion.form == {"stride_in_1x1": True}
    model = CrossVIS(conversion.config).eval()
    model.load_state_dict(conversion.weights)
    frames = torch.randint(0, 256, (1, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (levels, masks), own = crossvis(frames), model(frames)
    for values, kind in zip((own.logits_FPK, own.reach_FP4, own.centreness_FP[..., None], own.filters_FPQ, own.embedding_FPE),
                            zip(*levels, strict=True), strict=True):
        expected = torch.cat([level.flatten(2).transpose(1, 2) for level in kind], dim=1)
        assert expected.std() > 1e-2
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
    torch.testing.assert_close(own.mask_features_FMHW, masks, rtol=1e-3, atol=1e-3 * masks.abs().max().item())
    torch.testing.assert_close(model.identity.weight, crossvis.cls.weight)


def test_a_condinst_has_all_but_embeddings_and_carries_classes_over_by_name(condinst):
    names = ("cat", "motorbike", "giant_panda")
    conversion = METHOD.convert(condinst.state_dict(), settings(), Classes(3, names), None, "test.pth", "")
    left = {fate.name.split(".")[1 if fate.name.startswith("head") else 0] for fate in conversion.fates
            if fate.outcome == "left at init"}
    assert left == {"embedding_tower", "embedding", "identity"}
    assert ("dropped", "the semantic segmentation of CondInst's training") in outcomes(conversion)
    assert dict(conversion.by_name) == {"cat": "cat", "motorbike": "motorcycle", "giant_panda": None}
    published = condinst.proposal_generator.fcos_head.cls_logits.weight
    torch.testing.assert_close(conversion.weights["head.class_logits.weight"][:2], published[[COCO.index("cat"), 3]])
    assert METHOD.class_names(condinst.state_dict(), (), where="test.pth", hint="") == COCO


def test_mmdetection_s_condinst_becomes_the_same_network(condinst):
    """But for pixels and the place of the stride, in which the two projects differ."""
    ours = METHOD.convert(condinst.state_dict(), settings(), Classes(80), None, "test.pth", "")
    other = METHOD.convert(as_mmdetection(condinst.state_dict()), settings(), Classes(80), None, "test.pth", "")
    assert {outcome for outcome, _ in outcomes(other)} == {"loaded", "left at init"}
    assert other.config.norm == "batch" and other.form == {"stride_in_1x1": False}
    reached = {fate.name for fate in other.fates if fate.outcome == "loaded"}
    assert reached == {fate.name for fate in ours.fates if fate.outcome == "loaded"}
    for name in reached - {"backbone.body.conv1.weight"}:
        torch.testing.assert_close(other.weights[name], ours.weights[name])


def test_a_start_of_another_form_is_refused(crossvis, tmp_path):
    conversion = METHOD.convert(crossvis.state_dict(), settings(), Classes(3), None, "test.pth", "")
    save_file(conversion.weights, tmp_path / "start.safetensors", metadata=starts.metadata(conversion))
    with pytest.raises(UserError, match=r"crossvis\.model\.stride_in_1x1.*start\.safetensors"):
        starts.check_form(tmp_path / "start.safetensors", conversion.config.model_copy(update={"stride_in_1x1": False}),
                          where="params.yaml", prefix="crossvis.model.")


def test_a_start_keeps_identities_and_classes_only_where_there_are_as_many(crossvis):
    conversion = METHOD.convert(crossvis.state_dict(), settings(), Classes(3), None, "test.pth", "")
    model = CrossVIS(conversion.config.model_copy(update={"identities": 9, "num_classes": 4}))
    stay = model.load_initial(conversion.weights)
    assert stay == ["head.class_logits.weight", "head.class_logits.bias", "identity.weight", "identity.bias"]
    with pytest.raises(ValueError, match="is not in both networks"):
        model.load_initial({name: value for name, value in conversion.weights.items() if "centreness" not in name})


def test_wrong_files_say_what_is_wrong(crossvis):
    with pytest.raises(UserError, match="test.pth.*no known network.*CrossVIS.*CondInst"):
        METHOD.convert({"weight": torch.zeros(1)}, settings(), Classes(3), None, "test.pth", "")
    deep = settings()
    deep = deep.model_copy(update={"model": deep.model.model_copy(update={"backbone": "resnet101"})})
    with pytest.raises(UserError, match=r"test.pth.*backbone is not this network's.*crossvis\.model\.backbone"):
        METHOD.convert(crossvis.state_dict(), deep, Classes(3), None, "test.pth", "")
    with pytest.raises(UserError, match="names 2 classes, but the class layer has 3 rows"):
        METHOD.class_names(crossvis.state_dict(), ("a", "b"), where="test.pth", hint="")
    wide = settings().model.resolve(3, 1).model_copy(update={"mask_branch_dim": 8})
    with pytest.raises(UserError, match="Set the model's sizes"):
        config = published_form(crossvis.state_dict(), wide, where="test.pth")
        convert_crossvis(crossvis.state_dict(), CrossVIS(config), where="test.pth")
