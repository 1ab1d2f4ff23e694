"""Parameters and table rows become complete configurations; a mistake gives an error that names file and key."""

import hashlib
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.grid import starts
from pipeline.grid.rows import find_evaluation, headline_spec, known_tables, load_grid, load_table
from pipeline.indexing import build
from pipeline.settings.loading import load_params

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    """The project's own params.yaml and experiments in another folder."""
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    shutil.copytree(PROJECT / "experiments", tmp_path / "experiments")
    return tmp_path


def set_param(project, dotted, value, file="params.yaml"):
    path = project / file
    values = yaml.safe_load(path.read_text())
    section = values
    *parents, last = dotted.split(".")
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    path.write_text(yaml.safe_dump(values))


def test_the_file_wins_over_the_profile_and_the_command_line_over_both(project):
    set_param(project, "train.lr", 0.25)
    set_param(project, "train.loss.dice", 7)
    params = load_params(project / "params.yaml", ["train.lr=0.125", "resources.slots=1"])
    profile = yaml.safe_load((project / "experiments/profiles/laptop.yaml").read_text())
    assert params.train.lr == 0.125
    assert params.train.loss.dice == 7 and params.train.loss.focal == profile["train"]["loss"]["focal"]
    assert params.train.epochs == profile["train"]["epochs"]
    assert params.resources.slots == 1 and params.resources.threads == profile["resources"]["threads"]


def test_folders_are_relative_to_the_file_wherever_one_stands(project, monkeypatch):
    monkeypatch.chdir(project.parent)
    params = load_params(f"{project.name}/params.yaml")
    assert params.root == project
    assert params.runs_dir == project / "runs" and params.results_dir == project / "results"
    assert params.dataset_folder == project / "data" / "shapes-vis" and params.dataset_name == "shapes-vis"
    assert params.index_folder == project / "data" / "index" / "data" / "shapes-vis"
    named = load_params(project / "params.yaml", ["dataset=shapes-vis"])
    assert (named.dataset_folder, named.index_folder) == (params.dataset_folder, params.index_folder)
    for dataset in ("videos/dogs", "/videos/dogs"):
        other = load_params(project / "params.yaml", [f"dataset={dataset}"])
        assert other.dataset_folder == project / dataset and other.dataset_name == "dogs"
        assert other.index_folder == project / "data/index/videos/dogs"


def test_a_null_in_the_file_leaves_what_the_profile_has(project):
    profile = yaml.safe_load((project / "experiments/profiles/laptop.yaml").read_text())
    set_param(project, "train.lr", None)
    assert load_params(project / "params.yaml").train.lr == profile["train"]["lr"]
    set_param(project, "train", None)
    assert load_params(project / "params.yaml").train.epochs == profile["train"]["epochs"]
    set_param(project, "inference.test_fps", 3, "experiments/profiles/laptop.yaml")
    assert load_params(project / "params.yaml", ["inference.test_fps=null"]).inference.test_fps is None


def test_params_travel_to_other_processes(project):
    params = load_params(project / "params.yaml")
    copy = pickle.loads(pickle.dumps(params))
    assert copy == params and copy.root == params.root


def test_on_and_off_are_words_although_yaml_reads_truth_values(project):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "\ntrain: {correspondence: off}\n")
    assert load_params(project / "params.yaml").train.correspondence == "off"


@pytest.mark.parametrize("key, value, named", [
    ("learning_rate", 1, "learning_rate"),
    ("train.lrr", 1, "train.lrr"),
    ("train.loss.gioU", 1, "train.loss.gioU"),
    ("shapes.occlusionn", 0.5, "shapes.occlusionn"),
    ("train.lr", "fast", "train.lr"),
    ("train", 3, "train"),
    ("seeds", 0, "seeds"),
    ("input_size", [64], "input_size.1"),
    ("index.clip_lengths", [3, -1], "index.clip_lengths.1"),
    ("model.hidden_dim", 50, "model"),
    ("model.num_classes", 5, "model.num_classes"),
    ("model.clip_length", 5, "model.clip_length"),
    ("pretrain.train.correspondence", True, "pretrain.train.correspondence"),
    ("pretrain.source", "cloud", "pretrain.source"),
    ("scale.T", {9: "three"}, "scale.T.9"),
    ("profile", "mainframe", "profile"),
    ("profile", "../profiles/laptop", "profile"),
    ("headline.linking", "magic", "headline.linking"),
])
def test_a_wrong_parameter_names_the_file_and_the_dotted_key(project, key, value, named):
    set_param(project, key, value)
    with pytest.raises(UserError) as caught:
        load_params(project / "params.yaml")
    assert (caught.value.where, caught.value.key) == (str(project / "params.yaml"), named)
    assert caught.value.remedy


