"""Searches: the format of a space, trials as rows, and real Ray Tune with more trials than slots, killed and started again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from ray import tune
from support.project import CHECKOUT, put_evaluation
from support.stored import saved_at, steps_done

from effvis.errors import UserError
from pipeline import tune as tune_command
from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.grid.table_file import TableFile
from pipeline.reporting import charts
from pipeline.reporting.search_page import page
from pipeline.runs.log import RunLog
from pipeline.runs.store import RunStore
from pipeline.search.search import (
    RungReport,
    Search,
    Trial,
    best_row,
    new_search,
    open_search,
    read_search,
    trials_csv,
    write_search,
)
from pipeline.search.space import Distribution, SpaceFile, check_space, draw, find_base, load_space
from pipeline.search.trials import TrialPlan, _climb, _Proposals, _Study
from pipeline.settings.loading import load_params

SPACE = {"row": "table1e:w/ CL", "space": {"train.lr": {"log_uniform": [1e-5, 1e-2]}}}


def write_space(folder, **changes):
    file = folder / "experiments" / "search" / "tried.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(SPACE | changes))
    return file


def planned(folder, **changes):
    """(plan, search) of a project's space."""
    params, file = load_params(folder / "params.yaml"), write_space(folder, **changes)
    space = load_space(file, row=None)
    base = find_base(params, file, space)
    return TrialPlan(params, base, space, 1, "tried"), new_search(params, "tried", space, base, 1)


@pytest.mark.parametrize("changes, key, problem", [
    ({"spaces": {}}, "spaces", "unknown key"),
    ({"space": {}}, "space", "at least 1 item"),
    ({"space": {"train.lr": {"log_uniform": [1e-2, 1e-5]}}}, "space.train.lr", "the lowest first"),
    ({"space": {"train.lr": {"log_uniform": [0, 1]}}}, "space.train.lr", "above 0"),
    ({"space": {"train.lr": {"uniform": [0, 1], "choice": [1]}}}, "space.train.lr", "exactly one of"),
    ({"space": {"train.lr": {"choise": [1]}}}, "space.train.lr.choise", "unknown key"),
    ({"space": {"train.lr": {"choice": [1, 2]}}, "listed": [{"train.lr": 3}]}, "(top)", "listed.0: each trial has a value"),
    ({"search": "asha", "rungs": 0}, "(top)", "rungs must be 1 or more"),
    ({"search": "grid"}, "search", "'asha', 'random' or 'optuna'"),
    ({"row": "table1e:w/ CLL"}, "row", "no such row"),
    ({"row": "table9:T=9"}, "row", "there is no such table"),
    ({"space": {"train.lrr": {"choice": [1, 2]}}}, "space.train.lrr", "unknown key"),
    ({"space": {"train.batch_size": {"choice": [2, 0]}}}, "space.train.batch_size", "greater than"),
    ({"space": {"train.lr": {"uniform": [-1, 1]}}}, "space.train.lr", "greater than"),
    ({"space": {"resources.threads": {"choice": [1, 2]}}}, "space.resources.threads", "is not what a run is made of"),
    ({"space": {"model.clip_length": {"choice": [1, 2]}}}, "space.model.clip_length", "cannot be set"),
    ({"space": {"train.correspondence": {"choice": ["on", "off"]}}}, "space.train.correspondence", "the same run"),
])
def test_a_mistake_in_a_space_is_named_with_its_file_and_key(tiny_project, changes, key, problem):
    folder = tiny_project()
    params, file = load_params(folder / "params.yaml"), write_space(folder, **changes)
    with pytest.raises(UserError, match=problem) as caught:
        space = load_space(file, row=None)
        check_space(params, file, space, find_base(params, file, space))
    assert caught.value.where == str(file) and caught.value.key == key and caught.value.remedy


