"""The start of the paper: one network, trained on still pictures of another data set, from which all rows start (Sec. 4.1)."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.builders import tiny_config
from support.project import CHECKOUT, write_params

from effvis.errors import UserError
from effvis.methods import build_model
from effvis.model.efficientvis import EfficientVIS
from pipeline import methods, pretrain
from pipeline.engine.ship import ship
from pipeline.grid import rows, starts
from pipeline.grid.rows import evaluation_spec, load_grid, pretrain_spec
from pipeline.planning.prepare import prepare
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

PICTURES = {"train_videos": 6, "val_videos": 3}
SHIPPING = ["pretrain.source=auto"]
PEERS = [name for name in methods.names() if name != methods.DEFAULT]
START = {"source": "scratch", "dataset": "shapes-images", "train": {"epochs": 2, "batch_size": 3, "lr_drop_epoch": 1.5}}


@pytest.fixture(scope="module")
def project(_tiny_template, tmp_path_factory):
    """A project whose pictures are drawn and indexed; no test changes it."""
    folder = tmp_path_factory.mktemp("pictures") / "project"
    shutil.copytree(_tiny_template, folder)
    write_params(folder, generated={"shapes-images": PICTURES}, pretrain={"dataset": "shapes-images"}, seeds=2,
                 **{name: {"pretrain": START} for name in PEERS})
    prepare(load_params(folder / "params.yaml"), [])
    return folder


def params_of(project, *overrides):
    return load_params(project / "params.yaml", overrides)


def test_all_rows_with_one_backbone_share_the_pretraining_of_their_seed(project):
    params = params_of(project)
    parents: dict[int, set[str]] = {0: set(), 1: set()}
    trained = set()
    for name in ("table1a", "table1b", "table1c", "table1e", "table1f"):
        for row in load_grid(params, name):
            for spec in row.evaluations:
                parents[spec.train.seed].add(spec.train.parent.key)
                trained.add((spec.train.model.attention, spec.train.model.query, spec.train.model.dynamic_conv,
                             spec.train.correspondence))
    assert len(trained) > 6 and len(parents[0]) == len(parents[1]) == 1 and parents[0] != parents[1]
    deeper = evaluation_spec(params, RowSettings(backbone="R101"), 0).train.parent
    assert {deeper.key}.isdisjoint(parents[0] | parents[1])


def test_the_pretraining_is_of_pictures_without_time_identity_and_pairs(project):
    spec = evaluation_spec(params_of(project), RowSettings(attention="ftsa", cl=True), 1).train
    parent = spec.parent
    assert (parent.kind, parent.dataset_name, parent.seed, parent.correspondence) == ("pretrain", "shapes-images", 1, False)
    assert (parent.model.clip_length, parent.model.attention, parent.model.num_classes) == (1, "spatial", 8)
    assert parent.categories[:2] == ("dome", "diamond") and spec.categories[:2] == ("circle", "square")
    assert methods.get("efficientvis").clips_per_video(parent.train, 1, longest_video=1) == 1
    assert spec.init == f"run:{parent.key}" and spec.seed == 1
    own = evaluation_spec(params_of(project, "pretrain.dataset=own"), RowSettings(attention="ftsa", cl=True), 1).train.parent
    assert (own.dataset_name, own.model.attention, own.correspondence) == ("shapes-vis", "ftsa", True)


@pytest.mark.parametrize("method", PEERS)
def test_peers_have_pretrainings_of_their_own_on_single_pictures(project, method):
    """What their authors start from was trained on COCO's images, without anything that needs a second frame."""
    parent = evaluation_spec(params_of(project), RowSettings(method=method), 0).train.parent
    assert (parent.method, parent.dataset_name, parent.model.clip_length) == (method, "shapes-images", 1)
    assert methods.get(method).clips_per_video(parent.train, 1, longest_video=1) == 1
    assert getattr(parent.model, "tracking", "none") == "none"


