"""The store as MLflow shows it: exactly its runs, each step once; a server that fails delays and loses nothing."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import CHECKOUT, free_port

from effvis.evaluation.video_ap import METRICS
from pipeline.config import load_params, load_table
from pipeline.store import RunLog, RunStore
from pipeline.tables import summary, write_table
from pipeline.track import EXPERIMENT, Tracker, sync

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tiny_project, monkeypatch):
    """(params, rows of table 1e) of a project that asks for one seed of tables 1e and 1h."""
    folder = tiny_project(seeds=1, tables=["table1e", "table1h"])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    params = load_params(folder / "params.yaml")
    return params, load_table(params, "table1e").rows


def train(params, spec, steps, finish=True):
    """The files that a training leaves, without the training."""
    store = RunStore(params.runs_dir)
    store.begin(spec.key, spec.describe())
    log = RunLog(store.folder(spec.key))
    log.resume()
    for step in range(1, steps + 1):
        log.append({"step": step, "time": 1e9 + step, "lr": 0.1, "loss": 1 / step, "loss_focal": float(np.float32(0.1))})
    log.close()
    if finish:
        store.finish(spec.key, {"w": torch.ones(3)}, {"seconds": 1.0, "git": {"commit": "abc"}})


def evaluate(params, spec):
    metrics = {name: 0.25 for name in METRICS}
    report = {"metrics": metrics, "per_category": {"ring": {"AP": 0.5}}, "seconds": 2.0, "frames_per_second": 9.0,
              "inference": spec.inference.model_dump(mode="json")}
    RunStore(params.runs_dir).write_evaluation(spec.train.key, spec.key, [], report)


def runs_of(uri, dataset="shapes-vis"):
    """By run_key, those of this test's dataset; the server may hold others."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    found = client.search_runs([experiment.experiment_id], f"tags.dataset = '{dataset}'") if experiment else []
    by_key = {run.data.tags["run_key"]: run for run in found}
    assert len(by_key) == len(found), "a key is there twice"
    return client, by_key


def steps_of(client, run, name="loss"):
    return sorted(metric.step for metric in client.get_metric_history(run.info.run_id, name))


def test_each_run_once_under_its_grid_with_its_evaluation(project):
    params, (without, with_cl) = project
    first, second = without.evaluations[0], with_cl.evaluations[0]
    train(params, first.train.parent, 3)
    train(params, first.train, 4)
    evaluate(params, first)
    train(params, second.train, 2, finish=False)
    assert sync(params) == 6
    assert sync(params) == 0

    with (params.runs_dir / second.train.key / "history.jsonl").open("a") as history:
        history.write(json.dumps({"step": 3, "time": 1e9 + 3, "loss": 0.2}) + "\n" + '{"step": 4, "ti')
    write_table(params.results_dir, summary(params, load_table(params, "table1e")))
    assert sync(params) == 2

    client, runs = runs_of(f"sqlite:///{params.root / 'mlflow.db'}")
    grids = {run.data.tags["table"]: run for run in runs.values() if run.data.tags["kind"] == "grid"}
    trainings = {first.train.parent.key: 3, first.train.key: 4, second.train.key: 3}
    assert set(grids) == {"table1e", "table1h"}
    assert len(runs) == len(grids) + len(trainings) + 1
    for key, steps in trainings.items():
        assert steps_of(client, runs[key]) == list(range(1, steps + 1))
        assert runs[key].data.tags["mlflow.parentRunId"] == grids["table1e"].info.run_id
    run, child, unfinished = runs[first.train.key], runs[first.key], runs[second.train.key]
    expected = {"table": "table1e", "row": "w/o CL", "seed": "0", "dataset": "shapes-vis", "profile": "laptop",
                "kind": "train", "mlflow.source.git.commit": "abc"}
    assert expected.items() <= run.data.tags.items()
    assert unfinished.data.tags["table"] == "table1e, table1h", "it is a cell of both"
    assert (run.info.status, unfinished.info.status) == ("FINISHED", "RUNNING")
    assert run.data.params["train.lr"] == str(params.train.lr) and run.data.params["model.clip_length"] == "3"
    assert run.data.params["init"] == f"run:{first.train.parent.key}"
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert child.data.metrics == dict.fromkeys(METRICS, 0.25) | {"seconds": 2.0, "frames_per_second": 9.0}
    assert child.data.params["inference.linking"] == "end-to-end"

    def artifacts(one):
        return {artifact.path for artifact in client.list_artifacts(one.info.run_id)}

    assert artifacts(run) == {"config.yaml", "weights.safetensors", "done.json"}
    assert artifacts(child) == {"metrics.json", "per_category.csv"}
    assert artifacts(grids["table1e"]) == {"table1e.json", "table1e.md", "table1e.csv"}


def test_two_at_once_bring_each_run_once(project):
    """Onto a database that neither has seen: it is initialised once."""
    params, rows = project
    for row in rows:
        train(params, row.evaluations[0].train, 20)
        evaluate(params, row.evaluations[0])
    command = [sys.executable, "-m", "pipeline.track", "--sync"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    client, runs = runs_of(f"sqlite:///{params.root / 'mlflow.db'}")
    assert len(runs) == 2 + 2 + 2
    assert all(steps_of(client, runs[row.evaluations[0].train.key]) == list(range(1, 21)) for row in rows)


def test_a_server_that_is_down_delays_and_loses_nothing(project, mlflow_server, monkeypatch, capsys):
    params, rows = project
    spec = rows[0].evaluations[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Tracker(params, every=0.1, last=30):
        train(params, spec.train, 30)
        time.sleep(2)
    evaluate(params, spec)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, said
    assert said[0].startswith("MLflow cannot be used now, the runs go on: ")
    assert said[1].endswith("python -m pipeline.track --sync")

    command = [sys.executable, "-m", "pipeline.track", "--sync"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    down = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert down.returncode == 2 and down.stderr.startswith("error: MLFLOW_TRACKING_URI: http://127.0.0.1:")
    up = subprocess.run(command, env=environment | {"MLFLOW_TRACKING_URI": mlflow_server}, capture_output=True, text=True)
    assert up.returncode == 0, up.stderr
    client, runs = runs_of(mlflow_server)
    assert steps_of(client, runs[spec.train.key]) == list(range(1, 31))
    assert runs[spec.key].data.metrics["AP"] == 0.25


def test_a_server_that_never_answers_holds_nobody_up_for_long(project, monkeypatch, capsys):
    params, rows = project
    train(params, rows[0].evaluations[0].train, 3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with Tracker(params, every=0.1, last=3.0):
            time.sleep(1)
        assert time.monotonic() - started < 6
    assert "--sync" in capsys.readouterr().err