def test_numbers_that_yaml_reads_as_texts_are_numbers():
    assert Distribution(choice=["1e-3", 2, "on", None, True]).choice == (0.001, 2, "on", None, True)
    assert Distribution(log_uniform=["1e-5", "1e-2"]).log_uniform == (1e-5, 1e-2)


def test_what_is_drawn_lies_in_the_space_and_follows_from_the_number_alone():
    space = SpaceFile(space={"train.lr": {"log_uniform": [1.2345e-5, 1e-2]}, "train.batch_size": {"choice": [2, 4]},
                             "model.queries": {"integer": [3, 5]}, "inference.presence_threshold": {"uniform": [0.1, 0.2]}})
    drawn = [draw(space, number, 0) for number in range(200)]
    assert drawn == [draw(space, number, 0) for number in range(200)]
    assert draw(space, 0, 1) != drawn[0] and draw(space.model_copy(update={"seed": 1}), 0, 0) != drawn[0]
    rates = np.array([values["train.lr"] for values in drawn])
    assert rates.min() >= 1.2345e-5 and rates.max() <= 1e-2 and 0.3 < (rates < 3.5e-4).mean() < 0.7
    assert {values["model.queries"] for values in drawn} == {3, 4, 5}
    assert {values["train.batch_size"] for values in drawn} == {2, 4}
    assert all(0.1 <= values["inference.presence_threshold"] <= 0.2 for values in drawn)


def test_the_project_s_own_searches_can_be_run(tiny_project):
    folder = tiny_project()
    params = load_params(folder / "params.yaml")
    files = sorted((folder / "experiments" / "search").glob("lr*.yaml"))  # the other one is tests/search/test_choices.py's
    assert [file.stem for file in files] == ["lr-batch-presence", "lr"]
    for file in files:
        space = load_space(file, row=None)
        check_space(params, file, space, find_base(params, file, space))


def test_a_trial_is_a_row_with_other_parameters(tiny_project):
    folder = tiny_project()
    plan, _ = planned(folder)
    own = find_evaluation(plan.params, "table1e:w/ CL")
    assert plan.base.trial(plan.params, {"train.lr": plan.params.train.lr}, 1) == (own,), "it is found done where the row is"
    values = {"train.lr": 0.003, "inference.presence_threshold": 0.2}
    first, second = plan.base.trial(plan.params, values, 2)
    assert (first.train.train.lr, first.inference.presence_threshold) == (0.003, 0.2)
    assert (first.train.seed, second.train.seed) == (0, 1) and first.train.train.correspondence
    table = folder / "experiments" / "table1e.yaml"
    content = yaml.safe_load(table.read_text())
    content["rows"][1]["set"]["params"] = {**values}
    table.write_text(yaml.safe_dump(content))
    assert find_evaluation(plan.params, "table1e:w/ CL") == first
    content["rows"][1]["set"]["params"] = {"train.lr": -1}
    table.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"table1e.yaml: rows.1.set.params.train.lr: .*greater than 0"):
        load_table(plan.params, "table1e")


def test_a_search_goes_on_only_as_the_same_search(tiny_project):
    folder = tiny_project()
    plan, search = planned(folder)
    trial = search.add({"train.lr": 0.001}, plan.base.trial(plan.params, {"train.lr": 0.001}, 1))
    search.report(trial, 2, 0.25)
    search.report(trial, 2, 0.5)
    write_search(plan.params, search)
    _, new = planned(folder)
    again = open_search(plan.params, new)
    assert again == search and again.trials[0].reports == [RungReport(halvings=2, value=0.25, seconds=0.0)]
    with pytest.raises(UserError, match="search.json: key: .*another --name"):
        open_search(plan.params, planned(folder, seed=1)[1])
    file = plan.params.results_dir / "search" / "tried" / "search.json"
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match="search.json: .*unreadable JSON.*Restore it from git"):
        read_search(file)


