"""Bringing records to a real MLflow server: once each, whatever is interrupted, deleted or forgotten."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.mlflow_view.mirror import Mirror, Record, Step, flat

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parents[2]
SEARCHED = os.pathsep.join((str(Path(__file__).parent), str(PROJECT / "tests")))  # where a separate process finds this module


def training(steps: int, **options) -> Record:
    def read():
        # Never use the same time twice: an SQL server would swallow an equal row that is sent again, and hide the mistake.
        clock = time.time_ns() // 10**6
        return tuple(Step(n, clock + n, {"loss": 1 / n, "losses.focal": 0.5}) for n in range(1, steps + 1))

    options = {"tags": {"seed": "0"}, "started": 1, "params": {"train": {"lr": 0.1, "cl": None}}} | options
    return Record("train0", "table1e: w/ CL, seed 0", steps=read, version=str(steps), **options)


def runs(uri: str, experiment: str) -> dict[str, list]:
    """All runs of an experiment by run_key."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found: dict[str, list] = {}
    for run in client.search_runs([client.get_experiment_by_name(experiment).experiment_id]):
        found.setdefault(run.data.tags["run_key"], []).append(run)
    return found


def steps_of(uri: str, run, name: str) -> list[int]:
    from mlflow.tracking import MlflowClient

    return sorted(metric.step for metric in MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name))


def test_each_step_once_however_often_and_with_or_without_the_cache(mlflow_server, tmp_path):
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"12345678")
    grid = Record("grid0", "table1e", {"kind": "grid"}, started=1, ended=2, status="FINISHED")
    mirror = Mirror(mlflow_server, "once", tmp_path / "state")
    assert mirror.bring(grid)
    assert mirror.bring(training(3, parent="grid0"))
    assert not mirror.bring(training(3, parent="grid0"))
    assert mirror.bring(training(5, parent="grid0"))
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    mirror = Mirror(mlflow_server, "once", tmp_path / "state")
    finished = dict(tags={"seed": "0", "table": "table1d"}, ended=99, status="FINISHED", artifacts={"": (weights,)})
    assert mirror.bring(training(7, **finished))
    assert not mirror.bring(training(7, **finished))
    evaluation = Record("eval0", "e", {}, 1, parent="train0", steps=lambda: (Step(0, 1, {"AP": 0.3}),), version="1")
    assert mirror.bring(evaluation)

    found = runs(mlflow_server, "once")
    assert {key: len(same) for key, same in found.items()} == {"grid0": 1, "train0": 1, "eval0": 1}
    run, child = found["train0"][0], found["eval0"][0]
    assert steps_of(mlflow_server, run, "loss") == steps_of(mlflow_server, run, "losses.focal") == list(range(1, 8))
    assert run.data.params == {"train.lr": "0.1", "train.cl": "None"}
    assert (run.data.tags["table"], run.info.status, run.info.end_time) == ("table1d", "FINISHED", 99)
    assert run.data.tags["mlflow.parentRunId"] == found["grid0"][0].info.run_id
    assert child.data.tags["mlflow.parentRunId"] == run.info.run_id
    assert (child.data.metrics, child.info.status) == ({"AP": 0.3}, "RUNNING")

    from mlflow.tracking import MlflowClient

    copied = MlflowClient(tracking_uri=mlflow_server).download_artifacts(run.info.run_id, weights.name, str(tmp_path))
    assert Path(copied).read_bytes() == b"12345678"


