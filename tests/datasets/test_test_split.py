"""The optional third split: taken where it has instances, left out where it has none, and beside a holdout as it is."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline import index as index_command
from pipeline.checks import data as preflight
from pipeline.datasets import holdout, place
from pipeline.indexing import build
from pipeline.indexing.read import load_index, measured_split, read_facts
from pipeline.reporting.dataset_page import write_page
from pipeline.settings.loading import load_params
from pipeline.settings.params import ArchiveSettings

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"
SHAPES = {"train_videos": 5, "val_videos": 2, "test_videos": 3, "frames": 4, "height": 32, "width": 40, "min_radius": 5,
          "max_radius": 8}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A project whose data set was drawn with a test split."""
    folder = tmp_path_factory.mktemp("drawn")
    shutil.copytree(PROFILES, folder / "experiments" / "profiles")
    (folder / "params.yaml").write_text(yaml.safe_dump({"profile": "laptop", "dataset": "shapes-vis", "shapes": SHAPES}))
    place.put_in_place(load_params(folder / "params.yaml"))
    return folder


@pytest.fixture
def project(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "project"))


@pytest.fixture
def own(project) -> Path:
    """The same, as a folder of the user's own; its test split."""
    (project / "data" / "shapes-vis").rename(project / "own")
    (project / "params.yaml").write_text(yaml.safe_dump({"profile": "laptop", "dataset": "own"}))
    return project / "own" / "test"


def indexed(project, *overrides):
    params = load_params(project / "params.yaml", overrides)
    build.build(params)
    return params


def change(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in (content | values).items() if value != "away"}))


def problem(project, *overrides) -> str:
    with pytest.raises(UserError) as error:
        measured_split(indexed(project, *overrides))
    return str(error.value)


def test_it_is_indexed_and_measured_unless_the_parameters_say_val(project):
    params = indexed(project)
    facts = read_facts(params)["splits"]
    assert list(facts) == ["train", "val", "test"] and [len(entry["videos"]) for entry in facts.values()] == [5, 2, 3]
    assert load_index(params, "test").digest == read_split(params.dataset_folder / "test").digest
    assert [measured_split(indexed(project, f"split={split}")) for split in ("null", "val", "test")] == ["test", "val", "test"]
    assert build.build(params) is False, "nothing changed"
    findings = [finding.text for finding in preflight.data([params])]
    assert f"2 with {facts['val']['instances']} instances to validate on; 3 with {facts['test']['instances']} instances to " \
           "test on" in findings[0]
    write_page(params, project / "page.html")
    assert (project / "page.html").read_text().count('<th colspan="3">') == 3


def test_without_one_all_is_as_it_was(project):
    params = indexed(project)
    with_test = read_facts(params)
    shutil.copytree(project / "data" / "shapes-vis", project / "two", ignore=shutil.ignore_patterns("test", "shapes.json"))
    params = indexed(project, "dataset=two")
    two = read_facts(params)
    assert two["splits"]["train"] == with_test["splits"]["train"] and two["splits"]["val"] == with_test["splits"]["val"]
    assert list(two["splits"]) == ["train", "val"] and measured_split(params) == "val"
    text = problem(project, "dataset=two", "split=test")
    assert text.startswith(f"{project / 'two' / 'test'}: split: ") and "instances.json with instances there" in text
    place.put_in_place(load_params(project / "params.yaml", ["shapes.test_videos=0"]))
    assert "Set shapes.test_videos, and run pipeline.download" in problem(project, "shapes.test_videos=0", "split=test")
    assert read_facts(indexed(project, "shapes.test_videos=0"))["digest"] == two["digest"]
    with pytest.raises(UserError, match="command line: split: "):
        load_params(project / "params.yaml", ["split=train"])


def test_a_split_without_instances_is_left_out_and_its_frames_are_not_read(own, capsys):
    """YouTube-VIS publishes its test split so, for its server: without the key, with null, or with an empty list."""
    shutil.rmtree(own / "JPEGImages")
    project = own.parent.parent
    digests = set()
    for nothing in ("away", None, []):
        change(own / "instances.json", annotations=nothing)
        params = indexed(project)
        digests.add(read_facts(params)["digest"])
        assert measured_split(params) == "val" and list(read_facts(params)["splits"]) == ["train", "val"]
        assert holdout.remarks(params, 1) == [f"{own} has no instances and is left out"]
        assert list(build.check(params)) == ["train", "val"] and "no such split" in problem(project, "split=test")
    assert index_command.main(["--params", str(project / "params.yaml")]) == 0
    assert "test has no instances and is left out" in capsys.readouterr().err
    (own / "instances.json").unlink()
    assert measured_split(indexed(project)) == "val", "and so is a folder of something else"
    shutil.rmtree(own)
    params = indexed(project)
    assert digests == {read_facts(params)["digest"]} and holdout.remarks(params, 1) == []


