"""What rows start from: evaluated on the row's videos though it knows other categories, planned, and shown beside the row."""

import dataclasses
import json

import pytest
import torch
from support.project import put_evaluation

from effvis.evaluation.video_ap import evaluate
from effvis.methods import build_model
from pipeline.engine.run import evaluate_run
from pipeline.grid import starts
from pipeline.grid.before_clips import before_clips, why_not
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.identity.specs import GivenSpec
from pipeline.planning.jobs import jobs
from pipeline.planning.plan import plan_rows
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.tables.write import write_tables

ROW = "table1e:w/ CL"


@pytest.fixture
def params(tiny_project):
    changes = {"before_clips": True, "inference": {"presence_threshold": 0.0}}
    return load_params(tiny_project(seeds=2, **changes) / "params.yaml")


def with_start(params, **start):
    """The evaluations of a row's start, as if the row started from something else."""
    spec = find_evaluation(params, ROW)
    changed = dataclasses.replace(spec, train=dataclasses.replace(spec.train, **start))
    return before_clips(params, RowSettings(T=9), changed)


def stored_results(params, spec):
    return json.loads((RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "results.json").read_text())


def merged_by_hand(params, results):
    """AP of the results with every category called 1, in the data set's own annotations too; equal tracklets once."""
    truth = json.loads((params.dataset_folder / "val" / "instances.json").read_text())
    for annotation in truth["annotations"]:
        annotation["category_id"] = 1
    truth["categories"] = [{"id": 1, "name": "any"}]
    single = {}
    for result in sorted(results, key=lambda result: result["score"]):
        single[result["video_id"], json.dumps(result["segmentations"])] = {**result, "category_id": 1}
    return evaluate(truth, list(single.values()), allow_empty=True).metrics["AP"]


def test_a_start_with_other_categories_is_evaluated_with_all_of_them_ignored(params):
    params = load_params(params.root / "params.yaml", ["inference.handcraft.score_threshold=0"])  # nothing is learned here
    parent = find_evaluation(params, ROW).train.parent
    classes = parent.model.num_classes + 2
    other = dataclasses.replace(parent, model=parent.model.model_copy(update={"num_classes": classes}), dataset_name="pictures",
                                dataset_digest="another")
    evaluations = with_start(params, parent=other, init=f"run:{other.key}")
    assert [spec.inference.linking for spec in evaluations][:2] == ["end-to-end", "hand-craft"]
    torch.manual_seed(1)
    store = RunStore(params.runs_dir)
    store.begin(other.key, other.describe())
    store.finish(other.key, build_model(other.model).state_dict(), {"seconds": 1.0, "steps": 1})
    for spec in evaluations[:2]:
        metrics = evaluate_run(params, spec)["metrics"]
        results = stored_results(params, spec)
        assert {result["category_id"] for result in results} > set(range(1, classes + 1)) - {classes}
        assert metrics["AP"] == metrics["AR1"] == -1
        assert metrics["AP_any_category"] == pytest.approx(merged_by_hand(params, results))
        tracklets = {json.dumps(result["segmentations"]) for result in results if result["video_id"] == results[0]["video_id"]}
        assert len(results) >= classes * len(tracklets), "no tracklet is lost for another's lower category"


def test_shipped_weights_are_evaluated_as_they_were_shipped(params):
    description = next(file for file in sorted(starts.FOLDER.glob("*.yaml")) if "method: efficientvis" in file.read_text())
    sha256 = starts._read(description)["sha256"]
    spec = with_start(params, parent=None, init=f"shipped:{description.stem}@{sha256}")[0]
    assert isinstance(spec.train, GivenSpec) and spec.train.model.clip_length == 1
    found = evaluate_run(params, spec)
    assert 0 <= found["metrics"]["AP_any_category"] <= 1
    assert found["metrics"]["AP_any_category"] == pytest.approx(merged_by_hand(params, stored_results(params, spec)))


