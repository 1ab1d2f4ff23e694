"""Sharing beyond the working tree: data through a DVC remote, and experiments beside the commits."""

import csv
import io
import json

import pytest
import yaml
from support.dvc_project import commit, contents, dvc, git, stages_run

pytestmark = pytest.mark.slow


def test_a_second_clone_pulls_and_runs_nothing(dvc_project, tmp_path):
    from pipeline.indexing import read
    from pipeline.settings.loading import load_params

    dvc(dvc_project, "remote", "add", "--default", "store", str(tmp_path / "store"))
    commit(dvc_project)
    dvc(dvc_project, "push")
    second = tmp_path / "second"
    git(tmp_path, "clone", "-q", str(dvc_project), str(second))
    dvc(second, "pull")
    assert "Data and pipelines are up to date." in dvc(second, "repro")
    assert git(second, "status", "--porcelain") == "" and not (second / "runs").exists()
    # data/stamps has the times of this clone's files, which are useless to another clone.
    first, pulled = ({file.relative_to(folder): file.read_bytes() for file in folder.rglob("*")
                      if file.is_file() and folder / "stamps" not in file.parents}
                     for folder in (dvc_project / "data", second / "data"))
    assert pulled == first
    assert len(read.load_index(load_params(second / "params.yaml"), "train").videos) == 6


def test_experiments_with_other_learning_rates(dvc_project):
    """Experiments run in the working tree, and in DVC's own folder with the run store of the working tree."""
    dvc(dvc_project, "exp", "run", "--name", "here", "-S", "train.lr=2e-4", "evaluate")
    here = headline(dvc_project)
    assert trained_lr(dvc_project, here) == 2e-4
    diff = json.loads(dvc(dvc_project, "metrics", "diff", "--json"))["results/headline.json"]["run"]
    assert diff["new"] == here != diff["old"]

    git(dvc_project, "reset", "-q", "--hard")
    git(dvc_project, "clean", "-q", "--force", "results")
    runs = contents(dvc_project / "runs", "*/weights.safetensors")
    store = f"runs_dir={dvc_project / 'runs'}"
    output = dvc(dvc_project, "exp", "run", "--temp", "--name", "beside", "-S", "train.lr=4e-4", "-S", store, "evaluate")
    assert stages_run(output) == ["plan", "train", "evaluate"]
    assert git(dvc_project, "status", "--porcelain") == ""
    new = contents(dvc_project / "runs", "*/weights.safetensors").keys() - runs.keys()
    assert len(new) == 1, "what the run starts from was in the store"

    shown = {row["Experiment"]: row for row in csv.DictReader(io.StringIO(dvc(dvc_project, "exp", "show", "--csv")))}
    assert (shown["here"]["train.lr"], shown["here"]["run"]) == ("0.0002", here)
    assert shown["beside"]["train.lr"] == "0.0004" and f"runs/{shown['beside']['run']}/" in new.pop()


def headline(project) -> str:
    return json.loads((project / "results" / "headline.json").read_text())["run"]


def trained_lr(project, run) -> float:
    return yaml.safe_load((project / "runs" / run / "config.yaml").read_text())["train"]["lr"]
