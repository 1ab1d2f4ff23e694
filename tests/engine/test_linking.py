"""Choosing hand-crafted linking: on held-out training videos alone, and for all rows of the method and clip length."""

import json
import shutil

import pytest
import yaml

from effvis.config import HandcraftConfig
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from effvis.evaluation.video_ap import Evaluation
from pipeline import ablate as ablate_command
from pipeline import linking as command
from pipeline import plan as plan_command
from pipeline.checks import data as preflight
from pipeline.engine import linking as sweeping
from pipeline.grid.choice_file import LinkingChoice, file_of, keep
from pipeline.grid.linking import chosen, reported
from pipeline.grid.rows import find_evaluation
from pipeline.indexing.build import build
from pipeline.indexing.read import load_index
from pipeline.search import handcraft
from pipeline.settings.loading import load_params

ROW = "table1d:T=9 Hand-craft"
LINKING = HandcraftConfig(mask_iou=2.0, new_tracklet_below=0.7)


@pytest.fixture
def params(tiny_project):
    found = load_params(tiny_project() / "params.yaml")
    file_of(found).unlink(missing_ok=True)
    return found


def choice(params, **changes):
    """A choice that was made where the parameters' videos are reported."""
    values = {"method": "efficientvis", "T": 9, "handcraft": LINKING, "command": "by hand", "run": "0" * 16,
              "evaluation": "1" * 16, "dataset": params.dataset_name, "reported": reported(params), "held_out": 3, "AP": 0.5,
              "AP_of_defaults": 0.25}
    return LinkingChoice(**values | changes)


def test_the_grid_begins_with_the_base_and_has_every_other_combination_once():
    base = HandcraftConfig(new_tracklet_below=0.3, score_threshold=0.2)
    found = sweeping.grid(base, (0.3, 0.6), (0.0, 1.0))
    assert found[0] == base and len(found) == 15 * 2 and len({repr(one) for one in found}) == len(found)
    assert all(one.score_threshold == 0.2 and (one.box_iou, one.box_l1, one.mask_iou, one.category) != (0,) * 4
               for one in found)


def test_of_equal_scores_the_first_is_best():
    assert sweeping.best([0.2, 0.3, 0.3]) == 1 and sweeping.best([0.3, 0.3]) == 0


def test_the_chosen_linking_is_that_of_its_rows_alone(params):
    before = {row: find_evaluation(params, row) for row in (ROW, "table1d:T=18 Hand-craft", "table1d:T=9 Fully e2e (ours)",
                                                           "table1d:T=18 VisTR")}
    keep(params, choice(params))
    after = {row: find_evaluation(params, row) for row in before}
    assert after[ROW].inference.handcraft == LINKING and after[ROW].train.key == before[ROW].train.key
    assert [row for row in before if after[row].key != before[row].key] == [ROW]


def test_what_was_chosen_for_one_method_does_not_link_another_s_clips(params):
    """VisTR's clips are always linked by hand: with the defaults, until a choice of its own is made at this clip length."""
    ours, peers = "table1d:T=18 Hand-craft", "table1d:T=18 VisTR"
    keep(params, choice(params, T=18))
    assert find_evaluation(params, ours).inference.handcraft == LINKING
    assert find_evaluation(params, peers).inference.linking == "hand-craft"
    assert find_evaluation(params, peers).inference.handcraft == HandcraftConfig()
    own = HandcraftConfig(category=0.0, new_tracklet_below=1.0)
    keep(params, choice(params, method="vistr", T=18, handcraft=own))
    assert find_evaluation(params, peers).inference.handcraft == own
    assert find_evaluation(params, ours).inference.handcraft == LINKING


def test_linking_that_the_parameters_set_counts_more(params):
    keep(params, choice(params))
    own = load_params(params.root / "params.yaml", ["inference.handcraft.new_tracklet_below=0.4"])
    assert find_evaluation(own, ROW).inference.handcraft == HandcraftConfig(new_tracklet_below=0.4)