def test_it_may_come_and_go(own):
    project, aside = own.parent.parent, own.with_name("aside")
    found = []
    for there in (True, False, True):
        (aside if there else own).exists() and (aside if there else own).rename(own if there else aside)
        found.append(measured_split(indexed(project)))
    assert found == ["test", "val", "test"]


def with_other_categories(test):
    content = json.loads((test / "instances.json").read_text())
    first = next(one for one in content["annotations"] if one["category_id"] == 1)
    change(test / "instances.json", categories=[content["categories"][0], {"id": 9, "name": "dog"}], annotations=[first])


@pytest.mark.parametrize("break_it, where, told", [
    (lambda test: next(test.rglob("00001/*.jpg")).unlink(), "instances.json", "missing frame file"),
    (lambda test: (test / "instances.json").write_text("{"), "instances.json", "unreadable JSON"),
    (with_other_categories, "test: categories", "not the categories of train"),
], ids=["a frame is missing", "it is cut off", "other categories"])
def test_what_is_wrong_with_it_is_named(own, break_it, where, told):
    break_it(own)
    text = problem(own.parent.parent)
    assert text.startswith(str(own)) and where in text and told in text
    found = build.check(load_params(own.parent.parent / "params.yaml"))
    assert any(told in str(error) for error in found["test"].errors) and not found["train"].errors


def test_a_holdout_takes_the_place_of_val_and_test_stays(own):
    before = load_index(indexed(own.parent.parent), "test")
    shutil.rmtree(own.with_name("val"))
    params = indexed(own.parent.parent, "holdout.fraction=0.4")
    test, val = load_index(params, "test"), load_index(params, "val")
    assert measured_split(params) == "test" and test.digest == before.digest
    assert val.images == own.parent / "train" / "JPEGImages" and val.videos
    truth = holdout.ground_truth(params, test)
    assert [video["id"] for video in truth["videos"]] == [1, 2, 3]
    assert len(truth["annotations"]) == len(test.tracks)
    assert {video["id"] for video in holdout.ground_truth(params, val)["videos"]} == {video.id for video in val.videos}
    listed = json.loads((params.index_folder / holdout.FILE).read_text())["videos_by_category"]
    assert all(set(counts) == {"train", "val"} for counts in listed.values())


def test_who_chooses_does_not_read_it(own):
    """Linking is chosen on an index that is made without test, so that not even its frames are opened."""
    shutil.rmtree(own / "JPEGImages")
    params = load_params(own.parent.parent / "params.yaml", ["holdout.fraction=0.4"])
    with pytest.raises(UserError, match="JPEGImages"):
        build.build(params)
    build.build(params, test=False)
    assert list(read_facts(params)["splits"]) == ["train", "val"]


def test_it_is_imported_from_one_s_own_files_but_not_from_youtube_vis(own, tmp_path):
    """Here test has instances, so that only the data set's name decides."""
    shutil.copytree(own.parent, tmp_path / "given")
    for dataset, splits in (("youtube-vis-2021", ["train", "val"]), ("mine", ["test", "train", "val"])):
        params = load_params(own.parent.parent / "params.yaml", [f"dataset={dataset}", "sources.mine.archives=[]"])
        given = [ArchiveSettings(location=str(tmp_path / "given"))]
        assert place.put_in_place(params, given=given)
        assert sorted(folder.name for folder in params.dataset_folder.iterdir()) == splits
        assert not place.put_in_place(params, given=given), "all of it is there"
    assert read_split(params.dataset_folder / "test").digest == read_split(own).digest
    # Without files that are given now, a lacking test split is not searched for in the sources again.
    shutil.rmtree(params.dataset_folder / "test")
    params = load_params(own.parent.parent / "params.yaml", ["dataset=mine", "sources.mine.archives=[{location: nowhere}]"])
    assert not place.put_in_place(params)
