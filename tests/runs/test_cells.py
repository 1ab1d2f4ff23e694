"""Committed cells of an earlier configuration: they stay readable, and nothing takes them for results of today's."""

import json

import pytest
from support.project import put_evaluation

from effvis.config import HandcraftConfig, build
from effvis.errors import UserError
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.planning.estimate import Duration, durations
from pipeline.planning.plan import plan_rows
from pipeline.report import report_page
from pipeline.runs import cells
from pipeline.settings.loading import load_params
from pipeline.tables.summary import summary
from pipeline.tables.write import write_tables

ROW = "table1d:T=9 Hand-craft"
EARLIER_KEY = "0123456789abcdef"


@pytest.fixture
def params(tiny_project):
    return load_params(tiny_project(seeds=1, tables=["table1d"], pretrain={"source": "none"}) / "params.yaml")


@pytest.fixture
def earlier(params):
    """A cell whose hand-crafted linking has a setting that is no more; its weights are elsewhere."""
    spec = find_evaluation(params, ROW)
    put_evaluation(params, spec, 0.5, seconds=7.0)
    cells.write(params, spec)
    (params.runs_dir).rename(params.root / "on-another-machine")
    file = params.results_dir / "cells" / f"{spec.key}.json"
    cell = json.loads(file.read_text())
    file.unlink()
    handcraft = cell["config"]["inference"]["handcraft"]
    del handcraft["score_threshold"]
    handcraft["thresholds"] = [0.05, 0.1, 0.2, 0.3]
    with pytest.raises(UserError, match="unknown key"):
        build(HandcraftConfig, handcraft, where=file)
    file = file.with_name(f"{EARLIER_KEY}.json")
    file.write_text(json.dumps(cell | {"evaluation": EARLIER_KEY}))
    return file


def test_it_is_read_with_its_own_settings(params, earlier):
    (cell,) = cells.read_all(params)
    assert cell.evaluation == EARLIER_KEY and "thresholds" in cell.config.inference["handcraft"]


def test_tables_plan_and_report_go_on_without_it(params, earlier):
    table = load_table(params, "table1d")
    spec = find_evaluation(params, ROW)
    assert cells.find_cell(params, spec) is None
    plan = plan_rows(params, table.rows)
    assert spec.key in plan.missing and spec.train.key in plan.missing
    before = earlier.read_text()
    write_tables(params, [table])
    assert earlier.read_text() == before and [file.name for file in earlier.parent.iterdir()] == [earlier.name]
    row = next(row for row in summary(params, table).rows if row.name == "T=9 Hand-craft")
    assert row.measured == {}
    assert "not measured yet" in report_page(params, [summary(params, table)], minimum_score=0.3, as_sketch=False)


def test_it_still_tells_how_long_linking_by_hand_takes(params, earlier):
    spec = find_evaluation(params, ROW)
    found = durations(params, plan_rows(params, load_table(params, "table1d").rows))[spec.key]
    assert found == Duration(7.0, "similar")