def test_a_later_choice_replaces_that_of_the_same_method_and_length(params):
    for changes in ({}, {"T": 18}, {"handcraft": HandcraftConfig()}):
        keep(params, choice(params, **changes))
    content = yaml.safe_load(file_of(params).read_text())
    assert [(one["T"], one["handcraft"]["mask_iou"]) for one in content["linking"]] == [(9, 1.0), (18, 2.0)]
    assert chosen(params, "vistr", 9) is None
    file_of(params).write_text("profile: laptop\nlinking: [{T: 9}]")
    with pytest.raises(UserError, match="linking.0"):
        chosen(params, "efficientvis", 9)


def test_no_reported_video_is_held_out(params):
    """The videos that choose are training videos, and the network is trained on none of them."""
    ours = handcraft.with_holdout(params, 0.4, 0)
    build(ours)
    train, reported = load_index(params, "train"), load_index(params, "val")
    left, choosing = load_index(ours, "train"), load_index(ours, "val")

    def frames(index):
        return {index.images / file for video in index.videos for file in video.file_names}

    assert frames(choosing) and frames(choosing) <= frames(train) and not frames(choosing) & frames(reported)
    assert frames(left) == frames(train) - frames(choosing)
    assert ours.index_folder != params.index_folder and load_index(params, "val").digest == reported.digest


HELD_OUT = "holdout={fraction: 0.4, seed: 1}"


def with_holdout(params, *overrides):
    """The same project with training videos held out to be reported, indexed."""
    found = load_params(params.root / "params.yaml", overrides or [HELD_OUT])
    build(found)
    return found


def test_of_reported_training_videos_none_is_trained_on_or_chooses(params):
    """Three parts that together are the training videos; in the same project, every time the same."""
    reporting = with_holdout(params)
    reported = load_index(reporting, "val")
    parts = []
    for _ in range(2):
        choosing = handcraft.with_holdout(reporting, 0.4, 0)
        build(choosing)
        parts.append([load_index(choosing, split) for split in ("train", "val")])
    (left, chosen_on), again = parts
    three = [{video.file_names[0] for video in index.videos} for index in (reported, left, chosen_on)]
    assert all(three) and sum(map(len, three)) == len(set.union(*three))
    everything = read_split(params.dataset_folder / "train")
    assert set.union(*three) == {video.file_names[0] for video in everything.videos}
    assert [index.digest for index in again] == [left.digest, chosen_on.digest]
    assert load_index(reporting, "val").digest == reported.digest, "the project's index stays as it is"


def test_reported_training_videos_must_be_known_from_the_index(params):
    reporting = load_params(params.root / "params.yaml", [HELD_OUT])
    with pytest.raises(UserError, match="another data set than the parameters say.*pipeline.index"):
        handcraft.with_holdout(reporting, 0.4, 0)  # the index is that of the project without a holdout
    build(reporting)
    choosing = handcraft.with_holdout(reporting, 0.4, 0)
    (reporting.index_folder / "holdout.json").unlink()
    with pytest.raises(UserError, match="holdout.json: .*cannot be read.*pipeline.index"):
        build(choosing)


def test_without_videos_held_out_nothing_is_swept(params):
    with pytest.raises(UserError, match="holdout"):
        sweeping.sweep(params, find_evaluation(params, ROW), [HandcraftConfig()])


def linked(params):
    return find_evaluation(params, ROW).inference.handcraft


def test_a_choice_counts_only_where_the_same_videos_are_reported(params):
    """Among training videos that are reported later may be some that made the choice; and val's numbers may have been known."""
    keep(params, choice(params))
    assert linked(params) == LINKING
    reporting = with_holdout(params)
    assert linked(reporting) == HandcraftConfig()
    own = HandcraftConfig(category=0.0)
    keep(reporting, choice(reporting, handcraft=own))
    assert linked(reporting) == own
    shutil.copy(reporting.index_folder / "holdout.json", params.root / "list.json")
    assert linked(with_holdout(params, "holdout.file=list.json")) == own, "the same videos, listed"
    fewer = json.loads((params.root / "list.json").read_text())["val"][1:]
    (params.root / "fewer.json").write_text(json.dumps({"val": fewer}))
    assert linked(with_holdout(params, "holdout.file=fewer.json")) == HandcraftConfig(), "others"
    build(params)
    assert linked(params) == LINKING, "both choices are kept"
    file_of(params).unlink()
    keep(reporting, choice(with_holdout(params)))
    build(params)
    assert linked(params) == HandcraftConfig()