def ended_search():
    """A search of two parameters with four trials: stopped, done, better, diverged."""
    space = SpaceFile(space={"train.lr": {"log_uniform": [1e-5, 1e-2]}, "train.batch_size": {"choice": [2, 4]}})
    search = Search(name="tried", key="k", space=space, base="table1h:1.5 FPS", seeds=1, dataset="shapes", profile="laptop",
                    seconds=90.0)
    for number, (lr, size, state, values) in enumerate([
            (1e-5, 2, "stopped", [0.05]), (1e-3, 4, "done", [0.1, 0.2, 0.3]), (2e-3, 2, "done", [0.1, 0.2, 0.4]),
            (1e-2, 4, "diverged", [])]):
        reports = [RungReport(halvings=2 - place, value=value, seconds=10.0 * number + place)
                   for place, value in enumerate(values)]
        message = "the loss is nan" if state == "diverged" else ""
        search.trials.append(Trial(
            number=number, parameters={"train.lr": lr, "train.batch_size": size}, runs=[f"r{number}"],
            evaluations=[f"e{number}"], state=state, message=message, reports=reports))
    return search


def test_what_is_made_of_a_search(tiny_project):
    search = ended_search()
    params = load_params(tiny_project() / "params.yaml")
    base = find_base(params, params.root / "x.yaml", SpaceFile(row="table1h:1.5 FPS", **{"space": {"a": {"choice": [1]}}}))
    assert trials_csv(search).splitlines()[:3] == [
        "trial,state,train.lr,train.batch_size,AP after 1/4,AP after 1/2,AP at the end,runs,message",
        "0,stopped,1e-05,2,5.0,,,r0,", "1,done,0.001,4,10.0,20.0,30.0,r1,"]
    row = yaml.safe_load(best_row(search, base))
    assert row[0]["set"] == {**base.set, "params": {**base.set["params"], "train.lr": 0.002, "train.batch_size": 2}}
    assert base.set["test_fps"] == 1.5
    html = page(search, base)
    assert html.count("data:image/svg+xml") == 3 and "the loss is nan" in html and "http" not in html.replace("http://www", "")
    assert page(search, base) == html
    for drawing in (charts.parallel_coordinates, charts.trial_curves, charts.values_over_time):
        ElementTree.fromstring(drawing(search))
        assert drawing(search) == drawing(search)
    text = charts.parallel_coordinates(search).decode()
    assert all(f">{label}<" in text for label in ("train.lr", "train.batch_size", "1e-05", "0.01", "2", "4", "5.0", "40.0"))


def test_earlier_trials_count_at_the_rungs():
    search = ended_search()
    study = _Study(search.space, search)
    worse, better = (Trial(number=number, parameters={"train.lr": 1e-4, "train.batch_size": 2}, runs=[], evaluations=[])
                     for number in (4, 5))
    study.add(worse)
    assert study.is_worse(worse, 2, 0.01)
    study.add(better)
    assert not study.is_worse(better, 2, 0.2)
    assert study.is_worse(better, 1, 0.15)
    assert not study.is_worse(better, 0, 0.0), "at its end there is nothing to stop"


@pytest.mark.parametrize("changes", [{"search": "random"}, {"search": "optuna", "rungs": 0}])
def test_searches_that_stop_nobody(changes):
    search = ended_search()
    study = _Study(search.space.model_copy(update=changes), search.model_copy(update={"trials": []}))
    for number, value in enumerate((0.9, 0.1)):
        trial = Trial(number=number, parameters={"train.lr": 1e-4, "train.batch_size": 2}, runs=[], evaluations=[])
        study.add(trial)
        assert not study.is_worse(trial, 0 if changes.get("rungs") == 0 else 2, value)


