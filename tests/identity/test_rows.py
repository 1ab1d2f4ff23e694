"""Every row of every table can be trained and tested: one step and one inference of each, on a tiny data set."""

import pytest
import torch

from pipeline.engine.prediction import predict
from pipeline.engine.training import start
from pipeline.grid.rows import known_tables, load_grid
from pipeline.indexing.read import load_clips, load_index
from pipeline.settings.loading import load_params

# An untrained network is sure of nothing.
EVERYTHING = {"presence_threshold": 0.0, "handcraft": {"score_threshold": 0.0}}


@pytest.mark.slow
def test_every_row_takes_a_step_and_gives_predictions(tiny_project):
    fresh = {"pretrain": {"source": "none"}}
    params = load_params(tiny_project(
        **fresh, vistr=fresh, inference=EVERYTHING, crossvis={"inference": {"presence_threshold": 0.0}}) / "params.yaml")
    train, val = (load_index(params, split) for split in ("train", "val"))
    rows = [row for table in known_tables(params) for row in load_grid(params, table)]
    run = [row for row in rows if row.not_run is None]
    assert run and all(row.evaluations for row in run) and all(row.not_run for row in rows if not row.evaluations)
    models = {}
    for row in run:
        spec = row.evaluations[0]
        if spec.train.key not in models:
            clips = load_clips(params, "train", spec.train.model.clip_length)
            model, losses_of, pairs, _ = start(spec.train, train, clips, None)
            sum(losses_of(pairs.batch(0)).values()).backward()
            assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None), row.name
            models[spec.train.key] = model
        model = models[spec.train.key].eval()
        found = predict(model, spec.train.method, val, spec.inference, spec.train.input_size, lambda *_: None)
        assert {result["video_id"] for result in found.results} == {video.id for video in val.videos}, row.name
        assert all(len(r["segmentations"]) == len(found.kept[r["video_id"]]) for r in found.results), row.name
        frames = sum(len(kept) for kept in found.kept.values())
        everything = sum(video.length for video in val.videos)
        assert frames == everything if spec.inference.test_fps is None else frames < everything / 2, row.name
