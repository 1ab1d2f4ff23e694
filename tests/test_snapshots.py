"""Weights kept on the way, for learning curves."""

from dataclasses import replace

import pytest
import torch

from effvis.errors import UserError
from pipeline.config import find_evaluation, load_params
from pipeline.evaluate import evaluate_run
from pipeline.store import RunStore
from pipeline.train import train_run


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
    # The same steps at the same rate are the same weights as a training that ends there.
    shorter = load_params(folder / "params.yaml", ["train.epochs=2", "train.lr_drop_epoch=9"])
    longer = load_params(folder / "params.yaml", ["train.lr_drop_epoch=9"])
    short, long = (find_evaluation(changed, None).train for changed in (shorter, longer))
    for changed, spec in ((shorter, short), (longer, long)):
        train_run(changed, spec)
    ended, passed = store.load_weights(short.key), store.load_snapshot(long.key, 1)
    assert all(torch.equal(ended[name], passed[name]) for name in ended)
    with pytest.raises(UserError, match="resources.snapshots to 3"):
        evaluate_run(params, earlier)