def test_users_are_told_of_a_choice_that_does_not_count(params, capsys):
    keep(params, choice(params))
    ablate = ["--params", str(params.root / "params.yaml"), "--grid", "table1d", "--methods", "efficientvis", "--dry-run"]
    plan = ["--params", str(params.root / "params.yaml"), "-S", "tables=[table1d]"]

    def told(main, arguments):
        assert main(arguments) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "linking" in line]

    assert told(ablate_command.main, ablate) == told(plan_command.main, plan) == []
    with_holdout(params)
    for main, arguments in ((ablate_command.main, ablate), (plan_command.main, plan)):
        (line,) = told(main, [*arguments, "-S", HELD_OUT])
        assert line.startswith("warning: table1d: T=9 Hand-craft") and "other videos were reported" in line
        assert "python -m pipeline.linking --row 'table1d:T=9 Hand-craft'" in line
    keep(params, choice(load_params(params.root / "params.yaml", [HELD_OUT])))
    assert told(ablate_command.main, [*ablate, "-S", HELD_OUT]) == []


def test_preflight_tells_a_choice_for_other_videos_from_none(params):
    def told(found):
        return [finding.text for finding in preflight.tables(found, ["table1d"], ["efficientvis"]) if "linking" in finding.text]

    (both,) = told(params)
    assert "at T=9, EfficientVIS at T=18" in both and "nobody has chosen" in both
    keep(params, choice(params))
    (other,) = told(params)
    assert "EfficientVIS at T=18" in other and "at T=9" not in other
    texts = told(with_holdout(params))
    assert len(texts) == 2 and all(("at T=9" in text) == ("other videos were reported" in text) for text in texts)


def test_a_method_that_links_its_frames_itself_is_not_sent_here(params):
    """Preflight does not ask for a choice that the command could not make, and the command says so before it trains."""
    found = [finding.text for finding in preflight.tables(params, ["table2"], ["queryinst", "vistr"])]
    assert any("AP and AR of 4 rows" in text for text in found)
    assert ["VisTR at T=36" in text and "QueryInst" not in text for text in found if "linking" in text] == [True]
    with pytest.raises(UserError, match="QueryInst links its frames in a way of its own.*queryinst.inference"):
        command.main(["--params", str(params.root / "params.yaml"), "--row", "table2:QueryInst"])


def test_thresholds_below_zero_are_tried():
    """With box L1 a similarity may be negative: DESIGN.md measured thresholds of 0 or lower."""
    assert min(handcraft.THRESHOLDS) < 0


@pytest.mark.slow
@pytest.mark.parametrize("holdout", ["holdout=null", HELD_OUT])
def test_the_command_runs_the_network_once_and_writes_what_scored_best(params, monkeypatch, capsys, holdout):
    reporting = with_holdout(params, holdout)
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
    assert command.main(["--params", str(params.root / "params.yaml"), "-S", holdout, "--row", ROW, "--hold-out", "0.4",
                         "--weights", "1", "--thresholds", "0.5", "0.9"]) == 0
    (written,) = yaml.safe_load(file_of(params).read_text())["linking"]
    assert len(calls) == 1 and written["held_out"] == len(calls[0].videos) == len(truths[0]["videos"])
    assert written["handcraft"]["new_tracklet_below"] == 0.5 and (written["AP"], written["AP_of_defaults"]) == (0.3, 0.1)
    assert written["command"].startswith("python -m pipeline.linking --params")
    assert "as in the parameters" in capsys.readouterr().out
    if reporting.holdout is not None:  # val's files may have the same names
        assert not {video.id for video in calls[0].videos} & {video.id for video in load_index(reporting, "val").videos}
    assert written["reported"] == reported(reporting) and linked(reporting).new_tracklet_below == 0.5
