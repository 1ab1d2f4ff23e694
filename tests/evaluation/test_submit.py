"""Results for a competition's server, and its scores: they are checked, complete, and never mixed with our own numbers."""

import csv
import io
import json
import math
import zipfile

import pytest
from support.project import put_evaluation
from support.video_ap import box, text_rle

from effvis.data.dataset import Category, Video
from effvis.errors import UserError
from effvis.evaluation.submission import check_submission
from pipeline import submit
from pipeline.grid.rows import load_table
from pipeline.mlflow_view.records import records
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.tables import server_scores
from pipeline.tables.latex import latex
from pipeline.tables.markdown import markdown
from pipeline.tables.shown_in import table_cells
from pipeline.tables.summary import summary
from pipeline.tables.write import write_table

VIDEOS = (Video(1, 20, 30, 6.0, ("1/0.jpg", "1/1.jpg")), Video(2, 20, 30, 6.0, ("2/0.jpg", "2/1.jpg")))
CATEGORIES = (Category(1, "cat"), Category(5, "dog"))
SCORES = "segm_mAP: 0.351\nAP50: 0.5\nAP_75: 0.25\nAR@1: 0.375\nAR10: -1\nduration: 12.5\n"


def mask(height=20, width=30):
    return box(2, 2, 9, 9, height, width)


def good_results():
    return [{"video_id": video, "category_id": category, "score": 0.5, "segmentations": [mask(), None]}
            for video, category in ((1, 5), (1, 1), (2, 1))]


def check(results, **options):
    return check_submission(results, VIDEOS, CATEGORIES, where="val", **options)


class TestChecks:
    def test_good_results_are_counted(self):
        assert check(good_results()) == 3

    @pytest.mark.parametrize("change, key", [
        (lambda one: one.update(video_id=3), "results[1].video_id"),
        (lambda one: one.update(category_id=2), "category_id"),
        (lambda one: one.update(score=math.inf), "results[1].score"),
        (lambda one: one.update(score=math.nan), "results[1].score"),
        (lambda one: one.update(score=None), "results[1].score"),
        (lambda one: one.update(segmentations=[mask()]), "results[1].segmentations"),
        (lambda one: one.update(segmentations=[None, mask(), None]), "results[1].segmentations"),
        (lambda one: one.update(segmentations=[None, mask(30, 20)]), "results[1].segmentations[1].size"),
        (lambda one: one["segmentations"][0].update(counts="~"), "results[1].segmentations[0]"),
        (lambda one: one["segmentations"][0].update(size=[20, 30], counts=mask(20, 29)["counts"]),
         "results[1].segmentations[0]"),
        (lambda one: one["segmentations"][0].update(counts=[600]), "results[1].segmentations[0].counts"),
    ])
    def test_what_the_server_would_choke_on_is_named(self, change, key):
        results = good_results()
        change(results[1])
        with pytest.raises(UserError) as error:
            check(results)
        assert (error.value.where, error.value.key) == ("results", key)
        assert error.value.remedy

    def test_every_video_must_have_a_result(self):
        with pytest.raises(UserError, match="1 of 2 videos have no result: 2"):
            check(good_results()[:2])
        assert check(good_results()[:2], allow_missing=True) == 2

    def test_no_results(self):
        with pytest.raises(UserError, match="is an empty list"):
            check([])


