"""Evaluations of table 1h: besides AP on the frames that a row saw, AP on those that both rows saw."""

import pytest
import torch

from effvis.methods import build_model
from pipeline.engine.run import evaluate_run
from pipeline.grid.rows import find_evaluation
from pipeline.runs import cells
from pipeline.runs.log import RunLog
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params


def evaluated(params, row):
    """The evaluation of a row whose network is as it was initialised, and its specification."""
    spec, store = find_evaluation(params, row), RunStore(params.runs_dir)
    if not store.is_done(spec.train.key):
        torch.manual_seed(0)
        store.begin(spec.train.key, spec.train.describe())
        log = RunLog(store.folder(spec.train.key))
        log.resume()
        log.append({"step": 1, "epoch": 1.0, "time": 0.0, "lr": 0.1, "loss": 1.0})
        log.close()
        store.finish(spec.train.key, build_model(spec.train.model).state_dict(), {"seconds": 1.0, "steps": 1})
    return evaluate_run(params, spec), spec


def test_both_rows_of_table_1h_write_ap_on_the_same_frames(tiny_project):
    params = load_params(tiny_project(inference={"presence_threshold": 0.0}) / "params.yaml")
    (full, full_spec), (low, low_spec) = (evaluated(params, f"table1h:{row}") for row in ("Original FPS", "1.5 FPS"))
    assert full_spec.train.key == low_spec.train.key and full["frames"] > low["frames"]
    for report, spec in ((full, full_spec), (low, low_spec)):
        cells.write(params, spec)
        assert cells.find_cell(params, spec).metrics["AP_same_frames"] == report["metrics"]["AP_same_frames"]
    assert low["metrics"]["AP_same_frames"] == low["metrics"]["AP"], "it saw no other frames"
    assert 0 <= full["metrics"]["AP_same_frames"] <= 1


def test_other_rows_write_none(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    assert "AP_same_frames" not in evaluated(params, "table1e:w/ CL")[0]["metrics"]


@pytest.mark.parametrize("row", ["Original FPS", "1.5 FPS"])
def test_the_measure_is_part_of_the_key(tiny_project, row):
    params = load_params(tiny_project() / "params.yaml")
    spec = find_evaluation(params, f"table1h:{row}")
    without = spec.inference.model_copy(update={"same_frames_fps": None})
    assert type(spec)(spec.train, without, spec.evaluation_digest).key != spec.key
