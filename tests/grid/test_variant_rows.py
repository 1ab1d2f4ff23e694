"""The paper's ablation switches as rows set them: the configuration, the start and the clips of their training."""

import pytest
import torch
from safetensors.torch import save_file
from support.models import LAPTOP, SCHEMES

from effvis.errors import UserError
from effvis.methods import build_model
from effvis.model.efficientvis import EfficientVIS
from pipeline import ablate, methods
from pipeline.engine.training import initial_weights, start
from pipeline.grid.rows import evaluation_spec
from pipeline.grid.starts import StartRequired
from pipeline.indexing.read import load_clips, load_index
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings


def _train_spec(params, **row):
    return evaluation_spec(params, RowSettings(**row), 0).train


def test_rows_set_the_switches_over_the_parameters(tiny_project):
    params = load_params(tiny_project(model={"dynamic_conv": "still"}) / "params.yaml")
    plain = _train_spec(params, T=3)
    assert (plain.model.attention, plain.model.dynamic_conv, plain.model.query) == ("ftsa", "still", "time-disentangled")
    row = _train_spec(params, T=3, attention="joint", dynamic_conv="temporal", query="time-shared")
    assert row.model == plain.model.model_copy(
        update={"attention": "joint", "dynamic_conv": "temporal", "query": "time-shared"})
    assert row.key != plain.key


