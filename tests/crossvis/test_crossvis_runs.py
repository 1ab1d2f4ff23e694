"""CrossVIS through the pipeline: its rows, its training on pairs of frames, its evaluation, and its model as a folder."""

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from support.project import CHECKOUT

import effvis
from effvis.crossvis.config import CrossVISConfig, CrossVISInference, CrossVISOptimisationConfig
from effvis.data.sizes import KeptRatio
from effvis.errors import UserError
from pipeline import export, methods
from pipeline.engine.run import evaluate_run, train_run
from pipeline.engine.training import start
from pipeline.grid.rows import evaluation_spec
from pipeline.indexing.read import load_clips, load_index
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

ROWS = [(table, row["name"], row["set"]) for table in ("table2", "table3")
        for row in yaml.safe_load((CHECKOUT / "experiments" / f"{table}.yaml").read_text())["rows"]
        if row.get("set", {}).get("method") == "crossvis"]


def spec_of(params, **row):
    return evaluation_spec(params, RowSettings(method="crossvis", **row), 0)


def test_the_tables_have_its_rows():
    assert [(table, name) for table, name, _ in ROWS] == [
        ("table2", "CrossVIS"), ("table2", "CrossVIS, multi-scale"), ("table2", "CrossVIS, R101"), ("table3", "CrossVIS")]


@pytest.mark.parametrize("row", [row for _, _, row in ROWS], ids=[f"{table}:{name}" for table, name, _ in ROWS])
def test_each_row_takes_a_step_and_predicts(row, tiny_project):
    """On the project's data set, also for the row of 2021."""
    params = load_params(tiny_project() / "params.yaml", ["crossvis.train.epochs=0.1"])
    row = {key: value for key, value in row.items() if key != "dataset"}
    spec = evaluation_spec(params, RowSettings(**row), 0)
    assert spec.train.model.backbone == ("tiny-deep" if row.get("backbone") == "R101" else "tiny")
    index = load_index(params, "train")
    begun = start(spec.train, index, load_clips(params, "train", 1), None)
    batch = begun.pairs.batch(0)
    assert len(batch.frames) == 2 and all(frames.shape[1] == 1 for frames in batch.frames)
    losses = begun.losses_of(batch)
    sum(losses.values()).backward()
    assert all(np.isfinite(loss.item()) for loss in losses.values())
    found = methods.get("crossvis").predict(
        begun.model, load_index(params, "val"), spec.inference.model_copy(update={"presence_threshold": 0.0, "detections": 3}),
        params.input_size, None)
    assert {result["video_id"] for result in found.results} == {video.id for video in load_index(params, "val").videos}


def test_a_row_trains_pairs_of_single_frames_whatever_its_clip_length(tiny_project):
    file = tiny_project() / "params.yaml"
    params = load_params(file)
    spec = spec_of(params, T=18)
    assert spec.train.model == CrossVISConfig(**{**params.crossvis.model.model_dump(), "num_classes": 5})
    assert spec.train.model.clip_length == 1 and not spec.train.correspondence and spec.train.parent is None
    assert spec_of(params, T=9).key == spec.key
    with pytest.raises(UserError, match="crossvis.model.clip_length.*single frames"):
        load_params(file, ["crossvis.model.clip_length=2"])
    for foreign in ({"cl": True}, {"attention": "spatial"}, {"linking": "end-to-end"}):
        with pytest.raises(ValidationError, match="CrossVIS has no"):
            RowSettings(method="crossvis", **foreign)


def test_its_section_sets_its_inference(tiny_project):
    file = tiny_project() / "params.yaml"
    plain = spec_of(load_params(file))
    assert isinstance(plain.inference, CrossVISInference)
    assert (plain.inference.category, plain.inference.presence_threshold, plain.inference.max_tracklets) == ("vote", 0.05, 100)
    own = spec_of(load_params(file, ["crossvis.inference.new_tracklet_below=0.9"]))
    assert own.inference.new_tracklet_below == 0.9 and own.train.key == plain.train.key and own.key != plain.key


def test_the_papers_profile_has_the_authors_network_size_and_training():
    """configs/CrossVIS/Base-CrossVIS.yaml and adet/config/defaults.py of hustvl/CrossVIS."""
    settings = load_params(CHECKOUT / "params.yaml", ["profile=paper"]).crossvis
    assert settings.input_size == KeptRatio(shorter=360, longer=640)
    assert settings.model.resolve(40, 1) == CrossVISConfig(num_classes=40)
    own = settings.train
    assert own.batch_size == 16
    assert [round(epoch * 2238 / 16, -3) for epoch in (own.epochs, own.lr_drop_epoch)] == [23000, 15000]
    assert own.backbone_lr == pytest.approx(own.lr / 10) and own.loss == CrossVISOptimisationConfig().loss


@pytest.mark.slow
def test_it_is_trained_evaluated_exported_and_loaded(tiny_project, tmp_path):
    project = tiny_project()
    params = load_params(project / "params.yaml")
    spec = spec_of(params)
    train_run(params, spec.train)
    report = evaluate_run(params, spec)
    assert 0 <= report["metrics"]["AP"] <= 1 and report["frames"] > 0
    arguments = ["--params", str(project / "params.yaml"), "--model", spec.train.key, "--out", str(tmp_path / "model")]
    assert export.main(arguments) == 0
    model = effvis.load(tmp_path / "model")
    frames = [np.full((32, 48, 3), 40 * n, dtype=np.uint8) for n in range(3)]
    assert model.track(frames, minimum_score=0).length == 3
    assert len(model.detect(frames[0]).scores) <= 100
