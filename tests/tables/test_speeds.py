"""Measured frames per second in a table: beside AP, with their conditions, and marked where they are no longer the row's."""

import csv
import json

import pytest

from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.planning.plan import keys_of_table
from pipeline.reporting.page import Contents, page
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.tables import speeds
from pipeline.tables.latex import latex
from pipeline.tables.markdown import markdown
from pipeline.tables.summary import summary
from pipeline.tables.write import write_table

CONDITIONS = {"device": "Abacus 3000", "threads": 2, "torch": "2.0", "precision": "fp32", "network": "plain", "frames": 36,
              "video_size": [720, 1280], "classes": 40, "objects": 5, "rounds": 3}


def put(params, *networks):
    """Writes a file of speeds: (key, rows, FPS of the model, end to end) of each network."""
    file = speeds.file_of(params)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"conditions": CONDITIONS, "networks": [
        {"key": key, "method": "efficientvis", "rows": rows, "clip_length": 12, "input_size": [32, 48], "masks_per_frame": 5,
         "gflop_per_frame": 1.5, "fps_model": model, "fps_end_to_end": end_to_end}
        for key, rows, model, end_to_end in networks]}))


def key_of(params, **settings):
    return speeds.timed(params, RowSettings(**settings), 40).key


@pytest.fixture
def measured(tiny_project):
    """A project in which two rows of table 2 were measured; VisTR's network was another one then."""
    params = load_params(tiny_project(seeds=1) / "params.yaml")
    put(params, (key_of(params), ["table2:EfficientVIS", "table2:EfficientVIS, multi-scale"], 123.456, 7.654),
        ("0" * 16, ["table2:VisTR", "table9:EfficientVIS"], 50, 40))
    return params


def rows_of(table):
    return {row.name: row.speed for row in table.rows}


def test_the_measured_side_has_a_column_apart_from_the_published_one(measured):
    table = summary(measured, load_table(measured, "table2"))
    lines = markdown(table).splitlines()
    names = [name.strip() for name in lines[4].split("|")]
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in lines if line.startswith("| ")}
    assert cells["EfficientVIS"][names.index("FPS")] == "36", "the paper's"
    place = names.index("FPS measured, model / end to end")
    column = {name: row[place] for name, row in cells.items() if name in rows_of(table)}
    assert column.pop("EfficientVIS") == column.pop("EfficientVIS, multi-scale") == "123.5 / 7.65"
    assert column.pop("VisTR") == "50.0 / 40.0 (stale)"
    assert set(column.values()) == {"–"}
    (note,) = (line for line in lines if line.startswith("FPS measured"))
    for word in ("Abacus 3000", "2 threads", "fp32", "plain", "36 frames of 720x1280", "5 objects", "40 classes", "3 rounds"):
        assert word in note
    assert note.endswith("Stale, measured before the network or its code changed: VisTR.")


def test_every_form_of_the_table_has_it(measured):
    table = summary(measured, load_table(measured, "table2"))
    write_table(measured.results_dir, table)
    written = json.loads((measured.results_dir / "table2.json").read_text())
    assert {row["name"]: row["speed"] for row in written["rows"] if "speed" in row}["VisTR"] == {
        "model": 50, "end_to_end": 40, "stale": True}
    assert written["speed_conditions"] == CONDITIONS
    numbers = {(row["row"], row["metric"]): (row["mean"], row["n"])
               for row in csv.DictReader((measured.results_dir / "table2.csv").open())}
    assert numbers["EfficientVIS", "FPS_end_to_end"] == ("7.654", "3")
    assert numbers["VisTR", "FPS_model (stale)"] == ("50.0", "3") and ("VisTR", "FPS_model") not in numbers
    line = next(line for line in latex(table).splitlines() if "123.5 / 7.65" in line)
    assert "& measured &" in line
    html = page(measured, Contents([table], None, {}, [], 0.3, "", ""))
    assert html.count(">123.5 / 7.65</td>") == 2 and html.count(">50.0 / 40.0 (stale)</td>") == 1 and "Abacus 3000" in html


def test_a_table_without_speeds_is_as_it_was(measured):
    with_file = summary(measured, load_table(measured, "table1e"))
    speeds.file_of(measured).unlink()
    without = summary(measured, load_table(measured, "table1e"))
    assert with_file == without and "speed" not in json.dumps(without.model_dump(mode="json"))
    assert "FPS" not in markdown(without) + latex(without)


def test_a_speed_is_stale_where_the_row_means_something_else_now(measured, monkeypatch):
    file = measured.root / "params.yaml"

    def stale(*overrides):
        params = load_params(file, overrides)
        return rows_of(summary(params, load_table(params, "table2")))["EfficientVIS"].stale

    assert not stale()
    assert stale("model.ffn_dim=16") and stale("input_size=[64,48]") and stale("scale.T={36: 6}")
    assert stale("inference.linking=hand-craft")
    assert not stale("inference.presence_threshold=0.9") and not stale("train.lr=1") and not stale("seeds=2")
    assert not stale("vistr.model.ffn_dim=16"), "of another method"
    monkeypatch.setattr(speeds, "_code_digest", lambda method: "another code")
    assert stale()


def test_the_code_counts_by_method():
    digests = [speeds._code_digest(method) for method in ("efficientvis", "vistr")]
    assert len(set(digests)) == 2 and all(len(digest) == 64 for digest in digests)


def test_the_plan_of_a_table_follows_its_speeds(measured):
    def keys(name):
        return keys_of_table(measured, load_table(measured, name))

    first, other = keys("table2"), keys("table1e")
    put(measured, (key_of(measured), ["table2:EfficientVIS"], 99, 9))
    assert keys("table2") != first and keys("table1e") == other


def test_a_damaged_file_is_named(measured):
    file = speeds.file_of(measured)
    file.write_text(file.read_text().replace('"fps_model": 50', '"fps_model": -1'))
    with pytest.raises(UserError, match=rf"{file}: networks\.1\.fps_model: .*\. Measure again with python -m benchmarks.speed"):
        summary(measured, load_table(measured, "table2"))
