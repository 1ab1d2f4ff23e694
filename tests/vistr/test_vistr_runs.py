"""VisTR through the pipeline: its rows, its start, its training and its evaluation, in the harness of EfficientVIS."""

import math
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save
from support.builders import clip_pairs
from support.models import tiny_vistr
from support.project import CHECKOUT

from effvis.data.sizes import KeptRatio
from effvis.errors import UserError
from effvis.model.conversion import Conversion
from effvis.training.loop import train
from effvis.vistr.config import VisTRLossWeights, VisTRTrainConfig
from effvis.vistr.losses import pair_losses
from pipeline import methods
from pipeline.engine.run import evaluate_run, train_run
from pipeline.engine.training import start
from pipeline.grid import starts
from pipeline.grid.rows import evaluation_spec, find_evaluation, find_row, pretrain_spec
from pipeline.identity.digests import syntax_trees, training_code
from pipeline.indexing.read import load_clips, load_index
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

ROW = "table1d:T=18 VisTR"


def trained_for(steps, index, *, stop_after=None, **changes):
    """Weights after this many steps; with ``stop_after``, the training resumes from a snapshot taken there."""
    config = VisTRTrainConfig(epochs=steps / 2, lr_drop_epoch=steps, lr=1e-3, backbone_lr=changes.pop("backbone_lr", 1e-4))

    def fresh():
        model = tiny_vistr(**changes)
        return model, lambda batch, counts: pair_losses(model, batch, VisTRLossWeights(), counts), clip_pairs(index)

    model, losses_of, pairs = fresh()
    snapshot = None
    for progress in train(model, losses_of, pairs, config):
        if progress.step == stop_after:
            snapshot = progress.state()
            break
    if snapshot is not None:
        model, losses_of, pairs = fresh()
        for _ in train(model, losses_of, pairs, config, resume=snapshot):
            pass
    return model.state_dict()


def test_a_row_is_a_training_of_its_own_settings_linked_by_hand(tiny_project):
    params = load_params(tiny_project() / "params.yaml", ["vistr.train.lr=0.125"])
    spec = find_evaluation(params, ROW)
    assert spec.train.method == "vistr" and not spec.train.correspondence
    assert (spec.train.model.clip_length, spec.train.model.num_classes, spec.train.train.lr) == (6, 5, 0.125)
    assert spec.train.train.augmentation == "random-crop", "as VisTR trains"
    assert spec.inference.linking == "hand-craft"
    assert (spec.train.parent.method, spec.train.parent.model.clip_length, spec.train.parent.kind) == ("vistr", 1, "pretrain")
    assert spec.train.parent == pretrain_spec(params, find_row(params, ROW))
    assert spec.train.describe()["method"] == "vistr"
    other = evaluation_spec(params, RowSettings(T=18), 0)
    assert other.train.method == "efficientvis" and other.train.code_digest != spec.train.code_digest
    assert other.evaluation_digest != spec.evaluation_digest


def test_its_section_replaces_the_size_and_the_inference_of_all(tiny_project):
    changes = ["vistr.input_size=[64, 96]", "vistr.inference.presence_threshold=0.25"]
    params = load_params(tiny_project() / "params.yaml", changes)
    ours, other = find_evaluation(params, ROW), evaluation_spec(params, RowSettings(T=18), 0)
    assert (ours.train.input_size, ours.inference.presence_threshold, ours.inference.linking) == ((64, 96), 0.25, "hand-craft")
    assert ours.train.parent.input_size == (64, 96)
    assert (other.train.input_size, other.inference) == (params.input_size, params.inference)
    row = find_row(params, ROW)
    row = row.model_copy(update={"params": {**row.params, "vistr.inference.presence_threshold": 0.5}})
    assert evaluation_spec(params, row, 0).inference.presence_threshold == 0.5


def test_the_papers_rows_have_its_authors_size_and_results():
    vistr = load_params(CHECKOUT / "params.yaml", ["profile=paper"]).vistr
    assert vistr.input_size == KeptRatio(shorter=300, longer=540) and vistr.model.absent_row
    assert vistr.inference.model_dump() == {"presence_threshold": 0.001, "category": "vote"}


def test_a_start_whose_class_rows_mean_something_else_is_refused(tiny_project):
    folder = tiny_project()
    weights = {"class_logits.bias": torch.zeros(7)}
    conversion = Conversion("test", tiny_vistr().config, weights, [], {"absent_row": True})
    content = save(conversion.weights, metadata=starts.metadata(conversion))
    (folder / "start.safetensors").write_bytes(content)
    changes = ["vistr.pretrain.source=start.safetensors"]
    with pytest.raises(UserError, match="made with true, this network with false.*Set vistr.model.absent_row: true") as error:
        find_evaluation(load_params(folder / "params.yaml", changes), ROW)
    assert error.value.key == "vistr.model.absent_row"
    params = load_params(folder / "params.yaml", [*changes, "vistr.model.absent_row=true"])
    assert find_evaluation(params, ROW).train.init.startswith("file:")
    (folder / "start.safetensors").write_bytes(b"no such file")
    with pytest.raises(UserError, match="is not a safetensors file"):
        find_evaluation(params, ROW)


@pytest.mark.parametrize("frames", [36, 2])
def test_a_clip_network_starts_from_another_clip_length(frames):
    given, clip = tiny_vistr(frames, seed=1), tiny_vistr(18, seed=2)
    assert clip.load_initial(given.state_dict()) == []
    queries = given.query_NTC.detach()
    expected = (queries[:, ::2] + queries[:, 1::2]) / 2 if frames == 36 else queries.repeat_interleave(9, dim=1)
    torch.testing.assert_close(clip.query_NTC.detach(), expected)