class TestScores:
    def test_names_as_servers_write_them(self, tmp_path):
        (tmp_path / "scores.txt").write_text(SCORES)
        expected = {"AP": 0.351, "AP50": 0.5, "AP75": 0.25, "AR1": 0.375, "AR10": -1}
        assert server_scores.read(tmp_path / "scores.txt") == expected

    def test_percent(self, tmp_path):
        (tmp_path / "scores.txt").write_text("mAP: 35.5\nAP_large:  0.5\nAR10: -1\n")
        assert server_scores.read(tmp_path / "scores.txt") == {"AP": 0.355, "APl": 0.005, "AR10": -1}

    @pytest.mark.parametrize("text, key", [
        ("AP50: 0.5\n", "AP"), ("mAP 0.5\n", "AP"), ("AP: 0.5\nmAP: 0.5\n", "line 2"), ("AP: nan\n", "line 1"),
        ("AP: 101\n", "line 1"), ("AP: -0.5\n", "line 1"), ("AP: high\n", "line 1")])
    def test_what_is_no_score_is_named(self, tmp_path, text, key):
        (tmp_path / "scores.txt").write_text(text)
        with pytest.raises(UserError) as error:
            server_scores.read(tmp_path / "scores.txt")
        assert (error.value.where, error.value.key) == (str(tmp_path / "scores.txt"), key)

    def test_no_text(self, tmp_path):
        (tmp_path / "scores.txt").write_bytes(b"\xff\xfe")
        for file in (tmp_path / "scores.txt", tmp_path / "absent.txt"):
            with pytest.raises(UserError, match="cannot be read"):
                server_scores.read(file)


@pytest.fixture
def project(tiny_project):
    """(params, the evaluations of seeds 0 and 1 of a row of table 1e) of a project that asks for two seeds."""
    params = load_params(tiny_project(seeds=2, tables=["table1e"]) / "params.yaml")
    return params, load_table(params, "table1e").rows[1].evaluations


def results_of(params):
    """A result with one mask for every video of the validation split."""
    content = json.loads((params.dataset_folder / "val" / "instances.json").read_text())
    return [{"video_id": video["id"], "category_id": content["categories"][0]["id"], "score": 0.5,
             "segmentations": [box(0, 0, 5, 5, video["height"], video["width"])] + [None] * (video["length"] - 1)}
            for video in content["videos"]]


def command(params, *arguments):
    return submit.main(["--params", str(params.root / "params.yaml"), *map(str, arguments)])


def test_the_zip_holds_the_results_of_the_row_and_is_always_the_same(project, tmp_path, capsys):
    params, (spec, _) = project
    put_evaluation(params, spec, 0.25)
    folder = RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key)
    report = json.loads((folder / "metrics.json").read_text())
    results = results_of(params)
    RunStore(params.runs_dir).write_evaluation(spec.train.key, spec.key, results, report)
    files = [tmp_path / "a.zip", tmp_path / "b" / "b.zip"]
    for file in files:
        assert command(params, "--row", "table1e:w/ CL", "--out", file) == 0
    assert f"{len(results)} results" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
    with zipfile.ZipFile(files[0]) as archive:
        assert archive.namelist() == ["results.json"]
        assert json.loads(archive.read("results.json")) == results


def test_nothing_is_written_where_something_is_wrong(project, tmp_path):
    params, _ = project
    row = ["--row", "table1e:w/ CL", "--out", tmp_path / "out.zip"]
    with pytest.raises(UserError, match="not evaluated here"):
        command(params, *row)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(results_of(params)[:-1]))
    with pytest.raises(UserError, match="1 of 3 videos have no result") as error:
        command(params, *row, "--results", own)
    assert error.value.where == str(own)
    assert not (tmp_path / "out.zip").exists()
    assert command(params, *row, "--results", own, "--allow-missing") == 0


