"""Categories of two data sets mapped by name, and results renumbered accordingly."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from effvis.data.dataset import Category
from effvis.errors import UserError
from pipeline.categories import main
from pipeline.datasets.categories import mapping

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"
OLD = {1: "person", 2: "giant_panda", 6: "sedan", 7: "ape"}
NEW = {1: "car", 2: "Giant Panda", 3: "person", 9: "whale"}


def categories(names):
    return [Category(number, name) for number, name in names.items()]


@pytest.fixture
def project(tmp_path, monkeypatch):
    shutil.copytree(PROFILES, tmp_path / "experiments" / "profiles")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "laptop", "dataset": "data/youtube-vis-2019"}))
    for name, listed in (("youtube-vis-2019", OLD), ("youtube-vis-2021", NEW)):
        file = tmp_path / "data" / name / "train" / "instances.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"categories": [{"id": number, "name": text} for number, text in listed.items()]}))
    results = [{"video_id": 5, "category_id": number, "score": 0.5, "segmentations": [None]} for number in (7, 6, 2, 1)]
    (tmp_path / "results.json").write_text(json.dumps(results))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_decide_not_numbers_or_places():
    assert mapping(categories(OLD), categories(NEW), {}) == {1: 3, 2: 2}
    assert mapping(categories(OLD), categories(NEW), {"Sedan": "car"}) == {1: 3, 2: 2, 6: 1}
    assert mapping(categories(NEW), categories(OLD), {}) == {2: 2, 3: 1}


@pytest.mark.parametrize("same, problem", [
    ({"tank": "car"}, "tank: is no category"), ({"sedan": "tank"}, "tank: is no category"),
    ({"ape": "person"}, "ape: another category is mapped to the same one")])
def test_names_that_are_the_same_of_nothing(same, problem):
    with pytest.raises(UserError, match=problem):
        mapping(categories(OLD), categories(NEW), same)


def test_results_of_one_data_set_become_those_of_another(project, capsys):
    assert main(["youtube-vis-2019", "youtube-vis-2021", "--same", "sedan=car", "--results", "results.json",
                 "--out", "new.json"]) == 0
    assert [(r["category_id"], r["video_id"], r["score"]) for r in json.loads((project / "new.json").read_text())] == [
        (1, 5, 0.5), (2, 5, 0.5), (3, 5, 0.5)]
    printed = capsys.readouterr()
    lines = [line.split(maxsplit=3) for line in printed.out.splitlines()]
    assert lines == [["1", "person", "3", "person"], ["2", "giant_panda", "2", "Giant Panda"], ["6", "sedan", "1", "car"],
                     ["7", "ape", "-"]]
    assert "3 of 4 are in both; only TO has whale" in printed.err and "new.json: 3 of 4 results" in printed.err


def test_annotation_files_do_as_well(project, capsys):
    old, new = (f"data/youtube-vis-{year}/train/instances.json" for year in (2019, 2021))
    assert main([old, new]) == 0
    assert "2 of 4 are in both" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, problem", [
    (["youtube-vis-2019", "ovis"], "ovis: there are no annotations of train"),
    (["youtube-vis-2019", "none.json"], "none.json: .*cannot be read"),
    (["youtube-vis-2019", "results.json"], r"results.json: \(top\): is no JSON object. Give annotations"),
    (["youtube-vis-2019", "youtube-vis-2021", "--same", "car"], "is no pair of names"),
    (["youtube-vis-2019", "youtube-vis-2021", "--results", "results.json"], "goes with --out"),
    (["youtube-vis-2019", "youtube-vis-2021", "--results", "results.json", "--out", "nowhere/new.json"], "is in no folder"),
    (["youtube-vis-2021", "youtube-vis-2019", "--results", "results.json", "--out", "new.json"],
     r"results.json: \[0\].category_id: 7 is no category of FROM"),
])
def test_mistakes(project, arguments, problem):
    with pytest.raises(UserError, match=problem):
        main(arguments)
    assert not (project / "new.json").exists()
