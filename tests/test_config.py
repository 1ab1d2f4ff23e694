"""Parameters and table rows become complete configurations; a mistake is an error that names file and key."""

import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from effvis.errors import UserError
from pipeline.config import find_evaluation, headline_spec, known_tables, load_grid, load_params, load_table

PROJECT = Path(__file__).resolve().parents[1]


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
    assert params.index_folder == project / "data" / "index" / "shapes-vis"
    other = load_params(project / "params.yaml", ["dataset=videos/dogs"])
    assert other.dataset_folder == project / "videos/dogs" and other.dataset_name == "dogs"


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
