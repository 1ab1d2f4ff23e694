"""Reported numbers are of the test split where there is one; what chooses measures val, and never opens a test frame."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.project import write_params

from effvis.errors import UserError
from effvis.methods import build_model
from pipeline import ablate as ablate_command
from pipeline import evaluate as evaluate_command
from pipeline import linking as linking_command
from pipeline.datasets import place
from pipeline.engine.run import evaluate_run
from pipeline.grid.rows import find_evaluation, load_table
from pipeline.indexing import build
from pipeline.indexing.read import read_facts
from pipeline.runs import cells
from pipeline.runs.store import RunStore
from pipeline.search import handcraft
from pipeline.search.search import new_search
from pipeline.search.space import SpaceFile, find_base
from pipeline.search.trials import TrialPlan, _worth
from pipeline.settings.loading import load_params
from pipeline.tables.claims import markdown as claims_markdown
from pipeline.tables.claims import write_ledger
from pipeline.tables.claims_file import load_ledger
from pipeline.tables.latex import latex
from pipeline.tables.markdown import markdown
from pipeline.tables.summary import summary

ROW = "table1e:w/ CL"
VIDEOS = {"val": 3, "test": 2}
# Random weights find something everywhere.
EVERYTHING = {"presence_threshold": 0.0}
SPACE = SpaceFile(row=ROW, space={"train.lr": {"choice": [1e-4, 1e-3]}})


def params_of(project, *overrides):
    return load_params(project / "params.yaml", overrides)


@pytest.fixture(scope="module")
def drawn(_tiny_template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("three_splits") / "project"
    shutil.copytree(_tiny_template, folder)
    write_params(folder, shapes={"test_videos": VIDEOS["test"]}, pretrain={"source": "none"}, inference=EVERYTHING, seeds=1)
    place.put_in_place(params_of(folder))
    build.build(params_of(folder))
    return folder


@pytest.fixture
def project(drawn, tmp_path):
    """A project with three validation and two test videos."""
    return Path(shutil.copytree(drawn, tmp_path / "project"))


def store_weights(params, spec):
    torch.manual_seed(0)
    store = RunStore(params.runs_dir)
    store.begin(spec.key, spec.describe())
    (store.folder(spec.key) / "history.jsonl").write_text('{"step": 3, "epoch": 1.0}\n')
    store.finish(spec.key, build_model(spec.model).state_dict(), {"steps": 3, "seconds": 1.0})


def spoil_test_frames(params):
    frames = list((params.dataset_folder / "test").rglob("*.jpg"))
    assert frames
    for frame in frames:
        frame.write_bytes(b"nobody looks at this")


def test_only_evaluations_have_other_keys_and_those_of_val_are_as_before(tiny_project):
    folder = tiny_project(pretrain={"source": "none"})
    before = find_evaluation(params_of(folder), ROW)
    with pytest.raises(UserError, match="shapes-vis/test: split: .*pipeline.index"):
        find_evaluation(params_of(folder, "split=test"), ROW)
    more = "shapes.test_videos=2"
    place.put_in_place(params_of(folder, more))
    build.build(params_of(folder, more))
    default, test, val = (find_evaluation(params_of(folder, more, f"split={split}"), ROW) for split in ("null", "test", "val"))
    assert before.split == val.split == "val" and default.split == "test"
    assert val.key == before.key and default.key == test.key != val.key
    assert val.train.key == before.train.key == test.train.key, "nothing is trained anew"


def test_an_evaluation_is_of_the_videos_of_its_split_and_says_so(project):
    for split, count in VIDEOS.items():
        params = params_of(project, f"split={split}")
        spec = find_evaluation(params, ROW)
        store_weights(params, spec.train)
        facts = evaluate_run(params, spec)
        assert facts["split"] == split and facts["frames"] == 8 * count
        results = RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "results.json"
        assert {result["video_id"] for result in json.loads(results.read_text())} == set(range(1, count + 1))
        assert cells.find_cell(params, spec).split == split


def test_tables_and_claims_say_that_their_numbers_are_of_test_videos(project):
    texts = []
    for split in VIDEOS:
        params = params_of(project, f"split={split}")
        table = summary(params, load_table(params, "table1e"))
        ledger = claims_markdown(json.loads(write_ledger(params, load_ledger(params)).with_suffix(".json").read_text()))
        texts.append((markdown(table), latex(table), ledger))
        assert table.model_dump(mode="json").get("split") == (None if split == "val" else "test")
    for of_val, of_test in zip(*texts, strict=True):
        assert "test videos" not in of_val and "the test videos of shapes-vis" in of_test


def test_the_command_measures_what_split_says(project, capsys):
    for option, split in (((), "test"), (("--split", "val"), "val"), (("-S", "split=val", "--split", "test"), "test")):
        params = params_of(project, f"split={split}")
        store_weights(params, find_evaluation(params, None).train)
        assert evaluate_command.main(["--params", str(project / "params.yaml"), *option]) == 0
        assert f"measured on {split}\n" in capsys.readouterr().err
        headline = json.loads((project / "results" / "headline.json").read_text())
        assert headline["split"] == split and headline["evaluation"] == find_evaluation(params, None).key
    with pytest.raises(SystemExit):
        evaluate_command.main(["--split", "train"])
    assert "train is neither val nor test" in capsys.readouterr().err
    keys = []
    for split in VIDEOS:
        assert ablate_command.main(["--params", str(project / "params.yaml"), "--grid", "table1e", "--dry-run", "--verbose",
                                    "--split", split]) == 0
        printed = capsys.readouterr().out
        keys += [find_evaluation(params_of(project, f"split={of}"), ROW).key in printed for of in VIDEOS]
    assert keys == [True, False, False, True]


@pytest.mark.parametrize("split", ["null", "test"])
def test_a_search_measures_val_and_needs_no_frame_of_test(project, split):
    params = params_of(project, f"split={split}")
    base = find_base(params, project / "space.yaml", SPACE)
    plan = TrialPlan(params, base, SPACE, 1, "tried")
    spoil_test_frames(params)
    (spec,) = base.trial(params, {"train.lr": 1e-3}, 1)
    store_weights(params, spec.train)
    assert spec.split == "val" and _worth(plan, spec, lambda progress: None) >= 0
    on_val = params_of(project, "split=val")
    assert cells.find_cell(params, spec).split == "val"
    assert new_search(params, "tried", SPACE, base, 1).key == new_search(on_val, "tried", SPACE, base, 1).key


def test_test_frames_that_cannot_be_read_stop_what_does_measure_them(project):
    """What the test above relies on: whoever opened a frame of test would be stopped."""
    params = params_of(project)
    spec = find_evaluation(params, ROW)
    store_weights(params, spec.train)
    spoil_test_frames(params)
    with pytest.raises(Exception, match="test/JPEGImages"):
        evaluate_run(params, spec)


@pytest.mark.slow
def test_linking_is_chosen_without_test_whatever_split_says(project, capsys):
    """The command trains and links on val; the choice is then that of the row, which is measured on test."""
    params, row = params_of(project), "table1d:T=9 Hand-craft"
    spoil_test_frames(params)
    assert linking_command.main(["--params", str(project / "params.yaml"), "-S", "split=test", "--row", row,
                                 "--hold-out", "0.4", "--thresholds", "0.3", "--weights", "1"]) == 0
    assert "as in the parameters" in capsys.readouterr().out
    assert find_evaluation(handcraft.choosing(params_of(project, "split=test"), 0.4, 0), row).split == "val"
    assert find_evaluation(params, row).split == "test"
    held_out = handcraft.with_holdout(params_of(project, "split=test"), 0.4, 0)
    build.build(held_out, test=False)
    assert list(read_facts(held_out)["splits"]) == ["train", "val"] and find_evaluation(held_out, row).split == "val"
