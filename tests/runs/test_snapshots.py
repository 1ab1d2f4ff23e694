"""Weights kept during training, for learning curves."""

import json
from dataclasses import replace

import pytest
import torch

from effvis.errors import UserError
from effvis.evaluation.average_precision import METRICS
from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.planning.plan import plan_rows
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.tables.write import write_tables


@pytest.mark.slow
def test_snapshots_are_points_of_a_learning_curve(tiny_project):
    folder = tiny_project(resources={"snapshots": 2}, train={"epochs": 4}, pretrain={"source": "none"})
    params = load_params(folder / "params.yaml")
    end = find_evaluation(params, None)
    train_run(params, end.train)
    halfway, quarter, earlier = (replace(end, halvings=halvings) for halvings in (1, 2, 3))
    assert len({end.key, halfway.key, quarter.key}) == 3
    seen = [evaluate_run(params, spec)["videos_seen"] for spec in (end, halfway, quarter)]
    assert seen == [24, 12, 6]
    store = RunStore(params.runs_dir)
    weights = [store.load_snapshot(end.train.key, halvings) for halvings in (0, 1, 2)]
    assert all(not torch.equal(a["query_NTC"], b["query_NTC"]) for a, b in zip(weights, weights[1:], strict=False))
    # The same steps at the same rate give the same weights as a training that ends there.
    shorter = load_params(folder / "params.yaml", ["train.epochs=2", "train.lr_drop_epoch=9"])
    longer = load_params(folder / "params.yaml", ["train.lr_drop_epoch=9"])
    short, long = (find_evaluation(changed, None).train for changed in (shorter, longer))
    for changed, spec in ((shorter, short), (longer, long)):
        train_run(changed, spec)
    ended, passed = store.load_weights(short.key), store.load_snapshot(long.key, 1)
    assert all(torch.equal(ended[name], passed[name]) for name in ended)
    with pytest.raises(UserError, match="resources.snapshots to 3"):
        evaluate_run(params, earlier)


def test_a_table_with_curves_has_ap_by_videos_seen(tiny_project):
    folder = tiny_project(seeds=2, resources={"snapshots": 2})
    params = load_params(folder / "params.yaml")
    table = load_table(params, "table1g")
    ours = table.rows[1]
    assert [(spec.train.seed, spec.halvings) for spec in ours.curve] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert {spec.key for spec in ours.curve} <= {spec.key for spec in plan_rows(params, table.rows).evaluations}
    assert not any(row.curve for row in load_table(params, "table1e").rows)
    store = RunStore(params.runs_dir)
    for spec in (*ours.curve, *ours.evaluations):
        ap = (0.5 if spec.train.seed else 0.3) / 2**spec.halvings
        report = {"metrics": dict.fromkeys(METRICS, ap), "per_category": {}, "seconds": 1.0, "frames_per_second": 8.0,
                  "videos_seen": 24 >> spec.halvings}
        store.write_evaluation(spec.train.key, spec.key, [], report)
    write_tables(params, [table])
    written = json.loads((params.results_dir / "table1g.json").read_text())
    assert [(point["videos_seen"], point["mean"], point["n"]) for point in written["rows"][1]["curve"]] == [
        (6, 10.0, 2), (12, 20.0, 2), (24, 40.0, 2)]
    assert written["rows"][0]["curve"] == [] and len(list((params.results_dir / "cells").iterdir())) == 6
