"""The way from rows to unique runs, from the store to cells, and from cells to tables."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.project import CHECKOUT, put_evaluation, write_params

from effvis.errors import UserError
from pipeline import ablate
from pipeline.grid.rows import known_tables, load_table
from pipeline.planning.grids import choose_rows, expand_grid, of_methods, show_plan
from pipeline.planning.jobs import jobs
from pipeline.planning.plan import plan_rows
from pipeline.runs import cells
from pipeline.scheduling.ray_session import ray_running
from pipeline.settings.loading import load_params
from pipeline.tables.write import write_tables

TABLES = ("table1d", "table1e", "table1h")


def command(folder, module, *arguments, **environment):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"} | environment
    line = [sys.executable, "-m", f"pipeline.{module}", *arguments]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)


def plan_of(folder, *names, overrides=()):
    params = load_params(folder / "params.yaml", overrides)
    tables = [load_table(params, name) for name in names]
    return params, tables, plan_rows(params, [row for table in tables for row in table.rows])


def test_rows_share_trainings_and_a_pretraining_for_each_kind(tiny_project):
    params, tables, plan = plan_of(tiny_project(seeds=2), "table1e", "table1h")
    trainings = [spec for spec in plan.trainings if spec.kind == "train"]
    assert {(spec.model.clip_length, spec.train.correspondence, spec.seed) for spec in trainings} == {
        (3, True, 0), (3, True, 1), (3, False, 0), (3, False, 1)}
    assert len(trainings) == 4
    assert [(spec.train.correspondence, spec.seed) for spec in plan.trainings if spec.kind == "pretrain"] == [
        (False, 0), (False, 1), (True, 0), (True, 1)]
    assert sum(len(row.evaluations) for table in tables for row in table.rows) == 8
    assert len(plan.evaluations) == 8, "T=9 end-to-end is a row of both tables, and table 1h scores it on fewer frames as well"
    assert plan.missing == {spec.key for spec in (*plan.trainings, *plan.evaluations)}


def test_jobs_need_what_they_start_from(tiny_project):
    params, _, plan = plan_of(tiny_project(seeds=1), "table1e")
    todo = {job.key: job for job in jobs(params, plan)}
    kinds = [todo[spec.key].kind for spec in (*plan.trainings, *plan.evaluations)]
    assert kinds == ["pretrain", "train", "pretrain", "train", "evaluate", "evaluate"]
    for spec in plan.trainings:
        assert todo[spec.key].needs == ((spec.parent.key,) if spec.parent else ())
    for spec in plan.evaluations:
        assert todo[spec.key].needs == (spec.train.key,)
        assert todo[spec.key].log.parent == params.runs_dir / spec.train.key


def test_a_longer_clip_costs_more(tiny_project):
    params, _, plan = plan_of(tiny_project(seeds=1), "table1c")
    costs = {job.key: job.cost for job in jobs(params, plan)}
    by_length = {spec.model.clip_length: costs[spec.key] for spec in plan.trainings if spec.kind == "train"}
    assert by_length[12] > by_length[6] > by_length[3]


def test_a_cell_is_done_though_its_weights_are_elsewhere(tiny_project):
    folder = tiny_project(seeds=1)
    params, tables, plan = plan_of(folder, "table1e")
    for spec in plan.evaluations:
        put_evaluation(params, spec, 0.5)
    write_tables(params, tables)
    (params.runs_dir).rename(folder / "on-another-machine")
    assert plan_of(folder, "table1e")[2].missing == frozenset()

    cell_file = params.results_dir / "cells" / f"{plan.evaluations[0].key}.json"
    cell_file.write_text(cell_file.read_text()[:40])
    missing = plan_of(folder, "table1e")[2].missing
    first = plan.evaluations[0]
    assert missing == {first.key, first.train.key, first.train.parent.key}, "a broken cell is made again, the rest is not"


def test_cells_and_tables_are_means_over_seeds_in_percent(tiny_project):
    folder = tiny_project(seeds=2)
    params, (table,), plan = plan_of(folder, "table1e")
    without, with_cl = table.rows
    for spec, ap in zip((*without.evaluations, *with_cl.evaluations), (0.1, 0.2, 0.5, 0.5), strict=True):
        put_evaluation(params, spec, ap)
    write_tables(params, [table])

    written = json.loads((params.results_dir / "table1e.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    deviation, error = pytest.approx(7.0711, abs=1e-4), pytest.approx(5, abs=1e-4)
    assert rows["w/o CL"]["measured"]["AP"] == {"mean": 15.0, "std": deviation, "n": 2, "error": error, "covers": "seeds"}
    assert rows["w/ CL"]["measured"]["AP75"] == {"mean": 50.0, "std": 0.0, "n": 2}
    assert "APl" not in rows["w/ CL"]["measured"], "undefined is no number"
    assert rows["w/ CL"]["published"]["AP"] == 35.3
    assert rows["w/ CL"]["runs"] == [spec.train.key for spec in with_cl.evaluations]
    assert rows["w/ CL"]["evaluations"] == [spec.key for spec in with_cl.evaluations]
    assert rows["w/ CL"]["set"] == {"T": 9, "cl": True} and rows["w/ CL"]["not_run"] is None

    markdown = (params.results_dir / "table1e.md").read_text()
    assert "| w/o CL | 7.4 | 15.0 ± 5.0 (seeds) | +7.6 | 19.0 / 15.0 |" in markdown
    csv = (params.results_dir / "table1e.csv").read_text().splitlines()
    assert csv[0] == "table,row,metric,published,mean,std,n,error,covers"
    assert "table1e,w/ CL,AP,35.3,50.0,0.0,2,0.0,seeds" in csv and "table1e,w/ CL,AR100,,50.0,0.0,2,," in csv
    assert r"w/ CL & published & 35.3 & 57.6 &" in (params.results_dir / "table1e.tex").read_text()
    metrics = json.loads((params.results_dir / "metrics" / "table1e.json").read_text())
    assert metrics["w/ CL"]["AP"]["mean"] == 50.0

    cell = cells.find_cell(params, with_cl.evaluations[0])
    assert (cell.seed, cell.metrics["AP"], cell.times.evaluate_seconds) == (0, 0.5, 1.5)
    assert cell.config.train["model"]["clip_length"] == 3
    before = {file: file.read_bytes() for file in params.results_dir.rglob("*.*")}
    put_evaluation(params, with_cl.evaluations[0], 0.5, seconds=9.0)
    write_tables(params, [table])
    assert {file: file.read_bytes() for file in params.results_dir.rglob("*.*")} == before, "no times, no dates"


def test_rows_that_are_not_run_or_not_finished_say_so(tiny_project):
    folder = tiny_project(seeds=1)
    params, (table,), plan = plan_of(folder, "table3")
    put_evaluation(params, table.rows[3].evaluations[0], 0.25)
    write_tables(params, [table])
    rows = json.loads((params.results_dir / "table3.json").read_text())["rows"]
    assert [bool(row["measured"]) for row in rows] == [False, False, False, True]
    assert rows[3]["measured"]["AP"] == {"mean": 25.0, "std": None, "n": 1}
    markdown = (params.results_dir / "table3.md").read_text()
    assert "|  | publication | AP published |" in markdown
    assert "| SipMask* | ECCV'20 | 31.7 | not run | – |" in markdown
    assert "Not run (published only): SipMask*" in markdown
    assert "| EfficientVIS | ours | 34.0 | 25.0 | -9.0 |" in markdown
    csv = (params.results_dir / "table3.csv").read_text().splitlines()
    assert csv[0] == "table,row,publication,metric,published,mean,std,n,error,covers"
    assert "table3,EfficientVIS,ours,AP,34.0,25.0,,1,," in csv and "table3,CrossVIS,ICCV'21,AP,33.3,,,0,," in csv

    params, (table,), plan = plan_of(folder, "table1d")
    write_tables(params, [table])
    assert "| T=9 Hand-craft | 33.7 | – | – |" in (params.results_dir / "table1d.md").read_text()


def test_dry_run_shows_rows_unique_trainings_and_what_is_done(tiny_project):
    folder = tiny_project(seeds=2)
    params, (table,), plan = plan_of(folder, "table1e")
    for spec in table.rows[0].evaluations:
        put_evaluation(params, spec, 0.1)
    ended = command(folder, "ablate", "--grid", "table1e", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[:2] == ["table1e: w/o CL: 2 of 2 evaluations done", "table1e: w/ CL: 0 of 2 evaluations done"]
    assert lines[-3:] == ["8 unique trainings: 4 done, 4 missing", "4 unique evaluations: 2 done, 2 missing",
                          "estimated time: unknown, there are no past runs"]
    listed = [line.split()[0] for line in lines[3:-4]]
    assert listed == [spec.key for spec in plan.trainings]
    verbose = command(folder, "ablate", "--grid", "table1e", "--dry-run", "--verbose").stdout.splitlines()
    assert [line.split()[0] for line in verbose[3:-4]] == [spec.key for spec in (*plan.trainings, *plan.evaluations)]
    assert verbose[:3] == lines[:3] and verbose[-4:] == lines[-4:]
    assert not (folder / "results").exists(), "a dry run writes nothing"

    narrowed = command(folder, "ablate", "--grid", "table1e", "--dry-run", "--rows", "w/ CL", "--seeds", "1")
    assert narrowed.stdout.splitlines()[-3:-1] == ["2 unique trainings: 0 done, 2 missing",
                                                   "1 unique evaluations: 0 done, 1 missing"]


def test_dry_run_sums_up_a_row_s_learning_curve(tiny_project, capsys):
    params, (table,), _ = plan_of(tiny_project(seeds=2), "table1g")
    row = next(row for row in table.rows if row.curve)
    for spec in (row.evaluations[0], *row.curve[:3]):
        put_evaluation(params, spec, 0.1)
    show_plan(params, table.rows, plan_rows(params, table.rows))
    lines = capsys.readouterr().out.splitlines()
    assert f"table1g: {row.name}: 1 of 2 evaluations done, 3 of {len(row.curve)} of its learning curve" in lines


def test_wrong_names_are_named(tiny_project):
    folder = tiny_project()
    unknown = command(folder, "ablate", "--grid", "table9z", "--dry-run")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("error: ") and unknown.stderr.count("\n") == 1
    assert "table9z" in unknown.stderr and "table1e" in unknown.stderr
    _, tables, _ = plan_of(folder, "table1e")
    with pytest.raises(UserError, match="w/ CLL.*'w/o CL', 'w/ CL'"):
        choose_rows(tables, ["w/ CLL"])
    assert [row.name for row in choose_rows(tables, ["w/ CL"])] == ["w/ CL"]
    profile = command(folder, "ablate", "--grid", "table1e", "--profile", "mainframe", "--dry-run")
    assert profile.returncode == 2 and "there is no profile 'mainframe'. Known profiles: laptop, paper" in profile.stderr


def test_rows_are_chosen_by_name_or_by_table_and_name(tiny_project):
    _, tables, _ = plan_of(tiny_project(seeds=1), "table1g", "table2")
    chosen = choose_rows(tables, ["EfficientVIS", "table2:VisTR"])
    assert [(row.table, row.name) for row in chosen] == [
        ("table1g", "EfficientVIS"), ("table2", "EfficientVIS"), ("table2", "VisTR")]


@pytest.mark.parametrize("grid, names", [
    ("table1e", ["table1e"]),
    ("table1", [f"table1{letter}" for letter in "abcdefgh"]),
    ("table1h, table1e,table1h", ["table1h", "table1e"]),
    ("text31,table1,table1e", ["text31", *(f"table1{letter}" for letter in "abcdefgh")]),
    ("all", [*(f"table1{letter}" for letter in "abcdefgh"), "table2", "table3"]),
    ("table", ["table"]),
])
def test_a_grid_s_name_may_stand_for_several_tables(tiny_project, grid, names):
    assert expand_grid(known_tables(load_params(tiny_project() / "params.yaml")), grid) == names


def test_everything_done_needs_neither_ray_nor_mlflow(tiny_project):
    folder = tiny_project(seeds=1)
    params, (table,), plan = plan_of(folder, "table1e")
    for spec in plan.evaluations:
        put_evaluation(params, spec, 0.5)
    program = (
        "import sys; from pipeline.ablate import main\n"
        "assert main(['--grid', 'table1e', '--ahead', '-S', 'tables=[]']) == 0\n"
        "heavy = {'ray', 'mlflow', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
    assert (folder / "results" / "table1e.md").exists() and (folder / "results" / "claims.md").exists()


@pytest.mark.slow
def test_a_failed_run_is_reported_with_its_log_and_stops_only_what_needs_it(tiny_project, empty_mlflow, monkeypatch, capsys):
    """The second seed of one row cannot be trained, because a folder is in the place of a file. Both grids run in this process
    with one Ray between them, whose worker thus loads PyTorch once; others here run the command as a process."""
    folder = tiny_project(seeds=2, pretrain={"source": "none"}, tables=["table1e"], resources={"slots": 1})
    monkeypatch.chdir(folder)
    params, (table,), plan = plan_of(folder, "table1e")
    broken = table.rows[0].evaluations[1]
    (params.runs_dir / broken.train.key / "config.yaml").mkdir(parents=True)
    shutil.copy(empty_mlflow, folder / "here.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'here.db'}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_running(params.resources.threads, params.runs_dir):
        assert ablate.main(["--grid", "table1e"]) == 1
        said = capsys.readouterr().err
        log = params.runs_dir / broken.train.key / "log.txt"
        assert f"log: {log}" in said and "Traceback" in log.read_text()
        assert f"skipped: table1e: w/o CL, seed 1: needs {plan.labels[broken.train.key]}" in said
        rows = json.loads((folder / "results" / "table1e.json").read_text())["rows"]
        assert [row["measured"]["AP"]["n"] for row in rows] == [1, 2]
        assert len(list((folder / "results" / "cells").iterdir())) == 3

        (params.runs_dir / broken.train.key / "config.yaml").rmdir()
        assert ablate.main(["--grid", "table1e"]) == 0
        assert capsys.readouterr().err.count("  done") == 2, "only what was missing ran"


def test_plan_files_change_with_keys_alone(tiny_project):
    folder = tiny_project(seeds=1)

    def planned():
        ended = command(folder, "plan")
        assert ended.returncode == 0, ended.stderr
        return {file.name: file.read_text() for file in (folder / "results" / "plan").iterdir()}

    first = planned()
    assert sorted(first) == ["evaluate.json", *(f"{name}.json" for name in TABLES), "train.json"]
    write_params(folder, resources={"slots": 1})
    assert planned() == first
    write_params(folder, inference={"max_tracklets": 3})
    changed = {name for name, text in planned().items() if text != first[name]}
    assert changed == {"evaluate.json", *(f"{name}.json" for name in TABLES)}
    write_params(folder, tables=["table1e"])
    assert sorted(planned()) == ["evaluate.json", "table1e.json", "train.json"]


@pytest.mark.slow
def test_two_grids_at_once_share_the_work(tiny_project, empty_mlflow):
    """Rows of two tables have one training in common, and separate processes want it at the same time: every key is there once,
    also in MLflow. Each process has one worker, so that two work at once, and not four."""
    from mlflow.tracking import MlflowClient

    folder = tiny_project(seeds=1, pretrain={"source": "none"}, train={"epochs": 12}, resources={"slots": 1})
    shutil.copy(empty_mlflow, folder / "here.db")
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1",
                                "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'here.db'}"}
    wanted = ("table1e", "--rows", "w/ CL"), ("table1h",)
    lines = [[sys.executable, "-m", "pipeline.ablate", "--grid", *words] for words in wanted]
    grids = [subprocess.Popen(line, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [grid.communicate(timeout=900)[1] for grid in grids]
    assert [grid.returncode for grid in grids] == [0, 0], errors
    rows = {name: json.loads((folder / "results" / f"{name}.json").read_text())["rows"] for name in ("table1e", "table1h")}
    assert not rows["table1e"].pop(0)["measured"] and all(row["measured"] for table in rows.values() for row in table)
    assert rows["table1e"][0]["runs"] == rows["table1h"][0]["runs"] == rows["table1h"][1]["runs"]
    keys = {key for table in rows.values() for row in table for key in (*row["runs"], *row["evaluations"])}
    assert len(keys) == 1 + 3
    for key in {key for table in rows.values() for row in table for key in row["runs"]}:
        history = (folder / "runs" / key / "history.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in history] == list(range(1, 37))
    client = MlflowClient(tracking_uri=environment["MLFLOW_TRACKING_URI"])
    found = client.search_runs([client.get_experiment_by_name("effvis").experiment_id])
    assert sorted(run.data.tags["run_key"] for run in found if run.data.tags["kind"] != "grid") == sorted(keys)


def test_rows_of_one_method_are_run_and_all_are_shown(tiny_project):
    folder = tiny_project(seeds=1)
    every = command(folder, "ablate", "--grid", "table1d", "--dry-run", "--methods", "all").stdout
    ours = command(folder, "ablate", "--grid", "table1d", "--dry-run", "--methods", "efficientvis").stdout
    assert "T=18 VisTR: 0 of 1" in every and "VisTR" not in ours and "4 unique evaluations" in ours
    wrong = command(folder, "ablate", "--grid", "table1d", "--dry-run", "--methods", "visstr")
    assert wrong.returncode == 2 and "--methods: visstr" in wrong.stderr and wrong.stderr.count("\n") == 1
    _, tables, _ = plan_of(folder, "table1d", "table2")
    quoted = [row for table in tables for row in table.rows if row.not_run]
    assert quoted and [row for row in of_methods(quoted, ["vistr"])] == quoted, "what is only published is shown"
