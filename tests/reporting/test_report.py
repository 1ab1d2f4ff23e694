"""All tables in one file, with their data and how to read them; the page has its own tests (test_report_page.py)."""

import json
import os
import subprocess
import sys

import pytest
from support.project import CHECKOUT

from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.report import main, report
from pipeline.settings.loading import load_params
from pipeline.tables.summary import summary
from pipeline.tables.write import write_table


def test_the_report_says_what_its_numbers_are_of(tiny_project):
    params = load_params(tiny_project(seeds=3, tables=["table1h", "table1e"]) / "params.yaml")
    text = report(params, [summary(params, load_table(params, name)) for name in params.tables])
    assert "YouTube-VIS 2019" in text and "measured on shapes-vis with the laptop profile" in text
    assert "python -m pipeline.ablate --grid table1h,table1e --seeds 3" in text and "seeds: 0, 1, 2." in text
    assert text.index("## Table 1h") < text.index("## Table 1e"), "in the order of the parameters"
    assert "| w/ CL | 35.3 | – | – | 57.6 / – |" in text


@pytest.mark.parametrize("content", [None, '{"table": "tab'], ids=["absent", "broken"])
def test_a_table_that_cannot_be_read_is_named_with_its_remedy(tiny_project, monkeypatch, content):
    folder = tiny_project(tables=["table1e"])
    monkeypatch.chdir(folder)
    if content is not None:
        (folder / "results").mkdir()
        (folder / "results" / "table1e.json").write_text(content)
    with pytest.raises(UserError, match=r"table1e\.json: .*--grid table1e"):
        main([])
    assert not (folder / "results" / "report.md").exists()


def test_a_ledger_that_cannot_be_read_is_named_with_its_remedy(tiny_project, monkeypatch):
    folder = tiny_project(tables=["table1e"])
    params = load_params(folder / "params.yaml")
    write_table(params.results_dir, summary(params, load_table(params, "table1e")))
    (params.results_dir / "claims.json").write_text('{"claims": [')
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"claims\.json: .*python -m pipeline\.claims"):
        main([])
    assert not (folder / "results" / "report").exists() and not (folder / "results" / "report.md").exists()


@pytest.mark.slow
def test_the_command_writes_it_and_brings_mlflow_up_to_date(tiny_project):
    folder = tiny_project(seeds=1, tables=["table1e"])
    params = load_params(folder / "params.yaml")
    write_table(params.results_dir, summary(params, load_table(params, "table1e")))
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'here.db'}"}
    command = [sys.executable, "-m", "pipeline.report"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    written = (folder / "results" / "report.md").read_text()
    assert written.startswith("# Results") and written in ended.stdout
    page = (folder / "results" / "report" / "index.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "Figure 4: what the dynamic filter keeps of a region: not drawn." in ended.stderr
    assert (folder / "here.db").exists() and "MLflow" not in ended.stderr
    assert json.loads((folder / "results" / "metrics" / "table1e.json").read_text()) == {}, "nothing is measured yet"