def test_a_larger_backbone_stands_for_the_papers(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    for method in ("efficientvis", "vistr"):
        models = [evaluation_spec(params, RowSettings(method=method, backbone=name), 0).train.model for name in ("R50", "R101")]
        assert [model.backbone for model in models] == ["tiny", "tiny-deep"]
    paper = load_params(CHECKOUT / "params.yaml", ["profile=paper"])
    assert paper.scale.backbone == {"R50": "resnet50", "R101": "resnet101"}


def test_what_vistr_does_not_have_is_refused():
    for foreign in ({"cl": True}, {"attention": "ftsa"}, {"query": "time-shared"}, {"linking": "end-to-end"}):
        with pytest.raises(ValidationError, match="VisTR has no"):
            RowSettings(method="vistr", **foreign)
    assert RowSettings(method="vistr", linking="hand-craft", T=9).T == 9


def test_no_training_of_one_method_follows_from_the_other_ones_code():
    def reached(method):
        return syntax_trees(entry for entry in training_code(methods.get(method)) if ":" not in entry)

    assert not [module for module in reached("efficientvis") if "vistr" in module]
    assert "effvis.vistr.model" in reached("vistr") and "effvis.training.losses" not in reached("vistr")


def test_a_clip_network_starts_from_one_frame():
    one, clip = tiny_vistr(1, seed=1, num_classes=3), tiny_vistr(4, seed=2, num_classes=5)
    classes = {name: value.clone() for name, value in clip.state_dict().items() if name.startswith("class_logits.")}
    assert sorted(clip.load_initial(one.state_dict())) == ["class_logits.bias", "class_logits.weight"]
    for name, value in clip.state_dict().items():
        expected = classes.get(name, one.state_dict()[name])
        assert torch.equal(value, expected.expand_as(value)), name
    with pytest.raises(ValueError, match="not in both"):
        clip.load_initial({"query_NTC": torch.zeros(4, 1, 96)})
    with pytest.raises(ValueError, match="shape"):
        tiny_vistr(4, queries=9).load_initial(clip.state_dict())


def test_masks_have_the_stride_of_the_finest_level():
    model = tiny_vistr(2).eval()
    with torch.no_grad():
        masks = model.mask_logits(model(torch.zeros(1, 2, 3, 33, 48, dtype=torch.uint8)))
    assert model.mask_stride == 2 and masks.shape == (1, 4, 2, 17, 24)


def test_dropout_resumes_bitwise(drawn_index):
    """Dropout in a step depends on the step's number, not on how often the process was started."""
    unbroken = trained_for(4, drawn_index, dropout=0.3)
    resumed = trained_for(4, drawn_index, dropout=0.3, stop_after=2)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    without = trained_for(4, drawn_index, dropout=0.0)
    assert any(not torch.equal(unbroken[name], without[name]) for name in unbroken)


def test_the_backbone_has_its_own_learning_rate(drawn_index):
    start = tiny_vistr().state_dict()

    def moved(backbone_lr):
        weights = trained_for(2, drawn_index, backbone_lr=backbone_lr)
        distance = {name: (weights[name] - start[name]).abs().max().item() for name in start}
        return (max(d for name, d in distance.items() if name.startswith("body.")),
                max(d for name, d in distance.items() if not name.startswith("body.")))

    (slow, rest), (fast, same_rest) = moved(1e-6), moved(None)
    # Adam's first steps are as large as the learning rate.
    assert slow < 1e-5 and fast > 1e-4 and math.isclose(rest, same_rest, rel_tol=0.5)


@pytest.mark.slow
def test_a_row_is_trained_from_its_start_and_evaluated(tiny_project):
    folder = tiny_project(inference={"presence_threshold": 0.0, "handcraft": {"score_threshold": 0.0}})
    params = load_params(folder / "params.yaml")
    spec = find_evaluation(params, ROW)
    train_run(params, spec.train)
    store = RunStore(params.runs_dir)
    assert store.is_done(spec.train.parent.key) and store.done(spec.train.key)["initial_weights_left_out"] == []
    found = evaluate_run(params, spec)
    assert 0 <= found["metrics"]["AP"] <= 1
    assert found["frames"] == 3 * 8


def test_pretrain_names_what_does_not_fit(tiny_project):
    command = [sys.executable, "-m", "pipeline.pretrain", "--row", ROW, "--cl", "on"]
    ended = subprocess.run(command, cwd=tiny_project(), env={"PYTHONPATH": str(CHECKOUT)}, capture_output=True, text=True)
    assert ended.returncode == 2 and ended.stderr.startswith("error: --cl: on: VisTR") and ended.stderr.count("\n") == 1


def test_one_clip_is_drawn_where_a_second_teaches_nothing(tiny_project):
    params = load_params(tiny_project() / "params.yaml")
    index = load_index(params, "train")

    def clips_drawn(**row):
        spec = evaluation_spec(params, RowSettings(**row), 0).train
        batch = start(spec, index, load_clips(params, "train", spec.model.clip_length), None).pairs.batch(0)
        assert len(batch.frames) == len(batch.targets) and len(batch.targets[0]) == 2
        return len(batch.frames)

    # Videos have eight frames.
    assert clips_drawn(T=9, cl=True) == clips_drawn(T=9, cl=False) == 2, "the two rows of table 1e see the same clips"
    assert clips_drawn(T=8) == 1 and clips_drawn(T=8, cl=True) == 2
    assert clips_drawn(method="vistr", T=9) == 1