def test_the_servers_scores_stand_beside_ours_and_are_not_mixed(project, tmp_path, monkeypatch):
    """AP is 25 and 27 here, 35.1 at the server, which scored one seed."""
    params, specs = project
    monkeypatch.setattr("pipeline.mlflow_view.sync.Tracker._work", lambda self: setattr(self, "_complete", True))
    for spec, ap in zip(specs, (0.25, 0.27), strict=True):
        put_evaluation(params, spec, ap)
    without = summary(params, load_table(params, "table1e"))
    write_table(params.results_dir, without)
    scores = tmp_path / "scores.txt"
    scores.write_text(SCORES)
    assert command(params, "--row", "table1e:w/ CL", "--scores", scores) == 0

    table = json.loads((params.results_dir / "table1e.json").read_text())
    other, row = table["rows"]
    assert row.pop("server") == {name: {"mean": mean, "std": None, "n": 1} for name, mean in
                                 {"AP": 35.1, "AP50": 50.0, "AP75": 25.0, "AR1": 37.5}.items()}
    assert "server" not in other and table == without.model_dump(mode="json"), "our own numbers stay as they are"
    assert row["measured"]["AP"] == {"mean": 26.0, "std": 1.4142, "n": 2, "error": 1.0, "covers": "seeds"}
    assert "server" not in (params.results_dir / "metrics" / "table1e.json").read_text()

    table = summary(params, load_table(params, "table1e"))
    ours, servers = markdown(table).split("Scored by the competition's server")
    assert "26.0 ± 1.0 (seeds)" in ours and "35.1" not in ours
    assert "| w/ CL | 35.1 | 50.0 | 25.0 | 37.5 | – | 1 |" in servers and "26.0" not in servers
    assert r"& server, n=1 & 35.1 & 50.0 & 25.0 & 37.5 & -- \\" in latex(table)
    lines = list(csv.DictReader(io.StringIO((params.results_dir / "table1e.csv").read_text())))
    [line] = [line for line in lines if (line["row"], line["metric"]) == ("w/ CL", "AP")]
    assert (line["mean"], line["n"], line["server_mean"], line["server_n"]) == ("26.0", "2", "35.1", "1")
    assert "server" not in latex(without) + markdown(without)


def test_the_servers_scores_are_records_for_mlflow(project, tmp_path):
    params, (spec, other) = project
    store = RunStore(params.runs_dir)
    for one in (spec, other):
        store.begin(one.train.key, one.train.describe())
        report = {"metrics": {"AP": 0.25}, "per_category": {}, "seconds": 1.0, "frames_per_second": 1.0,
                  "inference": one.inference.model_dump(mode="json")}
        store.write_evaluation(one.train.key, one.key, [], report)
    server_scores.keep(params, spec, {"AP": 0.351, "AR10": -1})
    found = {record.key: record for record in records(params, table_cells(params))}
    ours = {"AP": 0.25, "evaluate_seconds": 1.0, "frames_per_second": 1.0}
    assert (found[spec.key].summary, found[other.key].summary) == (ours | {"server.AP": 0.351}, ours)
    assert [file.name for file in found[spec.key].artifacts["server"]] == [f"{spec.key}.json"]
    assert not found[spec.train.key].summary, "the training shows our own AP alone"


def test_other_scores_for_the_same_results_are_refused(project, tmp_path):
    params, (spec, _) = project
    file = server_scores.keep(params, spec, {"AP": 0.25})
    assert server_scores.keep(params, spec, {"AP": 0.25}) == file
    with pytest.raises(UserError, match="something else") as error:
        server_scores.keep(params, spec, {"AP": 0.26})
    assert error.value.where == str(file)
    file.write_text("{")
    with pytest.raises(UserError, match="Restore it"):
        server_scores.find_scores(params, spec.key)


def test_scores_without_an_evaluation(project, tmp_path):
    params, (spec, _) = project
    (tmp_path / "scores.txt").write_text(SCORES)
    with pytest.raises(UserError, match="no evaluation"):
        submit.take_back(params, spec, tmp_path / "scores.txt")
    assert server_scores.find_scores(params, spec.key) is None


def test_masks_of_single_pixels_pass(tmp_path):
    """The last pixel of a frame ends an RLE without a run of background."""
    import numpy as np

    pixels = np.zeros((20, 30), np.uint8)
    pixels[-1, -1] = 1
    results = good_results()
    results[0]["segmentations"][1] = text_rle(pixels)
    assert check(results) == 3
