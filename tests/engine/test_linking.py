"""Choosing hand-crafted linking: on held-out training videos alone, and for all rows of the method and clip length."""

import pytest
import yaml

from effvis.config import HandcraftConfig
from effvis.errors import UserError
from effvis.evaluation.video_ap import Evaluation
from pipeline import linking as command
from pipeline.engine import linking as sweeping
from pipeline.grid.linking import Choice, chosen, file_of, keep
from pipeline.grid.rows import find_evaluation
from pipeline.indexing.build import build
from pipeline.indexing.read import load_index
from pipeline.settings.loading import load_params

ROW = "table1d:T=9 Hand-craft"
CHOICE = Choice(method="efficientvis", T=9, handcraft=HandcraftConfig(mask_iou=2.0, new_tracklet_below=0.7), command="by hand",
                run="0" * 16, held_out=3, AP=0.5, AP_of_defaults=0.25)


@pytest.fixture
def params(tiny_project):
    found = load_params(tiny_project() / "params.yaml")
    file_of(found).unlink(missing_ok=True)
    return found


def test_the_grid_begins_with_the_base_and_has_every_other_combination_once():
    base = HandcraftConfig(score_threshold=0.2)
    found = sweeping.grid(base, (0.3, 0.6), (0.0, 1.0))
    assert found[0] == base and len(found) == 15 * 2 and len({repr(one) for one in found}) == len(found)
    assert all(one.score_threshold == 0.2 and (one.box_iou, one.box_l1, one.mask_iou, one.category) != (0,) * 4
               for one in found)


def test_of_equal_scores_the_first_is_best():
    assert sweeping.best([0.2, 0.3, 0.3]) == 1 and sweeping.best([0.3, 0.3]) == 0


def test_the_chosen_linking_is_that_of_its_rows_alone(params):
    before = {row: find_evaluation(params, row) for row in (ROW, "table1d:T=18 Hand-craft", "table1d:T=9 Fully e2e (ours)",
                                                           "table1d:T=18 VisTR")}
    keep(params, CHOICE)
    after = {row: find_evaluation(params, row) for row in before}
    assert after[ROW].inference.handcraft == CHOICE.handcraft and after[ROW].train.key == before[ROW].train.key
    assert [row for row in before if after[row].key != before[row].key] == [ROW]


def test_what_was_chosen_for_one_method_does_not_link_another_s_clips(params):
    """VisTR's clips are always linked by hand: with the defaults, until a choice of its own is made at this clip length."""
    ours, peers = "table1d:T=18 Hand-craft", "table1d:T=18 VisTR"
    keep(params, CHOICE.model_copy(update={"T": 18}))
    assert find_evaluation(params, ours).inference.handcraft == CHOICE.handcraft
    assert find_evaluation(params, peers).inference.linking == "hand-craft"
    assert find_evaluation(params, peers).inference.handcraft == HandcraftConfig()
    own = HandcraftConfig(category=0.0, new_tracklet_below=1.0)
    keep(params, CHOICE.model_copy(update={"method": "vistr", "T": 18, "handcraft": own}))
    assert find_evaluation(params, peers).inference.handcraft == own
    assert find_evaluation(params, ours).inference.handcraft == CHOICE.handcraft


def test_linking_that_the_parameters_set_counts_more(params):
    keep(params, CHOICE)
    own = load_params(params.root / "params.yaml", ["inference.handcraft.new_tracklet_below=0.4"])
    assert find_evaluation(own, ROW).inference.handcraft == HandcraftConfig(new_tracklet_below=0.4)


def test_a_later_choice_replaces_that_of_the_same_method_and_length(params):
    for choice in (CHOICE, CHOICE.model_copy(update={"T": 18}), CHOICE.model_copy(update={"handcraft": HandcraftConfig()})):
        keep(params, choice)
    content = yaml.safe_load(file_of(params).read_text())
    assert [(one["T"], one["handcraft"]["mask_iou"]) for one in content["choices"]] == [(9, 1.0), (18, 2.0)]
    assert chosen(params, "vistr", 9) is None
    file_of(params).write_text("choices: [{T: 9}]")
    with pytest.raises(UserError, match="choices.0"):
        chosen(params, "efficientvis", 9)


def test_no_reported_video_is_held_out(params):
    """The videos that choose are training videos, and the network is trained on none of them."""
    ours = command.with_holdout(params, 0.4, 0)
    build(ours)
    train, reported = load_index(params, "train"), load_index(params, "val")
    left, choosing = load_index(ours, "train"), load_index(ours, "val")

    def frames(index):
        return {index.images / file for video in index.videos for file in video.file_names}

    assert frames(choosing) and frames(choosing) <= frames(train) and not frames(choosing) & frames(reported)
    assert frames(left) == frames(train) - frames(choosing)
    assert ours.index_folder != params.index_folder and load_index(params, "val").digest == reported.digest


def test_videos_that_are_reported_cannot_choose(params):
    reported_on_training_videos = load_params(params.root / "params.yaml", ["holdout.fraction=0.5"])
    with pytest.raises(UserError, match="holdout"):
        command.with_holdout(reported_on_training_videos, 0.4, 0)
    with pytest.raises(UserError, match="holdout"):
        sweeping.sweep(params, find_evaluation(params, ROW), [HandcraftConfig()])


@pytest.mark.slow
def test_the_command_runs_the_network_once_and_writes_what_scored_best(params, monkeypatch, capsys):
    calls, truths, aps = [], [], iter((0.1, 0.3, 0.2))  # of three linkings, the second is made to be best
    predict_clips = sweeping.predict_clips

    def watched(model, index, *rest, **named):
        calls.append(index)
        return predict_clips(model, index, *rest, **named)

    def scored(truth, found):
        truths.append(truth)
        return Evaluation({"AP": next(aps)}, {}, [])

    monkeypatch.setattr(sweeping, "predict_clips", watched)
    monkeypatch.setattr(sweeping, "score", scored)
    assert command.main(["--params", str(params.root / "params.yaml"), "--row", ROW, "--hold-out", "0.4", "--weights", "1",
                         "--thresholds", "0.5", "0.9"]) == 0
    (choice,) = yaml.safe_load(file_of(params).read_text())["choices"]
    assert len(calls) == 1 and choice["held_out"] == len(calls[0].videos) == len(truths[0]["videos"])
    assert choice["handcraft"]["new_tracklet_below"] == 0.5 and (choice["AP"], choice["AP_of_defaults"]) == (0.3, 0.1)
    assert choice["command"].startswith("python -m pipeline.linking --params")
    assert "as in the parameters" in capsys.readouterr().out
    assert find_evaluation(params, ROW).inference.handcraft.new_tracklet_below == 0.5
