"""QueryInst through the pipeline: its rows, its start from published weights, its training and its evaluation."""

import pytest
import torch
from pydantic import ValidationError
from support.project import CHECKOUT
from support.published_detectors import detector
from support.published_weights import FFN, INNER, MASK_ROI, PROPOSALS, ROI, STAGES, WIDTH

from effvis.data.sizes import KeptRatio
from effvis.errors import UserError
from effvis.queryinst.config import FrameLinking, QueryInstConfig
from pipeline import methods
from pipeline.engine.run import evaluate_run, train_run
from pipeline.engine.training import start
from pipeline.grid.rows import evaluation_spec, find_evaluation, pretrain_spec
from pipeline.indexing.read import load_clips, load_index
from pipeline.methods.base import Classes
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.weights.convert import other_methods
from pipeline.weights.published import REGISTRY

QUERYINST = methods.get("queryinst")


def spec_of(params, **row):
    return evaluation_spec(params, RowSettings(method="queryinst", **row), 0)


def test_a_row_trains_single_frames_whatever_its_clip_length(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    spec = spec_of(params, T=18)
    assert spec.train.model == QueryInstConfig(**{**params.queryinst.model.model_dump(), "num_classes": 5})
    assert spec.train.model.clip_length == 1 and not spec.train.correspondence and spec.train.parent is None
    assert spec.inference.linking == "hand-craft"
    assert spec_of(params, T=9).key == spec.key
    assert frames_of_a_pair(params, spec) == [1, 1], "a frame and its reference, for the tracking head"


def frames_of_a_pair(params, spec):
    batch = start(spec.train, load_index(params, "train"), load_clips(params, "train", 1), None).pairs.batch(0)
    return [frames.shape[1] for frames in batch.frames]


def test_without_a_tracking_head_a_row_is_trained_as_before_there_was_one(tiny_project):
    file = tiny_project() / "params.yaml"
    with_head, params = load_params(file), load_params(file, ["queryinst.model.tracking=none"])
    spec = spec_of(params)
    assert frames_of_a_pair(params, spec) == [1]
    assert spec.train.key != spec_of(with_head).train.key
    assert not {"tracking", "tracking_dim"} & set(spec.train.model.model_dump())
    assert not {"reference", "tracking_loss"} & set(spec.train.train.model_dump())
    assert "cues" not in spec.inference.model_dump()
    wider = load_params(file, ["queryinst.model.tracking=none", "queryinst.model.tracking_dim=7"])
    assert spec_of(wider).key == spec.key
    assert pretrain_spec(with_head, RowSettings(method="queryinst")) == pretrain_spec(params, RowSettings(method="queryinst"))
    with pytest.raises(UserError, match="queryinst.train.reference.*queryinst.model.tracking"):
        load_params(file, ["queryinst.train.reference=true"])


def test_its_section_sets_how_frames_are_linked(tiny_project):
    file = tiny_project() / "params.yaml"
    plain = spec_of(load_params(file))
    params = load_params(file, ["queryinst.inference.frames.query=0.25", "queryinst.inference.presence_threshold=0.75"])
    own = spec_of(params)
    assert (own.inference.frames.query, own.inference.presence_threshold) == (0.25, 0.75)
    assert plain.inference.frames == FrameLinking()
    assert plain.inference.presence_threshold == params.inference.presence_threshold
    assert own.train.key == plain.train.key and own.key != plain.key
    assert not hasattr(evaluation_spec(params, RowSettings(), 0).inference, "frames")


def test_what_makes_it_queryinst_cannot_be_set(tiny_project):
    file = tiny_project() / "params.yaml"
    for setting in ("attention=ftsa", "mask_classes=agnostic", "mask_query=refined"):
        with pytest.raises(UserError, match=f"queryinst.model.{setting.partition('=')[0]}"):
            load_params(file, [f"queryinst.model.{setting}"])
    with pytest.raises(UserError, match="queryinst.model.clip_length.*single frames"):
        load_params(file, ["queryinst.model.clip_length=2"])
    for foreign in ({"cl": True}, {"attention": "spatial"}, {"linking": "end-to-end"}):
        with pytest.raises(ValidationError, match="QueryInst has no"):
            RowSettings(method="queryinst", **foreign)


def test_the_papers_profile_has_the_published_network_and_published_weights_their_size():
    params = load_params(CHECKOUT / "params.yaml", ["profile=paper"])
    network = params.queryinst.model.resolve(80, 1)
    assert network == QueryInstConfig(num_classes=80, tracking="head")
    assert (network.queries, network.backbone, network.tracking_dim) == (100, "resnet50", 1024)
    assert params.input_size_of("queryinst") == KeptRatio(shorter=360, longer=640)
    published = load_params(CHECKOUT / "params.yaml", ["profile=paper", *QUERYINST.as_published])
    assert published.queryinst.model.resolve(80, 1) == QueryInstConfig(num_classes=80)
    assert published.input_size_of("queryinst") == KeptRatio(shorter=800, longer=1333)
    assert published.inference_of("queryinst").presence_threshold == 0.3


def small_settings():
    settings = QUERYINST.settings()
    return settings.model_copy(update={"model": settings.model.model_copy(update=dict(
        backbone="resnet18", hidden_dim=WIDTH, dynamic_dim=INNER, ffn_dim=FFN, roi_size=ROI, mask_roi_size=MASK_ROI,
        iterations=STAGES, attention_heads=2, mask_convs=1))})


def test_published_weights_bring_their_number_of_queries_and_all_classes():
    published = detector("mmdetection")
    conversion = QUERYINST.convert(published, small_settings(), Classes(80), None, "test.pth", "")
    assert {fate.outcome for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")} == {"loaded"}
    assert len(conversion.weights["query_NTC"]) == PROPOSALS
    wrapped = {f"module.{name}": value for name, value in published.items()}
    again = QUERYINST.convert(wrapped, small_settings(), Classes(80), None, "test.pth", "")
    assert all(torch.equal(value, again.weights[name]) for name, value in conversion.weights.items())


def test_weights_without_proposals_leave_the_number_of_queries():
    bodies = {name.removeprefix("backbone."): value for name, value in detector("mmdetection").items() if "backbone." in name}
    conversion = QUERYINST.convert(bodies, small_settings(), Classes(3), None, "test.pth", "")
    assert len(conversion.weights["query_NTC"]) == 100
    with pytest.raises(UserError, match="test.pth"):
        QUERYINST.convert({"weight": torch.zeros(1)}, small_settings(), Classes(3), None, "test.pth", "")


def test_published_files_serve_both_methods():
    assert REGISTRY["queryinst-r50"].methods == ("efficientvis", "queryinst")
    assert REGISTRY["sparse-rcnn-r50"].methods == ("efficientvis",)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["table2:QueryInst", "table2:QueryInst, multi-scale"])
def test_its_rows_are_trained_and_evaluated(tiny_project, row):
    params = load_params(tiny_project() / "params.yaml", ["queryinst.train.epochs=0.4"])
    spec = find_evaluation(params, row)
    assert spec.train.model.tracking == "head"
    assert spec.train.train.augmentation == ("multi-scale" if "multi" in row else "none")
    train_run(params, spec.train)
    report = evaluate_run(params, spec)
    assert 0 <= report["metrics"]["AP"] <= 1 and report["frames"] > 0


def test_nobody_is_sent_to_a_method_that_reads_the_same_files():
    """Where names are unknown, other methods are named for what they read beside."""
    assert methods.get("efficientvis").reads == QUERYINST.reads
    for method in ("efficientvis", "queryinst"):
        told = other_methods(method)
        assert "; DETR and VisTR need --method vistr" in told and "QueryInst" not in told
    assert "; Sparse R-CNN and QueryInst need --method efficientvis" in other_methods("vistr")
