"""The store as MLflow shows it: exactly its runs, each step once; a server that fails neither delays nor loses anything."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from support.project import CHECKOUT
from support.servers import free_port
from support.stored import evaluate, saved_at, steps_done, train
from support.tracking import runs_of, steps_of

from effvis.evaluation.average_precision import METRICS
from pipeline.grid.rows import load_table
from pipeline.mlflow_view.sync import EXPERIMENT, Tracker, sync
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.submit import take_back
from pipeline.tables.summary import summary
from pipeline.tables.write import write_table

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tiny_project, empty_mlflow, monkeypatch):
    """(params, rows of table 1e) of a project that asks for one seed of tables 1e and 1h, with an empty database."""
    folder = tiny_project(seeds=1, tables=["table1e", "table1h"])
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    params = load_params(folder / "params.yaml")
    return params, load_table(params, "table1e").rows


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
    shared = {"table": "table1e", "row": "w/ CL", "table1e": "w/ CL", "table1h": "Original FPS, 1.5 FPS"}
    assert shared.items() <= unfinished.data.tags.items(), "it is a cell of both"
    assert (run.info.status, unfinished.info.status) == ("FINISHED", "KILLED"), "nobody works on the second"
    assert run.data.params["train.lr"] == str(params.train.lr) and run.data.params["model.clip_length"] == "3"
    assert run.data.params["init"] == f"run:{first.train.parent.key}"
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    numbers = {name: 0.25 for name in METRICS if name != "APl"} | {"evaluate_seconds": 2.0, "frames_per_second": 9.0}
    assert child.data.metrics == numbers, "undefined is no number"
    assert run.data.metrics.items() >= (numbers | {"loss": 0.25, "train_seconds": 1.0, "peak_memory_mib": 700}).items()
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "AP")] == [(0, 0.25)]
    assert "AP" not in unfinished.data.metrics
    assert child.data.params["inference.linking"] == "end-to-end"

    def artifacts(one):
        return {artifact.path for artifact in client.list_artifacts(one.info.run_id)}

    assert artifacts(run) == {"config.yaml", "weights.safetensors", "done.json"}
    assert artifacts(child) == {"metrics.json", "per_category.csv"}
    assert artifacts(grids["table1e"]) == {"table1e.json", "table1e.md", "table1e.csv", "table1e.tex"}
    assert "| w/ CL | 35.3 |" in grids["table1e"].data.tags["mlflow.note.content"], "the table is the page's description"
    pictures = RunStore(params.runs_dir).evaluation_folder(first.train.key, first.key) / "pictures"
    pictures.mkdir()
    (pictures / "1.png").write_bytes(b"a picture")
    assert sync(params) == 1
    assert [file.path for file in client.list_artifacts(child.info.run_id, "pictures")] == ["pictures/1.png"]


def test_one_expression_finds_a_table_a_row_or_a_training_with_its_evaluations(tiny_project, empty_mlflow, monkeypatch):
    folder = tiny_project(seeds=1, tables=["table1d", "table1e"])
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    params = load_params(folder / "params.yaml")
    hand_craft, end_to_end = (row.evaluations[0] for row in load_table(params, "table1d").rows[:2])
    without, with_cl = (row.evaluations[0] for row in load_table(params, "table1e").rows)
    assert hand_craft.train.key == with_cl.train.key and end_to_end.key == with_cl.key
    for spec in (hand_craft, without):
        train(params, spec.train, 2)
    for spec, ap in ((end_to_end, 0.5), (hand_craft, 0.3), (without, 0.1)):
        evaluate(params, spec, ap)
    sync(params)
    client, runs = runs_of(f"sqlite:///{folder / 'mlflow.db'}")

    def found(expression):
        experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        return {run.data.tags["run_key"] for run in client.search_runs([experiment], expression)}

    table1e = {without.train.key, without.key, with_cl.train.key, with_cl.key}
    assert found("tags.table1e LIKE '%'") == table1e
    assert found("tags.table1e LIKE '%' AND tags.kind = 'evaluate'") == {without.key, with_cl.key}
    assert found("tags.table1e = 'w/ CL'") == {with_cl.train.key, with_cl.key}
    assert found("tags.table1d LIKE '%Hand-craft%'") == {hand_craft.train.key, hand_craft.key}
    assert found(f"tags.train_key = '{with_cl.train.key}'") == {with_cl.train.key, with_cl.key, hand_craft.key}
    assert found("tags.kind = 'train' AND metrics.AP > 0.4 AND params.train.correspondence = 'True'") == {with_cl.train.key}
    documented = re.findall(r"`((?:tags|metrics|attributes)\.\S+ [=>L].*?)`", (CHECKOUT / "docs" / "mlflow.md").read_text())
    assert len(documented) > 8
    for expression in documented:
        found(expression)  # MLflow refuses what it does not understand
    training = runs[with_cl.train.key]
    assert training.data.metrics["AP"] == 0.5, "of its evaluations the end-to-end one"
    assert training.info.run_name == "table1d: T=9 Fully e2e (ours), seed 0", "and that row's name"

    (params.root / "experiments" / "table1d.yaml").unlink()
    sync(load_params(folder / "params.yaml", ["tables=[table1e]", "train.lr=0.5", "inference.max_tracklets=3"]))
    assert found("tags.table1e LIKE '%'") == table1e, "other parameters know nothing of these runs, and take nothing away"
    assert client.get_run(training.info.run_id).data.tags["table1d"] == "T=9 Fully e2e (ours), T=9 Hand-craft"


def test_a_table_that_the_parameters_do_not_name_is_shown_when_it_is_there(project):
    params, rows = project
    train(params, rows[0].evaluations[0].train, 1)
    write_table(params.results_dir, summary(params, load_table(params, "table1d")))
    train(params, load_table(params, "table1d").rows[3].evaluations[0].train, 1)
    sync(params)
    _, runs = runs_of(f"sqlite:///{params.root / 'mlflow.db'}")
    assert sorted(run.info.run_name for run in runs.values() if run.data.tags["kind"] == "grid") == ["table1d", "table1e"]


def test_an_interrupted_pool_leaves_nothing_running_and_goes_on(tiny_project, empty_mlflow):
    """Ctrl-C interrupts two trainings; then the same command goes on where they were."""
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, train={"epochs": 400}, tables=["table1e"],
                          resources={"checkpoint_seconds": 1000})
    params = load_params(folder / "params.yaml")
    store = RunStore(params.runs_dir)
    keys = {row.evaluations[0].train.key for row in load_table(params, "table1e").rows}
    shutil.copy(empty_mlflow, folder / "here.db")
    uri = f"sqlite:///{folder / 'here.db'}"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "pipeline.ablate", "--grid", "table1e"]

    def statuses(kind="train"):
        _, runs = runs_of(uri)
        return {key: run.info.status for key, run in runs.items() if run.data.tags["kind"] == kind}

    def wait_until(condition):
        deadline = time.monotonic() + 900
        while not condition():
            assert pool.poll() is None and time.monotonic() < deadline, statuses()
            time.sleep(0.5)

    def done():
        return {key: steps_done(store.folder(key)) for key in keys if (store.folder(key) / "history.jsonl").is_file()}

    before = dict.fromkeys(keys, 0)
    with open(folder / "said.txt", "w") as said:
        for _ in range(2):
            pool = subprocess.Popen(command, cwd=folder, env=environment, stderr=said, stdout=said, start_new_session=True,
                                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
            wait_until(lambda: statuses() == dict.fromkeys(keys, "RUNNING"))
            assert set(statuses("grid").values()) == {"RUNNING"}
            wait_until(lambda before=before: all(done().get(key, 0) > steps for key, steps in before.items()))
            os.killpg(pool.pid, signal.SIGINT)  # a terminal sends it to all
            assert pool.wait(timeout=900) == 130, (folder / "said.txt").read_text()
            before = done()
            assert {key: saved_at(store.folder(key))[-1] for key in keys} == before
            assert not list((params.runs_dir / ".progress").iterdir())
            assert statuses() == dict.fromkeys(keys, "KILLED")
            assert set(statuses("grid").values()) == {"KILLED"}
    client, runs = runs_of(uri)
    for key in keys:
        steps = steps_of(client, runs[key])
        assert steps == list(range(1, len(steps) + 1))
        assert "log.txt" in {artifact.path for artifact in client.list_artifacts(runs[key].info.run_id)}


def test_several_at_once_bring_each_run_once(project):
    """They sync to a new database: it is initialised once, even if one of them belongs to another run store."""
    params, rows = project
    (params.root / "mlflow.db").unlink()
    for row in rows:
        train(params, row.evaluations[0].train, 20)
        evaluate(params, row.evaluations[0])
    command = [sys.executable, "-m", "pipeline.track", "--sync"]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    other_store = ["-S", "runs_dir=other-runs"]
    all_three = [subprocess.Popen(command + more, env=environment, stderr=subprocess.PIPE, text=True)
                 for more in ([], [], other_store)]
    errors = [process.communicate(timeout=900)[1] for process in all_three]
    assert [process.returncode for process in all_three] == [0, 0, 0], errors
    client, runs = runs_of(f"sqlite:///{params.root / 'mlflow.db'}")
    assert len(runs) == 2 + 2 + 2
    assert all(steps_of(client, runs[row.evaluations[0].train.key]) == list(range(1, 21)) for row in rows)


def test_what_a_competitions_server_said_stands_beside_our_own_ap(project, mlflow_server, monkeypatch):
    params, rows = project
    spec = rows[0].evaluations[0]
    train(params, spec.train, 5)
    evaluate(params, spec, ap=0.25)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    sync(params)  # the scores come days later
    assert "server.AP" not in runs_of(mlflow_server)[1][spec.key].data.metrics
    (params.root / "scores.txt").write_text("mAP: 0.351\nAR10: -1\n")
    take_back(params, spec, params.root / "scores.txt")
    sync(params)
    client, runs = runs_of(mlflow_server)
    assert (runs[spec.key].data.metrics["AP"], runs[spec.key].data.metrics["server.AP"]) == (0.25, 0.351)
    assert [file.path for file in client.list_artifacts(runs[spec.key].info.run_id, "server")] == [f"server/{spec.key}.json"]


def test_a_server_that_is_down_delays_and_loses_nothing(project, mlflow_server, monkeypatch, capsys):
    params, rows = project
    spec = rows[0].evaluations[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Tracker(params, every=0.1, first=0.1, last=600):
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


def test_mlflow_is_loaded_when_a_training_takes_its_first_step(project, mlflow_server, monkeypatch):
    params, rows = project
    train(params, rows[0].evaluations[0].train, 3)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    calls = []
    monkeypatch.setattr("pipeline.mlflow_view.sync.sync", lambda *args, **more: calls.append(time.monotonic()))
    with Tracker(params, every=0.1, first=1000, last=30):
        time.sleep(1.5)
        assert not calls, "what was there before is no reason"
        train(params, rows[1].evaluations[0].train, 1)
        deadline = time.monotonic() + 600
        while not calls:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_server_that_never_answers_holds_nobody_up_for_long(project, monkeypatch, capsys):
    params, rows = project
    train(params, rows[0].evaluations[0].train, 3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with Tracker(params, every=0.1, first=0.1, last=3.0):
            time.sleep(1)
        assert time.monotonic() - started < 60, "MLflow itself would wait for two minutes, and then again"
    assert "--sync" in capsys.readouterr().err
