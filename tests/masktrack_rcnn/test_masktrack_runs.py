"""MaskTrack R-CNN through the pipeline: its rows, its training and its evaluation, and published weights."""

import io
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from support.masktrack import SMALL, published_masktrack, small_masktrack
from support.models import noise, put
from support.project import CHECKOUT

import effvis
from effvis.data.sizes import KeptRatio
from effvis.errors import UserError
from effvis.masktrack_rcnn.config import MaskTrackConfig
from pipeline import import_weights, methods
from pipeline.engine.run import evaluate_run, train_run
from pipeline.engine.training import start
from pipeline.grid.rows import evaluation_spec, find_evaluation
from pipeline.grid.starts import check_form, metadata
from pipeline.indexing.read import load_clips, load_index
from pipeline.methods.base import Classes
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings
from pipeline.weights.published import REGISTRY

MASKTRACK = methods.get("masktrack_rcnn")
ROWS = ("table2:MaskTrack R-CNN", "table2:MaskTrack R-CNN, R101", "table3:MaskTrack R-CNN")


def settings(**changes):
    own = MASKTRACK.settings()
    return own.model_copy(update={"model": own.model.model_copy(update={**SMALL, "backbone": "resnet18", **changes})})


def test_rows_train_on_pairs_of_single_frames_whatever_their_clip_length(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    specs = [find_evaluation(params, row) for row in ROWS]
    assert [spec.train.model.backbone for spec in specs] == ["tiny", "tiny-deep", "tiny"]
    assert [spec.train.dataset_name for spec in specs] == ["shapes-vis", "shapes-vis", "shapes-vis-2021"]
    for spec in specs:
        assert (spec.train.model.clip_length, spec.train.parent, spec.train.correspondence) == (1, None, False)
        assert (spec.inference.linking, spec.inference.category) == ("hand-craft", "vote")
    assert evaluation_spec(params, RowSettings(method="masktrack_rcnn", T=9), 0).key == specs[0].key
    batch = start(specs[0].train, load_index(params, "train"), load_clips(params, "train", 1), None).pairs.batch(0)
    assert [frames.shape[1] for frames in batch.frames] == [1, 1]


def test_what_makes_it_masktrack_rcnn_cannot_be_set(tiny_project):
    file = tiny_project() / "params.yaml"
    with pytest.raises(UserError, match="masktrack_rcnn.model.clip_length.*single frames"):
        load_params(file, ["masktrack_rcnn.model.clip_length=2"])
    with pytest.raises(UserError, match="masktrack_rcnn.inference.category.*unknown key"):
        load_params(file, ["masktrack_rcnn.inference.category=mean"])
    for foreign in ({"cl": True}, {"attention": "spatial"}, {"linking": "end-to-end"}):
        with pytest.raises(ValidationError, match="MaskTrack R-CNN has no"):
            RowSettings(method="masktrack_rcnn", **foreign)


def test_its_section_sets_how_objects_are_known_again(tiny_project):
    file = tiny_project() / "params.yaml"
    plain = evaluation_spec(load_params(file), RowSettings(method="masktrack_rcnn"), 0)
    changes = ["masktrack_rcnn.inference.cues.iou=0.5", "masktrack_rcnn.inference.presence_threshold=0.75"]
    own = evaluation_spec(load_params(file, changes), RowSettings(method="masktrack_rcnn"), 0)
    assert (plain.inference.cues.score, plain.inference.cues.iou, plain.inference.cues.category) == (1, 2, 10)
    assert (own.inference.cues.iou, own.inference.presence_threshold) == (0.5, 0.75)
    assert own.train.key == plain.train.key and own.key != plain.key


def test_the_papers_profile_has_the_authors_network():
    params = load_params(CHECKOUT / "params.yaml", ["profile=paper"])
    own = params.masktrack_rcnn
    assert own.model.resolve(40, 36) == MaskTrackConfig(num_classes=40) and own.pretrain.required
    assert params.input_size_of("masktrack_rcnn") == KeptRatio(shorter=360, longer=640)
    assert (own.train.anchor_samples, own.train.region_samples, own.inference.detections) == (64, 128, 10)


def test_a_whole_published_model_finds_a_place_for_every_tensor():
    published = published_masktrack()
    conversion = MASKTRACK.convert(published, settings(), Classes(3), None, "test.pth", "")
    useful = [fate for fate in conversion.fates if not fate.name.endswith("num_batches_tracked")]
    assert {fate.outcome for fate in useful} == {"loaded"}
    # As mmtracking computes it: a ReLU after both layers, and as many samples as pixels.
    assert (conversion.config.rectified_embedding, conversion.config.sampling_ratio) == (True, 0)
    assert conversion.form == {"rectified_embedding": True}
    wrapped = {f"module.{name}": value for name, value in published.items()}
    again = MASKTRACK.convert(wrapped, settings(), Classes(3), None, "test.pth", "")
    assert again.config == conversion.config
    assert all(torch.equal(value, again.weights[name]) for name, value in conversion.weights.items())


def test_a_mask_rcnn_of_other_classes_gives_all_but_class_layers_and_tracking():
    conversion = MASKTRACK.convert(published_masktrack(80, whole=False), settings(), Classes(3), None, "test.pth", "")
    left = {fate.name.rpartition(".")[0] for fate in conversion.fates if fate.outcome == "left at init"}
    assert left == {"box_head.class_logits", "box_head.deltas", "mask_head.mask_logits", "tracking_head.first",
                    "tracking_head.second"}
    reasons = {fate.reason for fate in conversion.fates if fate.outcome == "dropped" and "fc_cls" in fate.name}
    assert reasons == {"81 rows of classes there, 4 here"}
    assert not conversion.form and not conversion.config.rectified_embedding


def test_another_backbone_or_file_is_refused():
    with pytest.raises(UserError, match="masktrack_rcnn.model.backbone"):
        MASKTRACK.convert(published_masktrack(), settings(backbone="resnet50"), Classes(3), None, "test.pth", "")
    with pytest.raises(UserError, match="test.pth.*no known network"):
        MASKTRACK.convert({"weight": torch.zeros(1)}, settings(), Classes(3), None, "test.pth", "")
    with pytest.raises(UserError, match="box_head.first.weight.*shape"):
        MASKTRACK.convert(published_masktrack(), settings(roi_size=3), Classes(3), None, "test.pth", "")


def literal_heads(weights, regions, classes):
    """mmdetection's Shared2FCBBoxHead and FCNMaskHead and mmtracking's RoIEmbedHead, on regions (X, 16, 4, 4)."""
    def tensor(name):
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def linear(x, name):
        return torch.nn.functional.linear(x, *tensor(name))

    inner = regions.flatten(1)
    for layer in (0, 1):
        inner = linear(inner, f"detector.roi_head.bbox_head.shared_fcs.{layer}").relu()
    scores, boxes = (linear(inner, f"detector.roi_head.bbox_head.{name}") for name in ("fc_cls", "fc_reg"))
    masks = torch.conv2d(regions, *tensor("detector.roi_head.mask_head.convs.0.conv"), padding=1).relu()
    masks = torch.nn.functional.conv_transpose2d(masks, *tensor("detector.roi_head.mask_head.upsample"), stride=2).relu()
    masks = torch.conv2d(masks, *tensor("detector.roi_head.mask_head.conv_logits"))
    embedding = regions.flatten(1)
    for layer in (0, 1):
        embedding = linear(embedding, f"track_head.embed_head.fcs.{layer}").relu()
    return scores, boxes.view(-1, classes, 4), masks, embedding


def test_converted_heads_compute_what_the_published_ones_do():
    published = published_masktrack()
    conversion = MASKTRACK.convert(published, settings(), Classes(3), None, "test.pth", "")
    model = small_masktrack(**{**conversion.config.model_dump(include={"backbone", "rectified_embedding", "sampling_ratio"})})
    model.load_state_dict(conversion.weights)
    regions, labels = torch.randn(5, 16, 4, 4), torch.tensor([0, 2, 1, 1, 0])
    scores, boxes, masks, embedding = literal_heads(published, regions, 3)
    with torch.no_grad():
        ours, deltas = model.box_head(regions)
        torch.testing.assert_close(ours, scores)
        torch.testing.assert_close(deltas, boxes)
        torch.testing.assert_close(model.mask_head(regions, labels), masks[torch.arange(5), labels])
        torch.testing.assert_close(model.embeddings(regions[None])[0], embedding)
        level = torch.randn(1, 16, 3, 5)

        def rpn(x, name, padding):
            at = f"detector.rpn_head.{name}"
            return torch.conv2d(x, published[f"{at}.weight"], published[f"{at}.bias"], padding=padding)

        inner = rpn(level, "rpn_conv", 1).relu()
        objectness, deltas = rpn(inner, "rpn_cls", 0), rpn(inner, "rpn_reg", 0)
        ((found, moved),) = model.proposal_head([level])
        torch.testing.assert_close(found, objectness.permute(0, 2, 3, 1).reshape(1, -1))
        torch.testing.assert_close(moved, deltas.permute(0, 2, 3, 1).reshape(1, -1, 4))


def test_a_published_file_becomes_a_model_that_tracks(tmp_path):
    buffer = io.BytesIO()
    torch.save({"state_dict": published_masktrack(), "meta": {"CLASSES": ("cat", "dog", "bird")}}, buffer)
    (tmp_path / "masktrack.pth").write_bytes(buffer.getvalue())
    sizes = {**SMALL, "backbone": "resnet18"}
    given = [word for name, value in sizes.items()
             for word in ("-S", f"masktrack_rcnn.model.{name}={json.dumps(value)}")]
    assert import_weights.main(["--params", str(CHECKOUT / "params.yaml"), str(tmp_path / "masktrack.pth"), "--method",
                                "masktrack_rcnn", *given, "-S", "masktrack_rcnn.input_size=[32, 48]",
                                "--out", str(tmp_path / "model")]) == 0
    predictor = effvis.load(tmp_path / "model")
    assert [label.name for label in predictor.categories] == ["cat", "dog", "bird"]
    assert predictor.model.config.rectified_embedding and predictor.inference.category == "vote"
    tracked = predictor.track(list(noise(2)), minimum_score=0.0)
    assert tracked.length == 2
    assert len(predictor.detect(noise(1)[0]).scores) <= 100


def test_a_start_of_the_other_form_is_refused(tmp_path):
    conversion = MASKTRACK.convert(published_masktrack(), settings(), Classes(3), None, "test.pth", "")
    save_file(conversion.weights, tmp_path / "start.safetensors", metadata=metadata(conversion))
    with pytest.raises(UserError, match="rectified_embedding"):
        check_form(tmp_path / "start.safetensors", settings().model, where="params.yaml", prefix="masktrack_rcnn.model.")


def test_published_files_are_starts_and_whole_models():
    assert MASKTRACK.models == ("masktrack-r50", "masktrack-r101", "masktrack-r50-2021", "masktrack-r101-2021")
    assert REGISTRY["masktrack-r50"].model == "masktrack_rcnn" and REGISTRY["mask-rcnn-r50"].model is None
    assert REGISTRY["mask-rcnn-r50"].methods == ("masktrack_rcnn",)


@pytest.mark.parametrize("fast", [False, True])
def test_a_model_folder_is_loaded(tmp_path, fast):
    folder = put(tmp_path / "model", small_masktrack(num_classes=5))
    plain, model = effvis.load(folder), effvis.load(folder, fast=fast)
    (one, other) = ([tracklet.score for tracklet in each.track(list(noise(2)), minimum_score=0.0).tracklets]
                    for each in (plain, model))
    assert one == pytest.approx(other, abs=1e-4) and one


@pytest.mark.slow
def test_it_is_trained_and_evaluated(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    spec = evaluation_spec(params, RowSettings(method="masktrack_rcnn"), 0)
    train_run(params, spec.train)
    report = evaluate_run(params, spec)
    assert 0 <= report["metrics"]["AP"] <= 1 and report["frames"] > 0
