"""A row of given weights from the command to the table, MLflow and the report: it is evaluated once, and nothing is trained."""

import json
import shutil

import pytest
import yaml
from support.given import ROW, TABLE, put_model, write_table_of
from support.project import put_evaluation, write_params
from support.tracking import runs_of

from effvis.errors import UserError
from pipeline import ablate, evaluate, report, train
from pipeline.grid.rows import load_table
from pipeline.planning.estimate import durations
from pipeline.planning.grids import run_missing
from pipeline.planning.plan import plan_rows
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.tables.write import write_tables
from pipeline.weights.models import find_model


def of_project(project, module, *arguments):
    return module.main(["--params", str(project / "params.yaml"), *map(str, arguments)])


@pytest.mark.slow
def test_a_grid_evaluates_given_weights_and_shows_them_everywhere(tiny_project, empty_mlflow, tmp_path, monkeypatch, capsys):
    project = tiny_project(seeds=2, tables=[TABLE], resources={"slots": 1})
    folder = put_model(project)
    write_table_of(project, {"weights": "models/x"})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(project)
    params = load_params(project / "params.yaml")
    ((spec,),) = (row.evaluations for row in load_table(params, TABLE).rows)

    assert of_project(project, ablate, "--grid", TABLE, "--dry-run", "--verbose") == 0
    said = capsys.readouterr()
    assert f"{TABLE}: {ROW}: 0 of 1 evaluations done" in said.out and not said.err
    assert "0 unique trainings: 0 done, 0 missing\n1 unique evaluations: 0 done, 1 missing" in said.out

    shutil.copy(empty_mlflow, project / "mlflow.db")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert of_project(project, ablate, "--grid", TABLE) == 0
    cell = json.loads((params.results_dir / "cells" / f"{spec.key}.json").read_text())
    assert (cell["evaluation"], cell["run"]) == (spec.key, spec.train.key)
    assert cell["config"]["train"] == spec.train.describe() and cell["config"]["train"]["sha256"] == spec.train.sha256
    assert cell["times"]["train_seconds"] is None and "videos_seen" not in cell
    store = RunStore(params.runs_dir)
    assert yaml.safe_load((store.folder(spec.train.key) / "config.yaml").read_text()) == spec.train.describe()
    assert [place.name for place in params.runs_dir.glob("[0-9a-f]*")] == [spec.train.key] and not store.is_done(spec.train.key)

    assert of_project(project, evaluate, "--model", folder, "--out", tmp_path / "scores") == 0
    alone = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    results = (store.evaluation_folder(spec.train.key, spec.key) / "results.json").read_bytes()
    assert alone["evaluation"] == spec.key and alone["metrics"] == cell["metrics"]
    assert len(json.loads(results)) > 0 and results == (tmp_path / "scores" / "results.json").read_bytes()

    ap = 100 * cell["metrics"]["AP"]
    (row,) = json.loads((params.results_dir / f"{TABLE}.json").read_text())["rows"]
    measured = row["measured"]["AP"]
    assert (measured["mean"], measured["n"], measured["covers"]) == (round(ap, 4), 1, "videos") and measured["error"] >= 0
    assert row["set"] == {"weights": "models/x"} and row["evaluations"] == [spec.key]
    note = f"Weights that were not trained here, evaluated once: {ROW}."
    text = (params.results_dir / f"{TABLE}.md").read_text()
    assert f"| {ROW} | – | {ap:.1f} ± 0.0 (videos) |" in text and "| – |\n" in text and note in text
    assert f'{TABLE},"{ROW}",AP,,{round(ap, 4)},,1,0.0,videos' in (params.results_dir / f"{TABLE}.csv").read_text().splitlines()
    tex = (params.results_dir / f"{TABLE}.tex").read_text()
    assert note in tex and f"{ROW} & measured & {ap:.1f}" in tex

    client, runs = runs_of(f"sqlite:///{project / 'mlflow.db'}")
    given, child = runs[spec.train.key], runs[spec.key]
    assert {run.data.tags["kind"] for run in runs.values()} == {"grid", "given", "evaluate"}
    assert given.info.status == "FINISHED" and given.info.run_name == f"{TABLE}: {ROW}" and "seed" not in given.data.tags
    assert given.data.params["sha256"] == spec.train.sha256 and given.data.tags[TABLE] == ROW
    assert child.data.tags["mlflow.parentRunId"] == given.info.run_id
    assert child.data.metrics["AP"] == given.data.metrics["AP"] == cell["metrics"]["AP"]
    assert {file.path for file in client.list_artifacts(given.info.run_id)} == {"config.yaml"}

    (folder / "weights.safetensors").unlink()
    capsys.readouterr()
    before = (params.results_dir / f"{TABLE}.md").read_bytes()
    assert of_project(project, ablate, "--grid", TABLE) == 0
    assert (params.results_dir / f"{TABLE}.md").read_bytes() == before, "done, wherever the weights are"
    assert of_project(project, report) == 0
    page = (params.results_dir / "report" / "index.html").read_text()
    assert note in page and f"<code>{spec.key}</code>" in page