def test_it_is_planned_after_the_pretraining_and_shared(params):
    table = load_table(params, "table1e")
    without, with_cl = table.rows
    assert all(spec.train == spec_of_row.train.parent for row in table.rows
               for spec_of_row, specs in zip(row.evaluations, row.starts, strict=True) for spec in specs)
    plan = plan_rows(params, table.rows)
    todo = {job.key: job for job in jobs(params, plan)}
    for specs in with_cl.starts:
        assert specs and all(todo[spec.key].needs == (spec.train.key,) for spec in specs)
        assert all(plan.labels[spec.key].startswith("before clips of table1e: w/ CL") for spec in specs)
    different = {(spec.train.key, spec.inference.model_dump_json())
                 for row in table.rows for specs in row.starts for spec in specs}
    assert len([spec for spec in plan.evaluations if spec.start_on]) == len(different), "seeds with one start share them"
    without_them = load_params(params.root / "params.yaml", ["before_clips=false"])
    assert not any(spec.start_on for spec in plan_rows(without_them, load_table(without_them, "table1e").rows).evaluations)


def test_every_linking_that_was_chosen_for_the_method_is_tried(params):
    specs = with_start(params)
    assert specs[0].inference.linking == "end-to-end"
    own = load_params(params.root / "params.yaml", ["inference.handcraft.new_tracklet_below=0.7"])
    first, second = before_clips(own, RowSettings(T=9), find_evaluation(own, ROW))
    assert (first.inference.linking, second.inference.handcraft.new_tracklet_below) == ("end-to-end", 0.7)
    vistr = find_evaluation(params, "table1d:T=18 VisTR")
    found = before_clips(params, RowSettings(T=18, method="vistr"), vistr)
    assert found and {spec.inference.linking for spec in found} == {"hand-craft"}


def test_a_row_without_a_whole_network_to_start_from_says_why(params):
    spec = find_evaluation(params, ROW)
    for init, reason in ((None, "starts from nothing"), ("file:abc", "no whole network")):
        changed = dataclasses.replace(spec, train=dataclasses.replace(spec.train, parent=None, init=init))
        assert reason in why_not(changed) and before_clips(params, RowSettings(T=9), changed) == ()
    queryinst = next(row for row in load_table(params, "table2").rows if row.set.get("method") == "queryinst")
    assert "QueryInst has no way to link" in why_not(queryinst.evaluations[0]) and not any(queryinst.starts)


def test_tables_show_the_best_linking_of_the_start_beside_the_row(params):
    table = load_table(params, "table1e")
    for row in table.rows:
        for seed, spec in enumerate(row.evaluations):
            put_evaluation(params, spec, 0.3, AP_any_category=0.4 + seed / 10)
    results = params.results_dir
    write_tables(params, [table])
    assert "any category" not in (results / "table1e.md").read_text(), "nothing is known of a start yet"
    every = [spec for row in table.rows for specs in row.starts for spec in specs]
    later = [spec for specs in table.rows[0].starts for spec in specs if spec.inference.linking == "end-to-end"]
    for spec in every:
        if spec not in later:
            put_evaluation(params, spec, 0.2 if spec.inference.linking == "end-to-end" else 0.1)
    write_tables(params, [table])
    rows = json.loads((results / "table1e.json").read_text())["rows"]
    assert "before_clips" not in rows[0], "one way of linking is missing"
    assert rows[1]["before_clips"] == {"mean": 20.0, "std": 0.0, "n": 2}
    for spec in later:
        put_evaluation(params, spec, 0.15)
    write_tables(params, [table])
    markdown, latex = ((results / f"table1e.{form}").read_text() for form in ("md", "tex"))
    assert "| any category, before clips / after | seeds |" in markdown and "| 15.0 / 45.0 | 2 |" in markdown
    assert "| 20.0 / 45.0 | 2 |" in markdown and "linked in its best way" in markdown
    assert "any, before / after" in latex and "& 20.0 / 45.0 " in latex
    assert "table1e,w/ CL,AP_before_clips,,20.0,0.0,2,," in (results / "table1e.csv").read_text().splitlines()
    assert all(cells.find_cell(params, spec) for spec in every)
    assert len(list((results / "cells").glob("*.json"))) == len({spec.key for spec in every}) + 4