def test_a_rung_is_decided_once(tiny_project):
    """A trial whose process died, or that was interrupted, reports again what it reported: that does not count against it."""
    plan, search = planned(tiny_project())
    proposals = _Proposals(plan, search, 2)
    for name, value in (("first", 0.5), ("second", 0.6)):
        proposals.suggest(name)
        result = {"value": value, "halvings": 2}
        assert not proposals.is_worse(name, result)
        proposals.on_trial_result(name, result)
    assert not proposals.is_worse("first", {"value": 0.5, "halvings": 2})
    assert proposals.is_worse("first", {"value": 0.1, "halvings": 1}) is False, "the first at its rung goes on"
    assert proposals.is_worse("second", {"value": 0.05, "halvings": 1})
    assert not proposals.is_worse("second", {"value": float("nan"), "failure": "the disk is full"})


def test_no_parameters_are_proposed_twice_and_a_small_space_ends(tiny_project):
    plan, search = planned(tiny_project(), space={"train.batch_size": {"choice": [1, 2, 3]}})
    proposals = _Proposals(plan, search, 10)
    given = [proposals.suggest(f"t{number}") for number in range(4)]
    assert given[3] == "FINISHED" and sorted(one["parameters"]["train.batch_size"] for one in given[:3]) == [1, 2, 3]
    file = plan.params.results_dir / "search" / "tried" / "search.json"
    proposals.on_trial_complete("t0", {"value": 0.5, "halvings": 0})
    proposals.on_trial_complete("t1", {"value": 0.1, "halvings": 2})
    assert [trial.state for trial in read_search(file).trials] == ["done", "stopped", "running"]
    again = _Proposals(plan, read_search(file), 3)
    assert again.open == 1 and again.suggest("other")["number"] == 2, "what was interrupted comes first, under its number"


def test_optuna_proposes_from_what_trials_were_worth():
    search = ended_search()
    study = _Study(SpaceFile(search="optuna", space=search.space.space), search)
    assert [trial.state.name for trial in study._study.trials] == ["PRUNED", "COMPLETE", "COMPLETE", "PRUNED"]
    assert [trial.params for trial in study._study.trials] == [trial.parameters for trial in search.trials]
    for _ in range(5):
        values = study.propose()
        assert 1e-5 <= values["train.lr"] <= 1e-2 and values["train.batch_size"] in (2, 4)


def steps_of(params, key):
    return [json.loads(line)["step"] for line in (params.runs_dir / key / "history.jsonl").read_text().splitlines()]


def climb(plan, values, monkeypatch, until):
    """A trial as its process runs it, stopped after the report of a rung; what it reported."""
    reports = []

    def told(result):
        reports.append(result)
        if result.get("halvings", -1) == until:
            raise SystemExit

    monkeypatch.setattr(tune, "report", told)
    try:
        _climb(plan, plan.base.trial(plan.params, values, plan.seeds), report=lambda progress: None)
    except SystemExit:
        pass
    return reports


@pytest.mark.slow
def test_a_stopped_trial_is_not_done_and_ends_in_the_same_weights_when_it_goes_on(tiny_project, monkeypatch):
    folder = tiny_project(train={"epochs": 4, "lr_drop_epoch": 3}, pretrain={"source": "none"})
    plan, _ = planned(folder)
    values = {"train.lr": 0.001}
    (spec,) = plan.base.trial(plan.params, values, 1)
    store = RunStore(plan.params.runs_dir)
    stopped = climb(plan, values, monkeypatch, until=1)
    assert [one["halvings"] for one in stopped] == [2, 1]
    assert not store.is_done(spec.train.key) and steps_of(plan.params, spec.train.key) == [1, 2, 3, 4, 5, 6]
    assert len(list(store.evaluations(spec.train.key))) == 2
    log = RunLog(store.folder(spec.train.key))
    assert log.resume()["training"]["step"] == 6, "what is promoted goes on from its rung"
    log.close()
    resumed = climb(plan, values, monkeypatch, until=0)
    assert [one["halvings"] for one in resumed] == [2, 1, 0] and resumed[:2] == stopped
    assert steps_of(plan.params, spec.train.key) == list(range(1, 13))
    assert {report["videos_seen"] for report in store.evaluations(spec.train.key)} == {6, 12, 24}
    cell = plan.params.results_dir / "cells" / f"{spec.key}.json"
    assert json.loads(cell.read_text())["times"]["train_seconds"] > 0
    undisturbed = RunStore(folder / "undisturbed")
    train_run(plan.params.model_copy(update={"runs_dir": undisturbed.root}), spec.train)
    weights = [one.weights_file(spec.train.key).read_bytes() for one in (undisturbed, store)]
    assert weights[0] == weights[1]


