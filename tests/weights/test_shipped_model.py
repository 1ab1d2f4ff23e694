"""The network for photographs that comes with the project: its folder, and pipeline.predict's choice of it."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support.builders import tiny_model
from support.models import noise, put_frames
from support.project import CHECKOUT, write_params

import effvis
from effvis.errors import UserError
from effvis.methods import build_model
from pipeline import predict
from pipeline.grid.rows import find_evaluation
from pipeline.indexing import build
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.weights import shipped_model

SHIPPED = CHECKOUT / "effvis" / "pretrained" / "photo_object"
LARGEST = 12_000_000  # bytes that the project may ship for it
needs_folder = pytest.mark.skipif(not SHIPPED.is_dir(), reason=f"{SHIPPED.relative_to(CHECKOUT)} is not there")


@needs_folder
def test_the_shipped_folder_is_small_and_is_loaded_as_float32():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) <= LARGEST
    assert {value.dtype for value in load_file(SHIPPED / "weights.safetensors").values()} == {torch.float16}
    loaded = effvis.load(SHIPPED)
    assert {value.dtype for value in loaded.model.state_dict().values()} == {torch.float32}
    assert [label.name for label in loaded.categories] == ["object"]


@needs_folder
def test_the_shipped_folder_gives_credit_and_says_how_it_was_made():
    told = yaml.safe_load((SHIPPED / "config.yaml").read_text())["provenance"]
    assert "Perazzi" in told["credit"] and "CVPR 2016" in told["credit"] and "esearch use" in told["licence"]
    assert {"what", "data", "command", "date", "seed", "start", "dataset", "packages", "train", "pretrain"} <= told.keys()
    assert "/tmp" not in told["command"] and "/home" not in told["command"]


def test_the_installed_package_holds_it(tmp_path):
    from setuptools.config.pyprojecttoml import apply_configuration
    from setuptools.dist import Distribution

    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).write_text("")
    model = tmp_path / "effvis" / "pretrained" / "photo_object"
    model.mkdir(parents=True)
    for file in (tmp_path / "effvis" / "__init__.py", model / "config.yaml", model / "weights.safetensors"):
        file.write_text("")
    distribution = apply_configuration(Distribution({"src_root": str(tmp_path)}), tmp_path / "pyproject.toml")
    command = distribution.get_command_obj("build_py")
    command.ensure_finalized()
    command.manifest_files = {}  # of no use here: data files are those of pyproject.toml
    found = {file.rpartition("pretrained/")[2] for file in command.find_data_files("effvis", str(tmp_path / "effvis"))}
    assert {"photo_object/config.yaml", "photo_object/weights.safetensors"} <= found


def one_class():
    return tiny_model(1, num_classes=1)


def values_for(model):
    return {"method": "efficientvis", "model": model.config.model_dump(mode="json"), "input_size": [32, 48],
            "inference": {"presence_threshold": 0.0}, "labels": [{"id": 1, "name": "object"}],
            "provenance": {"dataset": {"name": "clips-of-a-test"}}}


def test_weights_are_written_in_half_precision(tmp_path):
    model = one_class()
    shipped_model.write_half(tmp_path / "model", model.state_dict(), values_for(model))
    assert {value.dtype for value in load_file(tmp_path / "model" / "weights.safetensors").values()} == {torch.float16}
    for name, value in effvis.load(tmp_path / "model").model.state_dict().items():
        assert value.dtype == torch.float32 and value.equal(model.state_dict()[name].half().float()), name


def test_what_cannot_be_shipped_is_refused(tmp_path, monkeypatch):
    model = one_class()
    large = model.state_dict() | {"query_NTC": torch.full_like(model.query_NTC, 1e5)}
    with pytest.raises(UserError, match="query_NTC: is not finite in half precision"):
        shipped_model.write_half(tmp_path / "model", large, values_for(model))
    with pytest.raises(UserError, match="labels: there are 1, the network has 3 classes"):
        shipped_model.write_half(tmp_path / "model", tiny_model(1).state_dict(), values_for(tiny_model(1)))
    monkeypatch.setattr(shipped_model, "LARGEST_BYTES", 1000)
    with pytest.raises(UserError, match="bytes are more than the 1000 that may be shipped"):
        shipped_model.write_half(tmp_path / "model", model.state_dict(), values_for(model))
    assert not (tmp_path / "model").exists()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A stand-in for the shipped network, with random weights; the network of the machine is not to be used."""
    def refuse(*_):
        raise AssertionError("the network is used")

    model = one_class()
    monkeypatch.setattr(shipped_model, "FOLDER", tmp_path / "pretrained")
    shipped_model.write_half(tmp_path / "pretrained" / "photo_object", model.state_dict(), values_for(model))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path / "pretrained" / "photo_object"


