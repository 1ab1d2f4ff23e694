"""The whole pipeline as a newcomer runs it: dvc repro in a fresh clone, with real Ray and real MLflow, at tiny sizes."""

import json

import pytest
from support.dvc_project import jobs_run, stages_run
from support.project import REPRODUCED_ROWS

pytestmark = pytest.mark.slow


def test_all_stages_run_and_the_tables_have_numbers(reproduced):
    folder, output = reproduced
    assert stages_run(output) == [
        "download@shapes-vis", "index", "plan", "ablate@table1e", "ablate@table1h", "claims", "train", "evaluate", "report"]
    for name, rows in REPRODUCED_ROWS.items():
        table = json.loads((folder / "results" / f"{name}.json").read_text())
        assert tuple(row["name"] for row in table["rows"]) == rows
        for row in table["rows"]:
            assert 0 <= row["measured"]["AP"]["mean"] <= 100 and row["measured"]["AP"]["n"] == 1
            assert len(row["runs"]) == len(row["evaluations"]) == 1
        assert all(row in (folder / "results" / f"{name}.md").read_text() for row in rows)
    report = (folder / "results" / "report.md").read_text()
    assert report.count("## Table 1") == 2 and "shapes-vis" in report
    claims = json.loads((folder / "results" / "claims.json").read_text())["claims"]
    measured = {claim["id"] for claim in claims if claim["verdict"] != "not measured"}
    assert measured == {"cl-is-key", "low-fps-robust"}, "the claims of these two tables"
    headline = json.loads((folder / "results" / "headline.json").read_text())
    table = json.loads((folder / "results" / "table1e.json").read_text())
    assert headline["run"] == table["rows"][1]["runs"][0], "the headline run is a cell of the tables"


def test_each_training_ran_once(reproduced):
    folder, output = reproduced
    assert len(list((folder / "runs").glob("*/done.json"))) == 4, "two trainings and what each starts from"
    assert jobs_run(output) == ["evaluate"] * 4 + ["pretrain"] * 2 + ["train"] * 2


def test_mlflow_has_exactly_the_runs(reproduced):
    from mlflow.tracking import MlflowClient

    folder, _ = reproduced
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("effvis").experiment_id])
    by_kind: dict[str, set[str]] = {}
    for run in found:
        by_kind.setdefault(run.data.tags["kind"], set()).add(run.data.tags["run_key"])
        assert run.info.status == "FINISHED"
    assert {kind: len(keys) for kind, keys in by_kind.items()} == {"grid": 2, "pretrain": 2, "train": 2, "evaluate": 4}
    assert len(found) == 10
    assert by_kind["pretrain"] | by_kind["train"] == {file.parent.name for file in (folder / "runs").glob("*/done.json")}
    assert by_kind["evaluate"] == {file.stem for file in (folder / "results" / "cells").iterdir()}
    for run in found:
        if run.data.tags["kind"] in ("pretrain", "train"):
            history = (folder / "runs" / run.data.tags["run_key"] / "history.jsonl").read_text().splitlines()
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
            assert sorted(steps) == list(range(1, len(history) + 1))
