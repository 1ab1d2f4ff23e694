"""pipeline.evaluate --model: weights without a training are evaluated as a run's are, and what is wrong is named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.project import CHECKOUT
from support.published_weights import command_in, network, published_weights

from effvis.errors import UserError
from effvis.methods import build_model
from effvis.model.conversion import Conversion
from pipeline import evaluate, export
from pipeline.grid import starts
from pipeline.grid.rows import find_evaluation
from pipeline.indexing.read import load_index
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params

VISTR_ROW = "table1d:T=18 VisTR"
# Random weights find something everywhere.
EVERYTHING = {"presence_threshold": 0.0, "handcraft": {"new_tracklet_below": -100, "score_threshold": 0.0}}
FILES = ["metrics.json", "per_category.csv", "results.json"]


@pytest.fixture
def exported(tiny_project, tmp_path):
    """``exported(row)`` stores a run with random weights and exports it: the project, the run's evaluation, the folder."""

    def make(row=None):
        project = tiny_project(pretrain={"source": "none"}, vistr={"pretrain": {"source": "none"}}, inference=EVERYTHING)
        params = load_params(project / "params.yaml")
        spec = find_evaluation(params, row)
        torch.manual_seed(0)
        store = RunStore(params.runs_dir)
        store.begin(spec.train.key, spec.train.describe())
        (store.folder(spec.train.key) / "history.jsonl").write_text('{"step": 3, "epoch": 1.0}\n')
        store.finish(spec.train.key, build_model(spec.train.model).state_dict(), {"steps": 3})
        chosen = ["--row", row] if row else []
        arguments = ["--params", str(project / "params.yaml"), *chosen]
        assert export.main([*arguments, "--out", str(tmp_path / "model")]) == 0
        return project, spec, tmp_path / "model"

    return make


