"""Input from strangers is only data: none of it runs, and no output reveals secrets."""

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.project import CHECKOUT

from effvis import load
from effvis.errors import UserError
from pipeline.identity.digests import read_same_results
from pipeline.mlflow_view.records import records
from pipeline.runs.log import RunLog
from pipeline.settings.loading import load_params
from pipeline.system.masking import masked
from pipeline.tables.shown_in import table_cells


class Harmful:
    """An object that makes a file when anything but PyTorch's weights_only unpickles it."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


HARMFUL_YAML = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [harm]]"


def test_a_planted_checkpoint_does_not_run(tmp_path, monkeypatch, capsys):
    """The checkpoint has a correct checksum beside it; the training goes back to the one before."""
    monkeypatch.chdir(tmp_path)
    log = RunLog(tmp_path / "run")
    log.resume()
    for step in (1, 2):
        log.append({"step": step})
    log.checkpoint({"step": 1}, 1)
    log.close()
    planted = tmp_path / "run" / "checkpoint" / "step_00000002.pt"
    torch.save({"training": Harmful()}, planted)
    planted.with_suffix(".sha256").write_text(hashlib.sha256(planted.read_bytes()).hexdigest())
    assert RunLog(tmp_path / "run").resume() == {"step": 1}
    assert f"{planted}: is no checkpoint" in capsys.readouterr().err
    assert not Path("harm").exists()


def test_planted_yaml_does_not_run(tiny_project, tmp_path, monkeypatch):
    """It is in parameters, overrides, the table of equal results, an exported model and the description of a run."""
    project = tiny_project(tables=["table1e"])
    params = load_params(project / "params.yaml")
    monkeypatch.chdir(tmp_path)
    planted = project / "planted.yaml"
    planted.write_text(f"profile: {HARMFUL_YAML}\n")
    with pytest.raises(UserError, match="is not YAML"):
        load_params(planted)
    with pytest.raises(UserError):
        load_params(project / "params.yaml", [f"seeds={HARMFUL_YAML}"])
    with pytest.raises((UserError, yaml.YAMLError)):
        read_same_results(planted)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").write_text(planted.read_text())
    with pytest.raises(UserError, match="config.yaml"):
        load(tmp_path / "model")
    run = params.runs_dir / "0123456789abcdef"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(planted.read_text())
    with pytest.raises(yaml.YAMLError):
        list(records(params, table_cells(params)))
    assert not list(tmp_path.rglob("harm")) and not list(project.rglob("harm"))


@pytest.mark.parametrize("text, shown", [
    ("postgresql://me:word@db/effvis is down", "postgresql://***@db/effvis is down"),
    ("https://token@host/mlflow", "https://***@host/mlflow"),
    ("http://host/a.zip?token=abc&x=1#part: does not arrive", "http://host/a.zip?***#part: does not arrive"),
    ("http://127.0.0.1:5000/#/experiments/1/runs?workflowType=x", "http://127.0.0.1:5000/#/experiments/1/runs?workflowType=x"),
    ("sqlite:////home/you/mlflow.db", "sqlite:////home/you/mlflow.db"),
    ("me@host, see a?b", "me@host, see a?b"),
])
def test_addresses_are_shown_without_their_secrets(text, shown):
    assert masked(text) == shown


def test_a_server_that_fails_does_not_show_its_password(tiny_project):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    command = [sys.executable, "-m", "pipeline.track", "--sync", "--params", str(tiny_project() / "params.yaml")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"http://me:secretword@{address}", "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(command, env=environment | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}, capture_output=True, text=True,
                           timeout=900)
    assert ended.returncode == 2 and address in ended.stderr and "***@" in ended.stderr
    assert "secretword" not in ended.stdout + ended.stderr


def test_a_download_keeps_no_token(tiny_project):
    """The token is neither in the output nor in the note beside a part of a file."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/data.zip?token=secretword"
    project = tiny_project()
    command = [sys.executable, "-m", "pipeline.download", "--params", str(project / "params.yaml"), "-S", "dataset=ovis",
               "--from", address]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 2 and "/data.zip?***" in ended.stderr, ended.stderr
    assert "secretword" not in ended.stdout + ended.stderr
    assert not [file for file in project.rglob("*.json") if "secretword" in file.read_text(errors="replace")]


# Connects to a Ray that listens on all interfaces, as anyone who finds its port could.
STRANGER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
    print(ray.get(ray.remote(lambda: "ran").remote(), timeout=600))
except Exception as error:
    print("refused", error)
"""


@pytest.mark.slow
def test_ray_takes_no_work_from_strangers(tmp_path):
    """Ray listens on every interface; it refuses clients that do not know the token of this start."""
    from pipeline.scheduling.ray_session import ray_running

    with ray_running(1, tmp_path / "runs") as ray:
        command = [sys.executable, "-c", STRANGER, ray.get_runtime_context().gcs_address]
        known = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        unknown = {name: value for name, value in known.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
        callers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                   for environment in (known, unknown, unknown | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})]
        answers = [caller.communicate(timeout=900)[0].split()[0] for caller in callers]
    assert answers == ["ran", "refused", "refused"]