@pytest.fixture
def video(tmp_path):
    return put_frames(tmp_path / "clip", noise(4, 32, 48))


def used(capsys, video, out, *arguments):
    """The line that says which model pipeline.predict used, and the ids of the categories that it found."""
    assert predict.main([str(video), "--out", str(out), "--score", "0", "--no-overlay", *map(str, arguments)]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("model: ")]
    results = json.loads((out / "clip_results.json").read_text())
    return line, {result["category_id"] for result in results}


def put_headline_run(project):
    """Stores a finished headline run with random weights; returns its key."""
    params = load_params(project / "params.yaml")
    spec = find_evaluation(params, None)
    store = RunStore(params.runs_dir)
    store.begin(spec.train.key, spec.train.describe())
    store.finish(spec.train.key, build_model(spec.train.model).state_dict(), {"steps": 3})
    return spec.train.key


def test_without_a_trained_run_a_video_is_followed_by_the_shipped_network(tiny_project, shipped, video, tmp_path, capsys):
    project = tiny_project(pretrain={"source": "none"})
    line, categories = used(capsys, video, tmp_path / "out", "--params", project / "params.yaml")
    assert "photo_object, which comes with the project, trained on clips-of-a-test" in line and categories == {1}
    assert "knows no categories" in line and "--model queryinst-r50" in line


def test_outside_a_project_too(shipped, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert "photo_object" in used(capsys, video, tmp_path / "out")[0]
    assert "photo_object" in used(capsys, video, tmp_path / "named", "--model", "photo_object")[0]
    with pytest.raises(UserError, match="mistyped.yaml"):
        predict.main([str(video), "--out", str(tmp_path / "none"), "--params", "mistyped.yaml"])


def test_a_headline_run_on_drawn_shapes_is_taken_by_name_alone(tiny_project, shipped, video, tmp_path, capsys):
    project = tiny_project(pretrain={"source": "none"})
    key = put_headline_run(project)
    assert "photo_object" in used(capsys, video, tmp_path / "out", "--params", project / "params.yaml")[0]
    line, _ = used(capsys, video, tmp_path / "out", "--params", project / "params.yaml", "--model", "headline")
    assert f"the headline run, run {key}" in line and "circle" in line and "categories" not in line


def test_a_headline_run_on_data_of_ones_own_comes_first(tiny_project, shipped, video, tmp_path, capsys):
    project = tiny_project(pretrain={"source": "none"})
    shutil.copytree(project / "data" / "shapes-vis", project / "data" / "own")
    write_params(project, dataset="data/own")
    common = ["--params", project / "params.yaml"]
    assert "photo_object" in used(capsys, video, tmp_path / "out", *common)[0]
    build.build(load_params(project / "params.yaml"))
    assert "photo_object" in used(capsys, video, tmp_path / "out", *common)[0]
    key = put_headline_run(project)
    assert f"the headline run, run {key}" in used(capsys, video, tmp_path / "out", *common)[0]
    assert "photo_object" in used(capsys, video, tmp_path / "out", *common, "--model", "photo_object")[0]


def test_where_it_is_not_shipped_the_headline_run_is_the_default(tiny_project, shipped, video, tmp_path, capsys):
    project = tiny_project(pretrain={"source": "none"})
    key = put_headline_run(project)
    shutil.rmtree(shipped)
    assert f"the headline run, run {key}" in used(capsys, video, tmp_path / "out", "--params", project / "params.yaml")[0]
    with pytest.raises(UserError, match="photo_object: is no folder or file of a model.*headline"):
        predict.main([str(video), "--out", str(tmp_path / "none"), "--params", str(project / "params.yaml"),
                      "--model", "photo_object"])


def test_a_strip_shows_frames_side_by_side(shipped, video, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    used(capsys, video, tmp_path / "photo", "--strip", 3)
    used(capsys, video, tmp_path / "edges", "--strip", 9, "--sketch")
    photo, edges = (Image.open(tmp_path / kind / "clip_strip.png").convert("RGB") for kind in ("photo", "edges"))
    assert 3 * 48 <= photo.width < 4 * 48 <= edges.width < 5 * 48 and 32 <= photo.height < 40
    white = [(np.asarray(picture) == 255).all(axis=-1).mean() for picture in (photo, edges)]
    assert white[0] < white[1]