def test_rows_of_the_same_network_at_one_frame_share_its_pretraining(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    parent = _train_spec(params, T=3).parent
    for row in ({"dynamic_conv": "still"}, {"query": "time-shared"}):
        assert _train_spec(params, T=3, **row).parent == parent
    starts = {scheme: _train_spec(params, T=3, attention=scheme).parent for scheme in SCHEMES}
    assert starts["ftsa"] == parent and starts["joint"] == starts["spatial"]
    assert len({spec.key for spec in starts.values()}) == 4
    for scheme in SCHEMES:
        model = EfficientVIS(_train_spec(params, T=3, attention=scheme).model)
        assert model.load_initial(EfficientVIS(starts[scheme].model).state_dict()) == []


def test_shipped_weights_are_for_what_is_the_same_network_at_one_frame(tiny_project):
    """The laptop's weights fit the rows of table 1 with still convolution and shared queries, and only FTSA among the rows
    with attention schemes."""
    values = {name: value for name, value in LAPTOP.items() if name != "num_classes"} | {"mask_query": "refined"}
    params = load_params(tiny_project(model=values, pretrain={"source": "shipped"}) / "params.yaml")
    init = _train_spec(params, T=3).init
    assert init.startswith("shipped:laptop_cl@")
    for row in ({"dynamic_conv": "still"}, {"query": "time-shared"}):
        assert _train_spec(params, T=3, **row).init == init
    for scheme in SCHEMES[1:]:
        with pytest.raises(UserError, match="no shipped weights fit"):
            _train_spec(params, T=3, attention=scheme)


def test_augmentation_of_a_row_reaches_its_clip_pairs(tiny_project):
    params = load_params(tiny_project() / "params.yaml", ["train.scales=[0.5]", "train.crop_share=[0.5, 0.5]"])
    index, clips = load_index(params, "train"), load_clips(params, "train", 3)
    plain, scaled, cropped = (
        start(_train_spec(params, T=3, **row), index, clips, None).pairs.batch(0)
        for row in ({}, {"augmentation": "multi-scale"}, {"augmentation": "random-crop"}))
    assert plain.frames[0].shape[-2:] == (32, 48) and scaled.frames[0].shape[-2:] == (16, 24)
    assert cropped.frames[0].shape == plain.frames[0].shape
    batches = [start(_train_spec(params, T=3, augmentation="random-crop"), index, clips, None).pairs.batch(s) for s in range(4)]
    originals = [start(_train_spec(params, T=3), index, clips, None).pairs.batch(s) for s in range(4)]
    assert any(not torch.equal(a.frames[0], b.frames[0]) for a, b in zip(batches, originals, strict=True))


@pytest.mark.parametrize("method", methods.names())
def test_a_run_starts_from_a_file_of_weights(tiny_project, method):
    """Each method starts from the file that its own section names."""
    project, key = tiny_project(), f"{methods.get(method).prefix}pretrain.source"
    params = load_params(project / "params.yaml", [f"{key}=start.safetensors"])
    with pytest.raises(UserError, match=f"{key}: there is no file"):
        _train_spec(params, T=3, method=method)
    without = _train_spec(load_params(project / "params.yaml", [f"{key}=none"]), T=3, method=method)
    torch.manual_seed(5)
    weights = build_model(without.model.at_one_frame()).state_dict()
    save_file({name: value.contiguous() for name, value in weights.items()}, project / "start.safetensors")
    spec = _train_spec(params, T=3, method=method)
    assert spec.init.startswith("file:") and spec.key != without.key
    loaded = initial_weights(params, spec, RunStore(params.runs_dir)).weights
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    (project / "start.safetensors").write_bytes(b"another")
    with pytest.raises(UserError, match="changed after"):
        initial_weights(params, spec, RunStore(params.runs_dir))


@pytest.mark.parametrize("method", methods.names())
def test_where_a_start_is_required_nothing_starts_from_nothing(tiny_project, method, capsys):
    project, prefix = tiny_project(), methods.get(method).prefix
    none = [f"{prefix}pretrain.source=none", f"{prefix}model.backbone=resnet50", f"{prefix}model.hidden_dim=96"]
    params = load_params(project / "params.yaml", [*none, f"{prefix}pretrain.required=true"])
    with pytest.raises(StartRequired) as refused:
        _train_spec(params, T=3, method=method)
    published = methods.get(method).published[methods.get(method).usual_start["resnet50"]]
    assert refused.value.where == "params.yaml" and refused.value.key == f"{prefix}pretrain.source"
    for told in ("pipeline.import_weights --published", published.url, "{backbone}.safetensors"):
        assert told in refused.value.remedy
    assert _train_spec(load_params(project / "params.yaml", none), T=3, method=method).init is None

    # What --dry-run refuses to die of, it says.
    table = {"efficientvis": "table1e", "masktrack_rcnn": "table3", "queryinst": "table2", "vistr": "table1d"}.get(method)
    if table is None:
        return  # no table has a row of it
    overrides = [*none, f"{prefix}pretrain.required=true", "seeds=1"]
    arguments = [argument for override in overrides for argument in ("-S", override)]
    common = ["--params", str(project / "params.yaml"), "--grid", table, "--methods", method, *arguments]
    assert ablate.main([*common, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert f"warning: params.yaml: {prefix}pretrain.source" in shown.err and "missing" in shown.out
    with pytest.raises(StartRequired):
        ablate.main(common)


@pytest.mark.parametrize("method", methods.names())
def test_usual_starts_are_published_for_their_backbone(method):
    method = methods.get(method)
    # Of CondInst, CrossVIS's start, no file of a ResNet-101 has its checksum in its name.
    assert method.usual_start.keys() == {"resnet50", "resnet101"} - ({"resnet101"} if method.name == "crossvis" else set())
    assert all(method.published[name].backbone == backbone for backbone, name in method.usual_start.items())


def test_a_start_s_name_may_hold_the_backbone(tiny_project):
    project = tiny_project()
    params = load_params(project / "params.yaml", ["pretrain.source=coco-{backbone}.safetensors"])
    for value, backbone in enumerate(("tiny", "tiny-deep")):
        save_file({"weight": torch.full((1,), float(value))}, project / f"coco-{backbone}.safetensors")
    inits = {backbone: _train_spec(params, T=3, backbone=backbone).init for backbone in ("R50", "R101")}
    assert inits["R50"].startswith("file:") and inits["R50"] != inits["R101"]
    (project / "coco-tiny-deep.safetensors").unlink()
    with pytest.raises(UserError, match="no file .*coco-tiny-deep.safetensors.*Convert weights of a tiny-deep"):
        _train_spec(params, T=3, backbone="R101")
