"""pipeline.preflight on a data set as YouTube-VIS publishes it: what is missing has a remedy, and the exit code says so."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest
import torch
from safetensors.torch import save_file
from support import published_layouts as published
from support.project import CHECKOUT

from effvis.methods import build_model
from pipeline import download, index, preflight
from pipeline.checks.finding import WIDTH, Finding, page
from pipeline.settings.loading import load_params

# The fixture's own parameters would train a start here.
PAPER = ["profile=paper", "dataset=youtube-vis-2019", "tables=[table1d]", "seeds=1", "pretrain.source=none"]
# A network that a processor can train, from weights of its own.
SMALL = ["model.backbone=resnet18", "resources.gpus_per_worker=0", "resources.workers_per_run=1", "resources.threads=1",
         "resources.memory_gib=0.5", "resources.slots=1", "pretrain.source=start-{backbone}.safetensors",
         "train.precision=fp32", "holdout.fraction=0.25"]


def given(project, overrides):
    return ["--params", str(project / "params.yaml"), *(word for override in overrides for word in ("-S", override))]


@pytest.fixture
def project(tiny_project, tmp_path, monkeypatch):
    """A project with YouTube-VIS 2019 imported from a folder as it is published, and indexed."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tiny_project()
    archives = published.of_2019(published.draw(tmp_path / "drawn"), tmp_path / "unpacked")
    assert download.main([*given(folder, PAPER), "--from", str(archives)]) == 0
    assert index.main(given(folder, PAPER)) == 0
    return folder


def seen(capsys, project, *overrides, steps=0):
    """The exit code and the page with its lines joined."""
    code = preflight.main([*given(project, [*PAPER, *overrides]), "--steps", str(steps)])
    return code, " ".join(capsys.readouterr().out.split())


def write_start(project, **changes):
    params = load_params(project / "params.yaml", [*PAPER, *SMALL])
    torch.manual_seed(0)
    model = build_model(params.model.model_copy(update=changes).resolve(5, 1))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, project / "start-resnet18.safetensors")


@pytest.mark.slow
def test_what_is_missing_is_said_with_its_remedy(project):
    """In a process of its own, as a user runs it: no start, no GPU, and a val that nobody has annotated."""
    ended = subprocess.run([sys.executable, "-m", "pipeline.preflight", *given(project, PAPER)], cwd=project, text=True,
                           env=os.environ | {"PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": ""}, capture_output=True)
    text = " ".join(ended.stdout.split())
    assert ended.returncode == 2, ended.stderr
    assert "start MISSING" in text and "import_weights --published queryinst-r50" in text
    assert "device MISSING" in text and "0 GPUs" in text and "resources.gpus_per_worker: 0" in text
    assert "data ok youtube-vis-2019: 12 videos to train on" in text
    assert "data note val has no instances" in text
    assert "table1d: no AP" in text and "pipeline.submit" in text and "holdout.fraction=0.1" in text
    assert "time unknown" in text and "2 things are missing" in text
    # A path or an address is not broken.
    assert all(len(line) <= WIDTH or "/" in max(line.split(), key=len) for line in ended.stdout.splitlines())
    assert not list((project / "runs").glob("*/config.yaml")), "nothing is written"


@pytest.mark.slow
def test_where_nothing_is_missing_a_step_is_measured(project, capsys):
    write_start(project)
    assert index.main(given(project, [*PAPER, *SMALL])) == 0
    code, text = seen(capsys, project, *SMALL, steps=1)
    assert code == 0 and "Nothing is missing" in text, text
    assert "start ok EfficientVIS with resnet18 starts from" in text and "MISSING" not in text
    assert "step ok EfficientVIS with resnet18:" in text and "s for" in text and "h with 1 side by side" in text
    assert "table1d: AP and AR of" in text and "not the official validation videos" in text
    assert "hand-crafted linking of EfficientVIS at T=9" in text and "pipeline.linking" in text


@pytest.mark.slow
def test_the_gpus_of_a_cluster_will_do_where_this_machine_has_none(project):
    """A head whose GPUs Ray only counts; the command joins it as from a login node."""
    from ray.cluster_utils import Cluster

    write_start(project)
    assert index.main(given(project, [*PAPER, *SMALL])) == 0
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 4, "include_dashboard": False})
    try:
        changes = [*PAPER, *SMALL, "resources.gpus_per_worker=1", "resources.workers_per_run=4"]
        ended = subprocess.run(
            [sys.executable, "-m", "pipeline.preflight", *given(project, changes)], cwd=project, text=True, capture_output=True,
            env=os.environ | {"PYTHONPATH": str(CHECKOUT), "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": started.address})
    finally:
        started.shutdown()
    text = " ".join(ended.stdout.split())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "device ok 1 nodes of the cluster: 4 GPUs" in text
    assert "step unknown not measured" in text and "on a node with a GPU" in text and "time unknown" in text


def test_a_cluster_that_does_not_answer_is_told_once_on_the_page(project, capsys, monkeypatch):
    write_start(project)
    assert index.main(given(project, [*PAPER, *SMALL])) == 0
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, text = seen(capsys, project, *SMALL, "resources.gpus_per_worker=1", steps=1)
    assert code == 2 and text.count("MISSING") == 1 and "device MISSING RAY_ADDRESS" in text, text


def test_a_start_of_another_network_and_a_full_disk_are_missing(project, capsys, monkeypatch):
    write_start(project, queries=7)
    assert index.main(given(project, [*PAPER, *SMALL])) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda place: namedtuple("usage", "free")(1000))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, text = seen(capsys, project, *SMALL)
    assert code == 2
    for missing in ("start MISSING EfficientVIS with resnet18", "is of another network", "disk MISSING", "runs_dir to a folder",
                    "tracking MISSING http://127.0.0.1:9 does not answer", "3 things are missing"):
        assert missing in text, missing


def test_without_an_index_the_tables_are_unknown(tiny_project, capsys):
    code, text = seen(capsys, tiny_project(), *SMALL)
    assert code == 2 and "data MISSING" in text and "pipeline.download" in text and "tables unknown table1d" in text


def test_the_page_puts_remedies_below(capsys):
    shown = page([Finding("data", "word " * 40), Finding("disk", "full", "Make room", missing=True)]).splitlines()
    assert shown[0].startswith("data       ok       word") and shown[1].startswith(" " * 20 + "word")
    assert shown[-2:] == ["disk       MISSING  full", " " * 17 + "-> Make room"]