def test_what_is_done_elsewhere_is_not_trained_again(tiny_project, monkeypatch):
    """There is only a cell, with its weights on another machine: rungs that can no longer be evaluated are left out."""
    plan, _ = planned(tiny_project())
    values = {"train.lr": plan.params.train.lr}
    (spec,) = plan.base.trial(plan.params, values, 1)
    put_evaluation(plan.params, spec, 0.5)
    assert [(one["halvings"], one["value"]) for one in climb(plan, values, monkeypatch, until=0)] == [(0, 0.5)]
    assert not (plan.params.runs_dir / spec.train.key / "history.jsonl").exists()


@pytest.mark.slow
def test_a_trial_that_diverges_says_so(tiny_project, monkeypatch):
    plan, _ = planned(tiny_project(pretrain={"source": "none"}, train={"epochs": 8}))
    reports = climb(plan, {"train.lr": 1e30, "train.clip_norm": 1e30}, monkeypatch, until=0)
    assert reports[-1]["diverged"] and "the loss is" in reports[-1]["failure"]


ENVIRONMENT = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}


def command(folder, *arguments):
    line = [sys.executable, "-m", "pipeline.tune", "--space", "experiments/search/tried.yaml", *arguments]
    return partial(subprocess.Popen, line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                   env=ENVIRONMENT | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'here.db'}"})