def outputs(model, frames_BTCHW):
    model.eval()
    with torch.no_grad():
        features = model.features(frames_BTCHW)
        last = model(features)[-1]
        return last.boxes_BNT4, last.query_BNTC, model.mask_logits(features, last)


@pytest.mark.parametrize("scheme", ["ftsa", "ftsa-st", "spatial"])
def test_a_row_begins_as_the_detector_in_each_frame(scheme):
    """Without Eq. 3, which mixes frames by itself, the detector's outputs for each of three frames; with it, in each of three
    equal ones. Temporal attention does nothing yet."""
    torch.manual_seed(3)
    detector = EfficientVIS(tiny_config(1, attention="spatial", num_classes=8))
    frames = torch.randint(0, 256, (1, 3, 3, 32, 48), dtype=torch.uint8)
    alone = [outputs(detector, frames[:, t: t + 1]) for t in range(3)]
    still = frames[:, :1].expand(-1, 3, -1, -1, -1)
    for dynamic_conv, clip, expected in (("still", frames, alone), ("temporal", still, alone[:1] * 3)):
        row = EfficientVIS(tiny_config(3, attention=scheme, dynamic_conv=dynamic_conv))
        starts.Initial(detector.state_dict(), tuple("abcdefgh")).load_into(row, list("zyx"))
        for found, parts in zip(outputs(row, clip), zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(found, torch.cat(parts, dim=2), rtol=1e-4, atol=1e-4)


def test_attention_over_time_alone_begins_as_the_spatial_one_that_sees_itself():
    """With a single tracklet and frame, spatial and temporal attention see the same embedding."""
    torch.manual_seed(3)
    detector = EfficientVIS(tiny_config(1, attention="spatial", queries=1))
    row = EfficientVIS(tiny_config(1, attention="temporal", queries=1))
    row.load_initial(detector.state_dict())
    frames = torch.randint(0, 256, (1, 1, 3, 32, 48), dtype=torch.uint8)
    for found, wanted in zip(outputs(row, frames), outputs(detector, frames), strict=True):
        torch.testing.assert_close(found, wanted)


def class_rows(method, model):
    """Parameters with a row per class, as their names say it."""
    words = {"masktrack_rcnn": ("class_logits", "box_head.deltas", "mask_head.mask_logits")}.get(method, ("class_logits",))
    return [name for name in model.state_dict() if any(word in name for word in words)]


@pytest.mark.parametrize("method", methods.names())
def test_class_layers_are_learned_anew_even_if_there_are_as_many(project, method):
    params = params_of(project)
    spec = evaluation_spec(params, RowSettings(T=3, method=method), 0).train
    detector = build_model(spec.model.at_one_frame())
    row = build_model(spec.model)
    before = {name: value.clone() for name, value in row.state_dict().items()}
    other = tuple(f"another {name}" for name in spec.categories)
    starts.Initial(detector.state_dict(), other).load_into(row, spec.categories)
    after, anew = row.state_dict(), class_rows(method, row)
    assert anew and all(torch.equal(after[name], before[name]) for name in anew)
    carried = [name for name, value in detector.state_dict().items() if name not in anew and ".logits." not in name
               and name in after and value.shape == after[name].shape and not torch.equal(value, before[name])]
    assert len(carried) > 10 and all(torch.equal(after[name], detector.state_dict()[name]) for name in carried)


def shipped(project, tmp_path, monkeypatch, params):
    """The pretraining of seed 0, shipped without having been trained."""
    spec = pretrain_spec(params, RowSettings(), 0)
    weights = tmp_path / "weights.safetensors"
    save_file(dict(build_model(spec.model).state_dict()), weights)
    facts = {"method": spec.method, "correspondence": False, "seed": spec.seed, "categories": list(spec.categories),
             "dataset": {"shapes": params.of_dataset("shapes-images").shapes_config.model_dump(mode="json")},
             "model": spec.model.model_dump(mode="json")}
    starts.ship("pictures", weights, facts, folder=tmp_path / "s")
    for function in (starts.find_shipped, starts.load):
        monkeypatch.setitem(function.__kwdefaults__, "folder", tmp_path / "s")


def test_shipped_weights_are_for_rows_of_their_seed_and_of_the_same_pictures(project, tmp_path, monkeypatch):
    params = params_of(project, *SHIPPING)
    shipped(project, tmp_path, monkeypatch, params)
    for row in (RowSettings(attention="joint"), RowSettings(cl=False, T=3), RowSettings(query="time-shared")):
        first, second = (evaluation_spec(params, row, seed).train for seed in (0, 1))
        assert first.init.startswith("shipped:pictures@") and first.parent is None
        assert second.init == f"run:{second.parent.key}" and second.parent.seed == 1
    assert starts.load(first.init).classes[:2] == ("dome", "diamond")
    with pytest.raises(UserError, match="pretrained with seed 1 on shapes-images"):
        evaluation_spec(params_of(project, "pretrain.source=shipped"), row, 1)
    other = params_of(project, *SHIPPING, "generated.shapes-images.min_objects=1")
    assert rows.find_shipped(other, row, 0) is None
    # Where seed 0 alone is run, nothing has to be drawn.
    names = [one.dataset_name for one in rows.datasets_of_row(params, row, [0])]
    assert names == ["shapes-vis"]
    assert [one.dataset_name for one in rows.datasets_of_row(params, row)] == ["shapes-vis", "shapes-images"]


def test_pretrainings_on_frames_of_the_videos_are_no_start_for_rows_that_ask_for_pictures(project):
    """Those in effvis/pretrained that were trained on shapes-vis itself."""
    real = load_params(CHECKOUT / "params.yaml")
    for name in methods.names():
        assert rows.find_shipped(real, RowSettings(method=name), 1) is None
        found = rows.find_shipped(real, RowSettings(method=name), 0)
        if found is not None:
            facts = starts.described(found)[1]
            assert facts["dataset"]["name"] == real.of_pretraining(name).dataset_name == "shapes-images"


def test_pictures_are_drawn_when_a_row_needs_them(tiny_project):
    folder = tiny_project(generated={"shapes-images": PICTURES}, pretrain={"dataset": "shapes-images"})
    params = load_params(folder / "params.yaml")
    with pytest.raises(UserError, match="shapes-images is not indexed"):
        evaluation_spec(params, RowSettings(), 0)
    prepare(load_params(folder / "params.yaml", ["pretrain.source=none"]), ["table1e"])
    assert not (folder / "data" / "shapes-images").exists()
    prepare(params, ["table1e"])
    assert evaluation_spec(params, RowSettings(), 0).train.parent.dataset_digest


@pytest.mark.slow
def test_a_row_is_trained_from_pictures(project, tmp_path):
    from pipeline.engine.run import train_run
    from pipeline.engine.training import initial_weights

    params = params_of(project, f"runs_dir={tmp_path / 'runs'}")
    spec = evaluation_spec(params, RowSettings(T=3), 0).train
    train_run(params, spec)
    store = RunStore(params.runs_dir)
    assert store.is_done(spec.parent.key) and store.done(spec.parent.key)["steps"] == 4
    initial = initial_weights(params, spec, store)
    assert initial.classes == spec.parent.categories
    facts = ship(params, spec.parent, "own", "the command", folder=tmp_path / "s")
    assert facts["seed"] == 0 and facts["dataset"]["name"] == "shapes-images" and facts["categories"][0] == "dome"
    assert facts["metrics"]["AP"] >= 0
    written = yaml.safe_load((tmp_path / "s" / "own.yaml").read_text())
    assert written["dataset"]["shapes"]["frames"] == 1


def test_pictures_teach_no_correspondence(project):
    with pytest.raises(UserError, match="--cl: on: pictures of shapes-images teach no correspondence.*pretrain.dataset: own"):
        pretrain.main(["--params", str(project / "params.yaml"), "--cl", "on"])
