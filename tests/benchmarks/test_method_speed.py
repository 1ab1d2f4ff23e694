"""benchmarks.speed for all methods and for rows of tables, on networks and frames of a few pixels."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from support.project import CHECKOUT
from torch import nn

from effvis.errors import UserError
from pipeline import methods
from pipeline.grid.rows import load_table
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.tables.speeds import timed
from pipeline.tables.summary import summary

SIZE = (32, 48)


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.method_speed")


@pytest.fixture
def turns():
    return importlib.import_module("benchmarks.turns")


class Nested(nn.Module):
    def forward(self, x):
        return self.features(x) + self._bias()

    def features(self, x):
        return x @ x

    def _bias(self):
        return 1.0


def test_time_inside_the_network_counts_once(turns, monkeypatch):
    model = Nested()
    assert turns.own_methods(model) == ["features", "forward"]
    watch = turns.Stopwatch(model, "cpu", turns.own_methods(model))
    ticks = iter(range(100))
    monkeypatch.setattr(watch, "now", lambda: next(ticks))
    assert torch.equal(model(torch.eye(4)), torch.eye(4) + 1)
    assert watch.seconds == 1, "of features inside forward nothing is measured by itself"
    assert watch.operations == 2 * 4**3
    watch.counts = False
    model.features(torch.eye(4))
    assert (watch.seconds, watch.operations) == (2, 2 * 4**3)


@pytest.mark.parametrize("method", methods.names())
def test_every_method_finds_as_many_objects_as_are_asked_for(benchmark, turns, tiny_project, tmp_path, method):
    """Random weights alone would give no mask, or one for each query."""
    params = load_params(tiny_project() / "params.yaml", ["scale.T={36: 4}"])
    one = timed(params, RowSettings(method=method), 3)
    assert one.model.num_classes == 3 and one.model.method == method
    video = tmp_path / "video"
    video.mkdir()
    turns.draw_frames(video, 4, *SIZE)
    predictor = benchmark.ready({
        "method": method, "model": one.model.model_dump(mode="json"), "input_size": list(SIZE), "video": str(video),
        "inference": one.inference.model_dump(mode="json"), "device": "cpu", "precision": "fp32", "fast": False})
    files = sorted(video.iterdir())
    thresholds = [benchmark.threshold(predictor, files, objects) for objects in (2, 3)]

    two, three = (benchmark.masks_found(predictor, files, found) for found in thresholds)
    every = benchmark.masks_found(predictor, files, 0.0)
    assert benchmark.masks_found(predictor, files, 1.0) == 0 and 2 * 4 <= two < 3 * 4 <= three < every


def test_rows_are_chosen_by_table_by_name_and_by_method(benchmark, tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    assert {name: settings.method for name, settings in benchmark.chosen(params, None, methods.names()).items()} == {
        name: name for name in methods.names()}
    ours = benchmark.chosen(params, ["table2:EfficientVIS, R101", "table1d"], ["efficientvis"])
    assert list(ours)[0] == "table2:EfficientVIS, R101" and ours["table2:EfficientVIS, R101"].backbone == "R101"
    both = benchmark.chosen(params, ["table1d"], methods.names())
    assert set(ours) == {"table2:EfficientVIS, R101", *(name for name in both if both[name].method == "efficientvis")}
    assert not set(both) <= set(ours)
    with pytest.raises(UserError, match="--rows: table2:SipMask: table2 has no such row to run.*'table2:EfficientVIS'"):
        benchmark.chosen(params, ["table2:SipMask"], methods.names())
    with pytest.raises(UserError, match="--rows: table1e: no row of vistr is run in it"):
        benchmark.chosen(params, ["table1e"], ["vistr"])


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("ray", "mlflow", "dvc")))  # importing one of them fails
from benchmarks.speed import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_rows_are_measured_in_turns_and_shown_in_their_table(tiny_project):
    params = load_params(tiny_project(seeds=1) / "params.yaml")
    rows = ("EfficientVIS", "EfficientVIS, multi-scale", "VisTR")
    out = params.root / "experiments" / "speed" / "laptop.json"
    arguments = ["--rows", *(f"table2:{row}" for row in rows), "--frames", "6", "--rounds", "2", "--threads", "1",
                 "--objects", "2", "--params", params.root / "params.yaml", "--out", out]
    ended = subprocess.run([sys.executable, "-c", WITHOUT, *map(str, arguments)], cwd=CHECKOUT, capture_output=True, text=True,
                           env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    assert ended.returncode == 0, ended.stderr
    turns = [line.rpartition(" ")[0].rpartition(" ")[0] for line in ended.stderr.splitlines() if line.startswith("round")]
    assert turns == [f"round {turn}: table2:{row}" for turn in range(3) for row in ("EfficientVIS", "VisTR")], ended.stderr

    found = json.loads(out.read_text())
    assert [one["rows"] for one in found["networks"]] == [[f"table2:{row}" for row in rows[:2]], ["table2:VisTR"]]
    assert found["conditions"]["video_size"] == list(SIZE), "as large as the drawn frames"
    assert (found["conditions"]["frames"], found["conditions"]["rounds"]) == (6, 2)
    for one in found["networks"]:
        assert one["fps_model"] > one["fps_end_to_end"] > 0 and one["gflop_per_frame"] > 0
        assert one["clip_length"] == 12 and one["input_size"] == list(SIZE) and 1 <= one["masks_per_frame"] <= 4
        assert f"| {'; '.join(one['rows'])} | {one['method']} | 12 | 32x48 |" in ended.stdout
    speeds = {row.name: row.speed for row in summary(params, load_table(params, "table2")).rows if row.speed is not None}
    assert set(speeds) == set(rows) and not any(speed.stale for speed in speeds.values())
    assert speeds["VisTR"].end_to_end == found["networks"][1]["fps_end_to_end"]


@pytest.mark.parametrize("arguments", [
    ("--case", "vistr", "--methods", "all"), ("--size", "64x96", "--rows", "table2"), ("--quick", "--methods", "all"),
    ("--frames", "4", "8", "--methods", "all"), ("--objects", "3"), ("--set", "seeds=1", "--case", "vistr")])
def test_options_that_would_have_no_effect_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.speed").main([*arguments])
    assert arguments[0] in capsys.readouterr().err.splitlines()[-1]