def test_the_profile_and_the_command_line_are_named_where_they_are_wrong(project):
    with pytest.raises(UserError, match=r"^command line: train\.lrr: unknown key"):
        load_params(project / "params.yaml", ["train.lrr=1"])
    with pytest.raises(UserError, match=r"-S train\.lr: is not an override"):
        load_params(project / "params.yaml", ["train.lr"])
    with pytest.raises(UserError, match=r"-S a\.\.b=1"):
        load_params(project / "params.yaml", ["a..b=1"])
    set_param(project, "train.lr", "fast", "experiments/profiles/laptop.yaml")
    with pytest.raises(UserError) as caught:
        load_params(project / "params.yaml")
    assert caught.value.where == str(project / "experiments/profiles/laptop.yaml") and caught.value.key == "train.lr"


@pytest.mark.parametrize("text, problem", [("a: [1", "is not YAML"), ("- a\n", "not a mapping"), (None, "cannot be read")])
def test_a_file_that_cannot_be_read_as_parameters(tmp_path, text, problem):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=problem) as caught:
        load_params(path)
    assert caught.value.where == str(path)


TINY_SHAPES = {"train_videos": 3, "val_videos": 2, "test_videos": 0, "frames": 8, "height": 32, "width": 48, "min_radius": 5,
               "max_radius": 8}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A project with a tiny dataset that is drawn and indexed; its videos have 8 frames."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "params.yaml", project)
    shutil.copytree(PROJECT / "experiments", project / "experiments")
    for name, value in TINY_SHAPES.items():
        set_param(project, f"shapes.{name}", value)
    set_param(project, "pretrain.source", "scratch")
    for prefix in ("", "vistr.", "queryinst.", "masktrack_rcnn.", "crossvis."):
        set_param(project, f"{prefix}pretrain.dataset", "own")
    params = load_params(project / "params.yaml")
    place.put_in_place(params)
    build.build(params)
    return project


def params_of(project, *overrides):
    return load_params(project / "params.yaml", overrides)


def test_a_row_becomes_the_configuration_that_it_describes(indexed):
    params = params_of(indexed, "scale.T={9: 3, 18: 6, 36: 12}", "seeds=2")
    without, with_cl = load_grid(params, "table1e")
    assert (without.name, with_cl.name) == ("w/o CL", "w/ CL")
    assert without.published == {"AP": 7.4, "AP50": 19.0, "AP75": 5.9, "AR1": 9.8, "AR10": 13.5}
    assert [spec.train.seed for spec in with_cl.evaluations] == [0, 1]
    spec = without.evaluations[1]
    assert spec.train.model.model_dump() == params.model.model_dump() | {"num_classes": 5, "clip_length": 3}
    assert spec.train.train.model_dump() == params.train.model_dump() | {"correspondence": False}
    assert spec.train.input_size == (96, 144) and spec.inference == params.inference
    assert with_cl.evaluations[1].train.train.correspondence
    # The start is trained on single frames, with correspondence learning if the row has it, and with the row's seed.
    start = spec.train.parent
    assert (start.kind, start.seed, start.model.clip_length, start.parent) == ("pretrain", 1, 1, None)
    assert start.train.model_dump() == params.pretrain.train.model_dump() | {"correspondence": False}
    assert spec.train.init == f"run:{start.key}" and without.evaluations[0].train.parent == replace(start, seed=0)
    assert with_cl.evaluations[1].train.parent != start


def test_a_method_may_have_an_input_size_of_its_own(indexed):
    """A method without one has the common size, which is in its keys as it was when there was no other."""
    def specs(*overrides):
        rows = load_grid(params_of(indexed, "vistr.pretrain.source=scratch", *overrides), "table1d")
        return {row.evaluations[0].train.method: row.evaluations[0].train for row in rows}

    plain, own = specs(), specs("vistr.input_size={shorter: 48, longer: 80}")
    assert own["efficientvis"] == plain["efficientvis"]
    assert plain["efficientvis"].input_size == plain["vistr"].input_size == (96, 144)
    assert plain["vistr"].describe()["input_size"] == [96, 144]
    assert own["vistr"].describe()["input_size"] == {"shorter": 48, "longer": 80}
    assert own["vistr"].key != plain["vistr"].key and own["vistr"].parent.input_size == own["vistr"].input_size