def test_killed_at_any_moment_loses_and_repeats_nothing(mlflow_server, tmp_path):
    """A growing history, brought step by step by a process that is killed at a random moment, then once unharmed."""
    program = (
        "import os, sys; from pathlib import Path; sys.path[:0] = sys.argv[1].split(os.pathsep); from test_mirror import *\n"
        "mirror = Mirror(sys.argv[2], 'killed', Path(sys.argv[3]))\n"
        "print('ready', flush=True)\n"
        "for length in range(int(sys.argv[4]), 1001, 20): mirror.bring(training(length))\n"
    )
    arguments = [sys.executable, "-c", program, SEARCHED, mlflow_server, str(tmp_path)]
    chance = random.Random(0)
    for attempt in range(3):
        process = subprocess.Popen([*arguments, str(1 + 300 * attempt)], cwd=PROJECT, stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(chance.uniform(0.05, 1.5))
        process.kill()
        process.wait()
        process.stdout.close()
    Mirror(mlflow_server, "killed", tmp_path).bring(training(1000))
    (run,) = runs(mlflow_server, "killed")["train0"]
    assert steps_of(mlflow_server, run, "loss") == steps_of(mlflow_server, run, "losses.focal") == list(range(1, 1001))


def test_a_database_that_was_being_made_when_its_maker_was_killed_is_in_nobodys_way(tmp_path):
    uri, state = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "state"
    program = (
        "import os, sys; from pathlib import Path; sys.path[:0] = sys.argv[1].split(os.pathsep); from test_mirror import *\n"
        "Mirror(sys.argv[2], 'begun', Path(sys.argv[3]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, SEARCHED, uri, str(state)], cwd=PROJECT)
    while not any(file.stat().st_size for file in tmp_path.glob(".mlflow.db.*.tmp")):
        assert process.poll() is None, "it ended before it was seen to make a database"
    process.kill()
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    assert Mirror(uri, "begun", state).bring(training(3))
    assert steps_of(uri, runs(uri, "begun")["train0"][0], "loss") == [1, 2, 3]


def test_a_new_database_and_a_deleted_run_are_filled_again(tmp_path):
    from mlflow.tracking import MlflowClient

    uri, state = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "state"
    program = (
        "import os, sys; from pathlib import Path; sys.path[:0] = sys.argv[1].split(os.pathsep); from test_mirror import *\n"
        "assert Mirror(sys.argv[2], 'again', Path(sys.argv[3])).bring(training(3))\n"
    )
    command = [sys.executable, "-c", program, SEARCHED, uri, str(state)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (tmp_path / "mlflow.db").unlink()
    mirror = Mirror(uri, "again", state)
    assert mirror.bring(training(3)), "the cache speaks of a database that is gone"
    assert not mirror.bring(training(3))
    MlflowClient(tracking_uri=uri).delete_run(runs(uri, "again")["train0"][0].info.run_id)
    assert not mirror.bring(training(3)), "what was deleted on purpose stays so until there is news"
    assert mirror.bring(training(4))
    (run,) = runs(uri, "again")["train0"]
    assert steps_of(uri, run, "loss") == [1, 2, 3, 4]


def test_what_was_killed_runs_again_when_it_resumes(mlflow_server, tmp_path):
    mirror = Mirror(mlflow_server, "status", tmp_path)
    seen = []
    for steps, status, ended in ((3, "RUNNING", None), (3, "KILLED", 50), (4, "RUNNING", None), (5, "FINISHED", 99)):
        assert mirror.bring(training(steps, status=status, ended=ended))
        (run,) = runs(mlflow_server, "status")["train0"]
        seen.append(run.info.status)
    assert seen == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    assert run.info.end_time == 99
    assert steps_of(mlflow_server, run, "loss") == [1, 2, 3, 4, 5]


def test_tags_are_never_taken_away_and_those_by_default_never_overwrite(mlflow_server, tmp_path):
    mirror = Mirror(mlflow_server, "tags", tmp_path)
    assert mirror.bring(training(1, tags={"table1e": "w/ CL"}, default_tags={"profile": "laptop"}))
    assert not mirror.bring(training(1, tags={}, default_tags={"profile": "paper"})), "it knows less: no news"
    assert mirror.bring(training(2, tags={"table1d": "T=9"}, default_tags={"profile": "paper"}))
    (run,) = runs(mlflow_server, "tags")["train0"]
    assert {"table1e": "w/ CL", "table1d": "T=9", "profile": "laptop"}.items() <= run.data.tags.items()
    assert mirror.bring(training(2, tags={"table1e": "with CL", "profile": "paper"}))
    (run,) = runs(mlflow_server, "tags")["train0"]
    assert {"table1e": "with CL", "table1d": "T=9", "profile": "paper"}.items() <= run.data.tags.items()


def test_a_run_finds_its_parent_later(mlflow_server, tmp_path):
    mirror = Mirror(mlflow_server, "parents", tmp_path)
    assert mirror.bring(training(1))
    assert mirror.bring(Record("grid0", "table1e", {}, started=1))
    assert mirror.bring(training(1, parent="grid0"))
    assert not mirror.bring(training(1)), "whose child it became it stays"
    found = runs(mlflow_server, "parents")
    assert found["train0"][0].data.tags["mlflow.parentRunId"] == found["grid0"][0].info.run_id


def test_a_summary_may_change_and_is_sent_when_it_does(mlflow_server, tmp_path):
    mirror = Mirror(mlflow_server, "summary", tmp_path)
    for ap in (0.5, 0.4):  # a later value need not be a larger one
        assert mirror.bring(training(3, summary={"AP": ap}))
        assert not mirror.bring(training(3, summary={"AP": ap}))
        (run,) = runs(mlflow_server, "summary")["train0"]
        assert (run.data.metrics["AP"], run.data.metrics["loss"]) == (ap, 1 / 3)
    for file in tmp_path.iterdir():
        file.unlink()
    Mirror(mlflow_server, "summary", tmp_path).bring(training(3, summary={"AP": 0.4}))
    assert steps_of(mlflow_server, run, "AP") == [0, 0], "the server was asked, and had it"


def test_two_machines_that_bring_a_summary_at_once_leave_each_value_once(mlflow_server, tmp_path):
    """The other machine's value arrives after this one has looked at the server, and before this one sends its own."""
    mirrors = [Mirror(mlflow_server, "at-once", tmp_path / machine) for machine in ("one", "other")]

    def both(ap: float) -> None:
        summary = {"summary": {"AP": ap}, "version": str(ap)}
        other = Record("train0", "training", {}, started=1, **summary)
        assert mirrors[0].bring(Record("train0", "training", {}, started=1, steps=lambda: (mirrors[1].bring(other), ())[1],
                                       **summary))

    both(0.5)
    (run,) = runs(mlflow_server, "at-once")["train0"]
    assert steps_of(mlflow_server, run, "AP") == [0]
    both(0.4)
    (run,) = runs(mlflow_server, "at-once")["train0"]
    assert (run.data.metrics["AP"], steps_of(mlflow_server, run, "AP")) == (0.4, [0, 0])


def test_only_files_that_changed_are_copied_again(mlflow_server, tmp_path):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_server)
    table, picture = tmp_path / "table.md", tmp_path / "1.png"
    table.write_text("old")
    picture.write_bytes(b"picture")
    mirror = Mirror(mlflow_server, "files", tmp_path / "state", tmp_path / "artifacts")
    files = {"": (table,), "pictures": (picture,)}
    assert mirror.bring(training(1, artifacts=files))
    (run,) = runs(mlflow_server, "files")["train0"]
    folder = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == ["pictures/1.png", "table.md"]
    (folder / "pictures" / "1.png").unlink()
    table.write_text("newer")
    assert mirror.bring(training(1, artifacts=files))
    assert (folder / "table.md").read_text() == "newer"
    assert not (folder / "pictures" / "1.png").exists()
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["pictures", "table.md"]


def test_flat():
    assert flat({"a": {"b": 1, "c": {}}, "d": None}) == {"a.b": 1, "d": None}
