"""Estimates of how long a grid will take, from committed cells and the run store."""

import json
from functools import partial

import pytest
import yaml
from support.project import put_evaluation

from pipeline.grid.rows import load_table
from pipeline.planning.estimate import Duration, durations, elapsed
from pipeline.planning.grids import estimate_text, show_plan
from pipeline.planning.jobs import jobs
from pipeline.planning.plan import plan_rows
from pipeline.runs import cells
from pipeline.scheduling.pool import Job
from pipeline.settings.loading import load_params


def planned(params, *names):
    tables = {name: {row.name: row.evaluations for row in load_table(params, name).rows} for name in names}
    return tables, plan_rows(params, [row for name in names for row in load_table(params, name).rows])


def put_run(params, spec, seconds):
    """Stores a finished training without its weights, because only its time is needed."""
    folder = params.runs_dir / spec.key
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(spec.describe()))
    (folder / "done.json").write_text(json.dumps({"seconds": seconds}))


def put_cell(params, spec, train_seconds, seconds):
    """Writes a committed cell whose weights are elsewhere."""
    put_evaluation(params, spec, 0.5, seconds)
    cells.write(params, spec)
    file = params.results_dir / "cells" / f"{spec.key}.json"
    cell = json.loads(file.read_text())
    cell["times"]["train_seconds"] = train_seconds
    file.write_text(json.dumps(cell))


@pytest.fixture
def params(tiny_project):
    return load_params(tiny_project(seeds=2, pretrain={"source": "none"}, resources={"slots": 2}) / "params.yaml")


def test_another_seed_takes_as_long_as_the_first(params):
    tables, plan = planned(params, "table1e")
    first, second = tables["table1e"]["w/ CL"]
    put_cell(params, first, 40.0, 5.0)
    plan = planned(params, "table1e")[1]
    found = durations(params, plan)
    assert found[second.train.key] == Duration(40.0, "same") and found[second.key] == Duration(5.0, "same")
    assert first.key not in found and first.train.key not in found, "what is done takes no time"


def test_what_never_ran_takes_as_long_per_pixel_as_the_runs_most_like_it(params):
    tables, plan = planned(params, "table1a", "table1c", "table1e")
    put_run(params, tables["table1c"]["T=9"][0].train, 30.0)
    put_run(params, tables["table1c"]["T=36"][0].train, 120.0)
    found = durations(params, plan)

    def expected(table, row):
        return found[tables[table][row][0].train.key]

    assert expected("table1a", "Spatial (S)") == Duration(120.0, "similar"), "as the one of the same length"
    assert expected("table1c", "T=18") == Duration(60.0, "similar"), "with CL, as T=9: 10 s a frame"
    put_run(params, tables["table1a"]["Joint T-S"][0].train, 60.0)
    found = durations(params, plan)
    assert expected("table1a", "Spatial (S)") == Duration(90.0, "similar"), "as long as those of its length in the mean"
    assert expected("table1e", "w/o CL") == Duration(pytest.approx(90.0 * 3 / 12), "similar"), "without CL, as T=36"
    assert not any(spec.key in found for spec in plan.evaluations), "nothing was evaluated yet"


def test_the_first_jobs_are_those_that_are_estimated_to_take_longest(params):
    tables, plan = planned(params, "table1b", "table1c")
    assert {job.cost for job in jobs(params, plan) if job.kind == "train"} == {3 * 32 * 48.0, 6 * 32 * 48.0, 12 * 32 * 48.0}
    put_run(params, tables["table1c"]["T=9"][0].train, 500.0)
    put_run(params, tables["table1b"]["Still-image"][0].train, 20.0)
    costs = {job.key: job.cost for job in jobs(params, plan)}
    assert costs[tables["table1c"]["T=9"][1].train.key] == 500.0
    assert costs[tables["table1b"]["Still-image"][1].train.key] == 20.0


def test_a_broken_cell_tells_nothing(params):
    tables, plan = planned(params, "table1e")
    folder = params.results_dir / "cells"
    folder.mkdir(parents=True)
    (folder / "0123456789abcdef.json").write_text("<<<<<<< ours")
    assert durations(params, plan) == {}


def test_slots_and_what_waits_for_what_are_taken_into_account(tmp_path):
    def job(key, *needs):
        return Job(key, "train", key, partial(print), tmp_path, needs)

    seconds = {"start": 10.0, "a": 30.0, "b": 20.0, "c": 20.0, "score": 5.0}
    todo = [job("start"), job("a", "start"), job("b", "start"), job("c", "start", "done before"), job("score", "b")]
    assert elapsed(todo, seconds, 1) == 85.0
    assert elapsed(todo, seconds, 2) == 10 + 20 + 20, "a beside b; then c, and the score beside it"
    assert elapsed(todo, seconds, 9) == 10 + 30
    assert elapsed([], {}, 2) == 0.0


def test_a_dry_run_says_how_long_and_what_that_stands_on(params, capsys):
    tables, plan = planned(params, "table1e")
    put_cell(params, tables["table1e"]["w/ CL"][0], 40.0, 5.0)
    rows, plan = load_table(params, "table1e").rows, planned(params, "table1e")[1]
    show_plan(params, rows, plan)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["table1e: w/o CL: 0 of 2 evaluations done, the others take 0:10",
                         "table1e: w/ CL: 1 of 2 evaluations done, the others take 0:05"]
    # Three trainings of 40 s on two slots, then five seconds for the score of the last one.
    assert lines[-1] == ("estimated time: 1:25 with 2 side by side (2 runs as their configuration took before, "
                         "4 as similar runs took)")
    key = tables["table1e"]["w/ CL"][1].train.key
    assert next(line for line in lines if line.startswith(key)).split()[:4] == [key, "train", "missing", "0:40"]


def test_what_is_unknown_is_said_and_not_counted(params):
    tables, plan = planned(params, "table1e")
    put_run(params, tables["table1e"]["w/ CL"][0].train, 40.0)
    plan = planned(params, "table1e")[1]
    text = estimate_text(params, plan, durations(params, plan))
    assert text.endswith("(2 runs as their configuration took before, 2 as similar runs took, 4 unknown and not counted)")