def test_rows_share_trainings_and_differ_in_how_they_are_tested(indexed):
    params = params_of(indexed)
    table = load_table(params, "table1d")
    short_linked, short, vistr, long_linked, long = table.rows
    assert vistr.evaluations[0].train.method == "vistr" and vistr.published["AP"] == 29.7
    assert [s.train for s in short_linked.evaluations] == [s.train for s in short.evaluations]
    assert short_linked.evaluations[0].inference.linking == "hand-craft"
    assert short_linked.evaluations[0].key != short.evaluations[0].key
    assert long.evaluations[0].train.model.clip_length == 6
    assert long.evaluations[0].train.parent == short.evaluations[0].train.parent
    full, sparse = load_grid(params, "table1h")
    assert [s.train for s in full.evaluations] == [s.train for s in short.evaluations]
    assert full.evaluations[0].inference == short.evaluations[0].inference.model_copy(update={"same_frames_fps": 1.5})
    assert sparse.evaluations[0].inference.test_fps == 1.5 and sparse.evaluations[0].train == full.evaluations[0].train
    assert headline_spec(params, 1) == find_evaluation(params, "table1e:w/ CL", 1)
    assert find_evaluation(params, "table1d:T=18 Hand-craft") == long_linked.evaluations[0]


def test_correspondence_is_learned_where_videos_are_longer_than_a_clip(indexed):
    def learns(*overrides):
        return headline_spec(params_of(indexed, *overrides)).train.train.correspondence

    assert learns("headline={T: 7}") and not learns("headline={T: 8}") and not learns("headline={T: 36}")
    assert learns("headline={T: 8}", "train.correspondence=on")
    assert not learns("headline={T: 7}", "train.correspondence=off")
    assert learns("headline={T: 8, cl: on}") and not learns("headline={T: 7, cl: off}")


@pytest.mark.parametrize("override", [
    "resources={slots: 7, threads: 3, checkpoint_seconds: 1, prefetch: true}",
    "runs_dir=elsewhere", "results_dir=there", "seeds=5",
    "tables=[table1e]", "index.clip_lengths=[2]",
])
def test_what_decides_no_weight_is_in_no_key(indexed, override):
    assert headline_spec(params_of(indexed, override)).key == headline_spec(params_of(indexed)).key


@pytest.mark.parametrize("override", [
    "train.lr=0.1", "train.loss.bce=3", "model.queries=7", "input_size=[32, 48]", "input_size={shorter: 64, longer: 96}",
    "pretrain.train.epochs=1",
    "pretrain.source=none", "scale.T.9=4", "train.batch_size=3",
])
def test_what_decides_a_weight_is_in_its_key(indexed, override):
    assert headline_spec(params_of(indexed, override)).train.key != headline_spec(params_of(indexed)).train.key


def test_inference_is_in_the_evaluation_s_key_alone(indexed):
    changed, plain = headline_spec(params_of(indexed, "inference.reinit_after=3")), headline_spec(params_of(indexed))
    assert changed.train.key == plain.train.key and changed.key != plain.key


def test_a_moved_project_keeps_its_keys(indexed, tmp_path):
    shutil.copytree(indexed, tmp_path / "moved")
    assert headline_spec(params_of(tmp_path / "moved")).key == headline_spec(params_of(indexed)).key


def test_specs_travel_and_compare(indexed):
    spec = headline_spec(params_of(indexed))
    assert pickle.loads(pickle.dumps(spec)) == spec and len({spec, headline_spec(params_of(indexed))}) == 1
    assert yaml.safe_load(yaml.safe_dump(spec.train.describe()))["key"] == spec.train.key


def test_an_unknown_table_lists_those_there_are(indexed):
    params = params_of(indexed)
    assert known_tables(params) == [*(f"table1{letter}" for letter in "abcdefgh"), "table2", "table3", "text31"]
    for name in ("table9z", "../params", "profiles/laptop", "claims"):
        with pytest.raises(UserError, match="table1d, table1e, table1f, .*, table3, text31") as caught:
            load_grid(params, name)
        assert caught.value.key == name


def test_an_unknown_row_lists_those_that_run(indexed):
    for row in ("table1e:with CL", "table2:SipMask"):
        with pytest.raises(UserError, match="Its rows are '"):
            find_evaluation(params_of(indexed), row)