@pytest.fixture
def planned(tiny_project):
    project = tiny_project(seeds=2, pretrain={"source": "none"})
    folder = put_model(project)
    write_table_of(project, {"weights": "models/x"}, {"weights": "models/x", "test_fps": 1.5}, {"T": 9})
    params = load_params(project / "params.yaml")
    return project, folder, params, load_table(params, TABLE)


def test_missing_weights_stop_the_grid_before_it_runs_anything(planned, capsys):
    project, folder, params, table = planned
    (folder / "weights.safetensors").unlink()
    assert of_project(project, ablate, "--grid", TABLE, "--dry-run") == 0
    said = capsys.readouterr()
    assert said.err.count("warning: ") == 1 and "weights.safetensors: (file): is not there" in said.err
    with pytest.raises(UserError, match="is not there: these weights are to be evaluated"):
        run_missing(params, plan_rows(params, table.rows))
    assert not params.runs_dir.exists()


def test_given_and_trained_rows_stand_side_by_side(planned):
    project, folder, params, table = planned
    given, sparse, trained = table.rows
    put_evaluation(params, given.evaluations[0], 0.5, seconds=3.0)
    for spec, ap in zip(trained.evaluations, (0.1, 0.3), strict=True):
        put_evaluation(params, spec, ap)
    write_tables(params, [table])
    plan = plan_rows(params, table.rows)
    assert plan.missing == {sparse.evaluations[0].key} and len(plan.trainings) == 2
    assert durations(params, plan)[sparse.evaluations[0].key].basis == "similar"
    assert cells.find_cell(params, given.evaluations[0]).seed == 0
    rows = {row["name"]: row for row in json.loads((params.results_dir / f"{TABLE}.json").read_text())["rows"]}
    assert rows[ROW]["measured"]["AP"] == {"mean": 50.0, "std": None, "n": 1}
    assert rows["row 2"]["measured"]["AP"]["n"] == 2 and rows["row 1"]["measured"] == {}


def test_commands_find_given_weights_as_a_rows_model_and_do_not_train_them(planned, monkeypatch):
    project, folder, params, table = planned
    write_params(project, inference={"presence_threshold": 0.9})

    class Options:
        params, set, model, seed = project / "params.yaml", (), None, 0
        row = f"{TABLE}:row 1"

    found = find_model(Options)
    assert found.weights == folder / "weights.safetensors" and found.description.inference.test_fps == 1.5
    assert found.description.inference.presence_threshold == 0.0 and "AP 25.0" in found.text
    with pytest.raises(UserError, match="--row: .*is not trained here") as error:
        of_project(project, train, "--row", f"{TABLE}:{ROW}")
    assert "Name a row without weights" in str(error.value)