def command(project, *arguments):
    """Runs the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.evaluate", "--params", str(project / "params.yaml"), *map(str, arguments)],
        cwd=CHECKOUT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def evaluated(project, *arguments):
    """The same in this process, which has loaded PyTorch already."""
    assert evaluate.main(["--params", str(project / "params.yaml"), *map(str, arguments)]) == 0


def refused(project, *arguments):
    """What the command says on its one line of error."""
    done = command(project, *arguments)
    assert done.returncode == 2 and not done.stdout, done.stderr
    return done.stderr.splitlines()[-1]


def caught(project, *arguments):
    """What the command says in this process."""
    with pytest.raises(UserError) as error:
        evaluate.main(["--params", str(project / "params.yaml"), *map(str, arguments)])
    return str(error.value)


def edit(folder, **changes):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


@pytest.mark.parametrize("row", [None, VISTR_ROW], ids=["efficientvis", "vistr"])
def test_an_exported_model_scores_as_its_run_does_and_needs_no_run(exported, tmp_path, capsys, row):
    project, spec, folder = exported(row)
    params = load_params(project / "params.yaml")
    capsys.readouterr()
    assert evaluate.main(["--params", str(project / "params.yaml"), *(["--row", row] if row else [])]) == 0
    line = capsys.readouterr().out
    place = RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key)
    expected, results = json.loads((place / "metrics.json").read_text()), (place / "results.json").read_bytes()
    assert len(json.loads(results)) > 0
    shutil.rmtree(params.runs_dir)
    headline = params.results_dir / "headline.json"
    headline.unlink(missing_ok=True)

    done = command(project, "--model", folder, "--out", tmp_path / "scores")
    assert done.returncode == 0, done.stderr
    assert done.stdout == line and str(folder) in done.stderr
    found = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert sorted(file.name for file in (tmp_path / "scores").iterdir()) == FILES
    assert (tmp_path / "scores" / "results.json").read_bytes() == results
    assert found["metrics"] == expected["metrics"] and found["per_category"] == expected["per_category"]
    assert found["weights_sha256"] == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    assert found["dataset"]["name"] == "shapes-vis"
    assert not headline.exists() and not params.runs_dir.exists()


def test_other_weights_are_another_evaluation_and_the_same_are_not_computed_twice(exported, tmp_path):
    project, _, folder = exported()
    weights, out = folder / "weights.safetensors", tmp_path / "scores"
    evaluated(project, "--model", folder, "--out", out)
    first = (out / "metrics.json").read_bytes()
    evaluated(project, "--model", folder, "--out", out)
    assert (out / "metrics.json").read_bytes() == first, "its time would differ"

    tensors = load_file(weights)
    save_file({name: value + 1e-3 if value.is_floating_point() else value for name, value in tensors.items()}, weights)
    edit(folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    assert "--out: holds something else than this evaluation" in caught(project, "--model", folder, "--out", out)
    assert (out / "metrics.json").read_bytes() == first
    evaluated(project, "--model", folder, "--out", tmp_path / "other")
    keys = [json.loads((place / "metrics.json").read_text())["evaluation"] for place in (out, tmp_path / "other")]
    assert keys[0] != keys[1]


def test_a_file_of_any_name_is_evaluated_with_the_description_beside_it(exported, tmp_path):
    project, _, folder = exported()
    weights = (folder / "weights.safetensors").rename(folder / "epoch_12.safetensors")
    written = yaml.safe_load((folder / "config.yaml").read_text())
    by_hand = {name: written[name] for name in ("method", "model", "input_size", "labels", "sha256")}
    (folder / "config.yaml").write_text(yaml.safe_dump(by_hand))
    done = command(project, "--model", weights, "--out", tmp_path / "scores")
    assert done.returncode == 0 and "AP " in done.stdout, done.stderr

    alone = Path(shutil.copy(weights, tmp_path))
    error = caught(project, "--model", alone, "--out", tmp_path / "other")
    assert f"{tmp_path / 'config.yaml'}: (file): is missing" in error and "sha256" in error
    checkpoint = alone.rename(tmp_path / "epoch_12.pth")
    assert "pipeline.import_weights" in caught(project, "--model", checkpoint, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_converted_weights_are_evaluated_without_a_training(tiny_project, tmp_path):
    project, folder = tiny_project(), tmp_path / "converted"
    folder.mkdir()
    torch.save({"state_dict": published_weights("resnet18"), "meta": {"seed": np.float64(1)}}, folder / "published.pth")
    weights = folder / "start.safetensors"
    assert command_in(folder)(folder / "published.pth", "--classes", 5, "--out", weights) == 0
    categories = load_index(load_params(project / "params.yaml"), "val").categories
    (folder / "config.yaml").write_text(yaml.safe_dump({
        "method": "efficientvis", "model": network(num_classes=5).config.model_dump(mode="json"), "input_size": [32, 48],
        "labels": [{"id": number, "name": category.name} for number, category in enumerate(categories)],
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "inference": {"presence_threshold": 0.0}}))
    given = ["--params", str(project / "params.yaml"), "--model", str(weights), "--out", str(tmp_path / "out")]
    assert evaluate.main(given) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results and {result["category_id"] for result in results} <= {category.id for category in categories}


def test_converted_weights_whose_class_rows_mean_something_else_are_refused(exported, tmp_path):
    project, _, folder = exported(VISTR_ROW)
    weights = folder / "weights.safetensors"
    conversion = Conversion("test", network().config, {}, [], {"absent_row": True})
    save_file(load_file(weights), weights, metadata=starts.metadata(conversion))
    edit(folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
    error = caught(project, "--model", weights, "--out", tmp_path / "scores")
    assert f"{folder / 'config.yaml'}: model.absent_row: " in error and "Set model.absent_row: true" in error


def test_converted_weights_of_other_classes_than_their_labels_are_refused(exported, tmp_path):
    project, _, folder = exported()
    weights = folder / "weights.safetensors"
    names = [label["name"] for label in yaml.safe_load((folder / "config.yaml").read_text())["labels"]]
    for classes, right in ((names, True), (names[::-1], False)):
        conversion = Conversion("test", network().config, load_file(weights), [], by_name=dict.fromkeys(classes))
        save_file(conversion.weights, weights, metadata=starts.metadata(conversion))
        edit(folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())
        if right:
            assert evaluate.main(["--params", str(project / "params.yaml"), "--model", str(weights),
                                  "--out", str(tmp_path / "scores")]) == 0
    error = caught(project, "--model", weights, "--out", tmp_path / "scores")
    assert f"{folder / 'config.yaml'}: labels: are not the classes" in error and ", ".join(names[::-1]) in error


def test_what_is_wrong_with_a_model_is_named(exported, tmp_path):
    project, _, folder = exported()
    out = ["--out", tmp_path / "scores"]
    labels = yaml.safe_load((folder / "config.yaml").read_text())["labels"]
    names = [label["name"] for label in labels]
    (tmp_path / "empty").mkdir()
    assert "config.yaml: (file): cannot be read" in refused(project, "--model", tmp_path / "empty", *out)
    assert "no folder or file of a model and no run's key" in caught(project, "--model", tmp_path / "absent", *out)

    edit(folder, labels=[{"id": 1, "name": "zebra"}, *labels[1:]])
    error = caught(project, "--model", folder, *out)
    assert f"{folder}: labels:" in error and f"it lacks {names[0]}; only it has zebra" in error
    edit(folder, labels=labels[::-1])
    assert "their order differs" in caught(project, "--model", folder, *out)
    edit(folder, labels=labels)

    weights = folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    assert f"{weights}: sha256: these are not the weights" in caught(project, "--model", folder, *out)
    edit(folder, sha256=hashlib.sha256(content[:-4]).hexdigest())
    assert f"{weights}: (file): is not a safetensors file" in caught(project, "--model", folder, *out)
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("arguments", [["--model", "model"], ["--out", "scores"]])
def test_model_and_out_go_together(tiny_project, arguments):
    assert "--out: goes together with --model" in caught(tiny_project(), *arguments)


def test_a_row_and_a_model_exclude_each_other(tiny_project, tmp_path):
    arguments = ["--model", "model", "--row", "table1e:w/ CL", "--out", tmp_path / "scores"]
    assert "is given together with --row" in caught(tiny_project(), *arguments)