@pytest.mark.parametrize("setting, value, key", [
    ("T", "long", "rows.0.set.T"), ("cll", False, "rows.0.set.cll"), ("method", "visstr", "rows.0.set.method"),
    ("method", "vistr", "rows.0.set"),
    ("backbone", "resnet101", "rows.0.set.backbone"), ("dataset", "shapes-vis", "rows.0.set.dataset"),
])
def test_a_wrong_row_names_its_file_and_key(indexed, tmp_path, setting, value, key):
    project = tmp_path / "project"
    shutil.copytree(indexed, project)
    path = project / "experiments/table1e.yaml"
    table = yaml.safe_load(path.read_text())
    table["rows"][0]["set"][setting] = value
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(UserError) as caught:
        load_grid(params_of(project), "table1e")
    assert (caught.value.where, caught.value.key) == (str(path), key)


@pytest.mark.parametrize("change, problem", [
    ({"name": "w/ CL"}, "2 rows are called 'w/ CL'"), ({"columns": {"FPS": 3}}, "'w/ CL' has other columns than 'w/o CL'"),
])
def test_rows_that_do_not_fit_together_are_named(indexed, tmp_path, change, problem):
    project = tmp_path / "project"
    shutil.copytree(indexed, project)
    path = project / "experiments/table1e.yaml"
    table = yaml.safe_load(path.read_text())
    table["rows"][0] |= change
    path.write_text(yaml.safe_dump(table))
    with pytest.raises(UserError, match=problem) as caught:
        load_grid(params_of(project), "table1e")
    assert (caught.value.where, caught.value.key) == (str(path), "rows")


def test_without_an_index_the_remedy_is_named(project):
    with pytest.raises(UserError, match="pipeline.index"):
        load_grid(load_params(project / "params.yaml"), "table1e")


def test_shipped_weights_are_chosen_by_network_and_correspondence(indexed, tmp_path):
    model = params_of(indexed).model.resolve(5, 1)
    weights = tmp_path / "weights.safetensors"
    for value, (name, correspondence) in enumerate((("plain", False), ("linked", True))):
        save_file({"query": torch.full((2,), float(value))}, weights)
        facts = {"method": "efficientvis", "model": model.model_dump(), "correspondence": correspondence, "seed": 0,
                 "dataset": {"name": "shapes-vis"}, "categories": ["circle", "square"]}
        starts.ship(name, weights, facts, folder=tmp_path / "s")
    digest = hashlib.sha256((tmp_path / "s" / "linked.safetensors").read_bytes()).hexdigest()
    loaded = starts.load(f"shipped:linked@{digest}", folder=tmp_path / "s")
    assert loaded.weights["query"].dtype == torch.float16 and loaded.weights["query"].tolist() == [1.0, 1.0]
    assert loaded.classes == ("circle", "square")
    for_other_classes = model.model_copy(update={"num_classes": 40})
    assert starts.find_shipped(for_other_classes, True, folder=tmp_path / "s") == f"shipped:linked@{digest}"
    assert starts.find_shipped(model.model_copy(update={"queries": 9}), True, folder=tmp_path / "s") is None
    assert starts.find_shipped(params_of(indexed).vistr.model.resolve(5, 1), False, folder=tmp_path / "s") is None
    assert "linked, plain" in str(starts.none_fits(True, 0, "shapes-vis", folder=tmp_path / "s"))
    (tmp_path / "s" / "linked.safetensors").write_bytes(b"tampered")
    with pytest.raises(UserError, match="linked.safetensors: sha256"):
        starts.find_shipped(model, True, folder=tmp_path / "s")
    with pytest.raises(UserError, match="are not the weights"):
        starts.load(f"shipped:linked@{digest}", folder=tmp_path / "s")
    save_file({"query": torch.zeros(starts.LARGEST_BYTES // 2 + 1)}, weights)
    with pytest.raises(UserError, match="may be shipped"):
        starts.ship("large", weights, {}, folder=tmp_path / "s")


def test_a_wrong_word_on_a_further_drawn_data_set_is_named(project):
    params = load_params(project / "params.yaml", ["dataset=shapes-vis-2021", "generated.shapes-vis-2021.framez=3"])
    with pytest.raises(UserError, match="generated.shapes-vis-2021.framez: unknown key"):
        _ = params.shapes_config