def test_a_dry_run_shows_the_trials_and_writes_nothing(tiny_project):
    folder = tiny_project()
    plan, _ = planned(folder)
    process = command(folder, "--trials", "3", "--dry-run")()
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert out.count(": to be run") == 3 and "3 trials of table1e:w/ CL" in out
    for number in range(3):
        (spec,) = plan.base.trial(plan.params, draw(plan.space, number, 0), 1)
        assert spec.train.key in out
    assert not (folder / "results").exists() and not (folder / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_saves_where_each_trial_is(tiny_project, empty_mlflow):
    folder = tiny_project(train={"epochs": 1000}, pretrain={"source": "none"},
                          resources={"slots": 2, "checkpoint_seconds": 1000})
    shutil.copy(empty_mlflow, folder / "here.db")
    plan, _ = planned(folder, rungs=1)
    search = command(folder, "--trials", "2")(start_new_session=True,
                                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    runs = [plan.params.runs_dir / spec.train.key for number in range(2)
            for spec in plan.base.trial(plan.params, draw(plan.space, number, 0), 1)]
    deadline = time.monotonic() + 900
    while not all((run / "history.jsonl").is_file() and steps_done(run) for run in runs):
        assert search.poll() is None, search.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(search.pid, signal.SIGINT)
    _, err = search.communicate(timeout=600)
    assert search.returncode == 130 and err.splitlines()[-1] == "interrupted" and "Traceback" not in err, err
    assert [saved_at(run) for run in runs] == [[steps_done(run)] for run in runs]
    trials = read_search(plan.params.results_dir / "search" / "tried" / "search.json").trials
    assert [trial.state for trial in trials] == ["running", "running"]  # and so goes on


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_and_trains_nothing_twice(tiny_project, empty_mlflow, monkeypatch, capsys):
    """There are more trials than slots, and one trial is a finished row. The driver is killed in the middle of a trial, then
    restarted with two slots. (That two trials that are interrupted both go on, the test above shows.)"""
    from mlflow.tracking import MlflowClient

    folder = tiny_project(train={"epochs": 8, "lr_drop_epoch": 6}, pretrain={"source": "none"},
                          resources={"slots": 2, "checkpoint_seconds": 0.2})
    # If killed while it makes its tables, MLflow leaves a database that it cannot use.
    shutil.copy(empty_mlflow, folder / "here.db")
    rates = [3e-4, 1e-4, 1e-3, 3e-3]
    plan, _ = planned(folder, space={"train.lr": {"choice": rates}}, listed=[{"train.lr": rate} for rate in rates], rungs=1)
    row = find_evaluation(plan.params, "table1e:w/ CL")
    assert row.train.train.lr == rates[0]
    train_run(plan.params, row.train)
    evaluate_run(plan.params, row)
    trained = (plan.params.runs_dir / row.train.key / "done.json").stat().st_mtime_ns

    first = command(folder, "--trials", "4", "-S", "resources.slots=1")()
    file = plan.params.results_dir / "search" / "tried" / "search.json"
    deadline = time.monotonic() + 900

    def in_the_middle():
        trials = read_search(file).trials if file.is_file() else []
        taken = [plan.params.runs_dir / trial.runs[0] / "history.jsonl" for trial in trials
                 if trial.state == "running" and trial.runs[0] != row.train.key]
        return any(trial.reports for trial in trials) and any(history.is_file() and history.stat().st_size for history in taken)

    while not in_the_middle():
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    before = read_search(file)
    assert any(trial.state == "running" for trial in before.trials)

    second = command(folder, "--trials", "4")()
    out, err = second.communicate(timeout=900)
    assert second.returncode == 0, err
    search = read_search(file)
    assert len(search.trials) == 4 and {trial.state for trial in search.trials} <= {"stopped", "done"}, search.trials
    assert [trial.parameters["train.lr"] for trial in search.trials] == rates, "as they are listed"
    assert [trial.parameters for trial in search.trials][: len(before.trials)] == [trial.parameters for trial in before.trials]
    for trial in search.trials:
        # Each step is in the history once, however often its process was killed: repeated steps are cut off at a checkpoint.
        assert steps_of(plan.params, trial.runs[0]) == list(range(1, 25 if trial.state == "done" else 13))
        assert RunStore(plan.params.runs_dir).is_done(trial.runs[0]) == (trial.state == "done")
    assert (plan.params.runs_dir / row.train.key / "done.json").stat().st_mtime_ns == trained, "the row was not trained again"

    best = search.best()
    table = {"title": "The best", "rows": yaml.safe_load((file.parent / "best.yaml").read_text())}
    (folder / "experiments" / "table_best.yaml").write_text(yaml.safe_dump(TableFile(**table).model_dump(mode="json")))
    (row,) = load_table(load_params(folder / "params.yaml", ["seeds=1"]), "table_best").rows
    assert row.evaluations[0].key == best.evaluations[0] and row.name in out
    assert (file.parent / "index.html").is_file() and (file.parent / "trials.csv").read_text().count("\n") == 5

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'here.db'}")
    runs = client.search_runs([client.get_experiment_by_name("effvis").experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == "search.tried"]
    assert parent.data.tags["kind"] == "grid" and parent.info.status == "FINISHED"
    shown = {run.data.tags["train_key"]: run for run in runs if run.data.tags["kind"] == "train"}
    assert shown.keys() == {trial.runs[0] for trial in search.trials}
    of_the_search = {key for key, run in shown.items() if run.data.tags["mlflow.parentRunId"] == parent.info.run_id}
    assert of_the_search == shown.keys() - {find_evaluation(plan.params, "table1e:w/ CL").train.key}, "that one is its table's"

    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'here.db'}")
    capsys.readouterr()
    assert tune_command.main(["--space", "experiments/search/tried.yaml", "--trials", "4"]) == 0
    assert capsys.readouterr().out == out, "nothing is missing: the same results at once"
