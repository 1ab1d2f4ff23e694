"""pipeline.predict and pipeline.export: the model that they choose, and the files that they write."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.models import noise, put_frames
from support.queryinst import tiny_queryinst
from support.stored import evaluate

import effvis
from effvis.data.dataset import Category, DatasetIndex
from effvis.data.masks import decode, encode
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from effvis.methods import build_model
from effvis.predictor import Predictor, TrackedVideo, Tracklet
from effvis.queryinst.config import QueryInstInference
from effvis.video import BrokenVideo, UntilBroken, open_video, writing_video
from pipeline import export, import_coco, import_masks, predict
from pipeline.grid import starts
from pipeline.grid.rows import find_evaluation
from pipeline.indexing.read import load_index
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params

CHECKOUT = Path(effvis.__file__).resolve().parents[1]
VISTR_ROW = "table1d:T=18 VisTR"
# Random weights find something everywhere.
EVERYTHING = {"presence_threshold": 0.0, "handcraft": {"new_tracklet_below": -100, "score_threshold": 0.0}}


def put_run(project, row=None, change=lambda model: model):
    """Stores a finished run with random weights, changed if wanted; returns its specification."""
    params = load_params(project / "params.yaml")
    spec = find_evaluation(params, row)
    torch.manual_seed(0)
    store = RunStore(params.runs_dir)
    store.begin(spec.train.key, spec.train.describe())
    store.finish(spec.train.key, change(build_model(spec.train.model)).state_dict(), {"steps": 3})
    return params, spec


def seeing(model):
    """Gives a fresh network, whose masks are empty, masks that are full of holes, differ and overlap."""
    for head in model.mask_heads:
        torch.nn.init.normal_(head.logits.weight, std=100)
        torch.nn.init.zeros_(head.logits.bias)
    return model


@pytest.fixture
def video(tmp_path):
    """A folder of seven frames of odd size."""
    return put_frames(tmp_path / "clip", noise(7, 41, 57))


def run_predict(video, out, *arguments):
    """The results with the model that the arguments name or, without one, the headline run."""
    chosen = [] if {"--model", "--row"} & set(arguments) else ["--model", "headline"]
    assert predict.main([str(video), "--out", str(out), "--score", "0", *chosen, *map(str, arguments)]) == 0
    return json.loads((out / f"{video.stem}_results.json").read_text())


def test_results_table_and_overlay_tell_the_same(tiny_project, video, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    params, spec = put_run(project)
    results = run_predict(video, tmp_path / "out", "--params", project / "params.yaml", "--folder-fps", 10)
    said = capsys.readouterr()
    assert f"the headline run, run {spec.train.key}" in said.err and "circle" in said.err
    rows = list(csv.DictReader((tmp_path / "out" / "clip_tracklets.csv").open()))
    assert len(results) == 4 and len(rows) == sum(rle is not None for result in results for rle in result["segmentations"])
    names = {category.id: category.name for category in load_index(params, "val").categories}
    for row in rows:
        result = results[int(row["tracklet"]) - 1]
        mask = decode(result["segmentations"][int(row["frame"])])
        assert mask.shape == (41, 57) and mask.sum() == int(row["area"])
        assert row["category"] == names[result["category_id"]]
        assert float(row["score"]) == pytest.approx(result["score"], abs=1e-4)
        assert float(row["seconds"]) == pytest.approx(int(row["frame"]) / 10, abs=1e-3)
        if mask.any():
            assert [int(row["x0"]), int(row["y1"])] == [np.nonzero(mask)[1].min(), np.nonzero(mask)[0].max() + 1]
    overlay = open_video(tmp_path / "out" / "clip_overlay.mp4")
    assert (overlay.length, overlay.fps) == (7, 10.0)
    assert (overlay.height, overlay.width) == (41 * 9 + 1, 57 * 9 + 1), "nine times as large, with even sides"


def test_a_video_file_at_a_lower_frame_rate(tiny_project, tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    put_run(project)
    with writing_video(tmp_path / "film.mp4", height=40, width=56, fps=12) as write:
        for frame in noise(9, 40, 56):
            write(frame)
    results = run_predict(tmp_path / "film.mp4", tmp_path, "--params", project / "params.yaml", "--fps", 6, "--scale", 1)
    assert {len(result["segmentations"]) for result in results} == {5}
    overlay = open_video(tmp_path / "film_overlay.mp4")
    assert (overlay.length, overlay.fps, overlay.width) == (5, 6.0, 56)
    assert (tmp_path / "film.mp4").is_file()


@pytest.mark.parametrize("row", [None, VISTR_ROW], ids=["efficientvis", "vistr"])
def test_a_run_an_exported_model_and_python_give_the_same(tiny_project, video, tmp_path, row):
    project = tiny_project(pretrain={"source": "none"}, vistr={"pretrain": {"source": "none"}}, inference=EVERYTHING)
    params, spec = put_run(project, row)
    common = ["--params", project / "params.yaml", "--no-overlay"]
    by_key = run_predict(video, tmp_path / "key", *common, "--model", spec.train.key)
    by_folder = run_predict(video, tmp_path / "folder", *common, "--model", params.runs_dir / spec.train.key)
    by_row = run_predict(video, tmp_path / "row", *common, *(["--row", row] if row else []))
    model = tmp_path / "model"
    assert export.main(["--params", str(project / "params.yaml"), "--model", spec.train.key, "--out", str(model)]) == 0
    exported = run_predict(video, tmp_path / "exported", "--no-overlay", "--params", "/absent.yaml", "--model", model)
    in_python = effvis.load(model).track(open_video(video).frames(), minimum_score=0.0).results()
    assert by_key and by_key == by_folder == by_row == exported == in_python


def test_an_export_tells_labels_data_code_and_metrics(tiny_project, tmp_path):
    project = tiny_project(pretrain={"source": "none"})
    params, spec = put_run(project)
    evaluate(params, spec, ap=0.125)
    assert export.main(["--params", str(project / "params.yaml"), "--out", str(tmp_path / "model")]) == 0
    config = yaml.safe_load((tmp_path / "model" / "config.yaml").read_text())
    index: DatasetIndex = load_index(params, "train")
    assert config["labels"] == [{"id": category.id, "name": category.name} for category in index.categories]
    assert config["input_size"] == [32, 48] and config["inference"] == spec.inference.model_dump(mode="json")
    provenance = config["provenance"]
    assert provenance["run"] == spec.train.key and provenance["code_digest"] == spec.train.code_digest
    assert provenance["dataset"] == {"name": "shapes-vis", "digest": index.digest}
    assert provenance["metrics"]["AP"] == 0.125 and provenance["evaluation"] == spec.key


def test_linking_by_hand_is_as_it_was_evaluated(tiny_project, tmp_path):
    project = tiny_project(vistr={"pretrain": {"source": "none"}}, inference={"handcraft": {"new_tracklet_below": 0.7}})
    put_run(project, VISTR_ROW)
    assert export.main(["--params", str(project / "params.yaml"), "--row", VISTR_ROW, "--out", str(tmp_path / "model")]) == 0
    loaded = effvis.load(tmp_path / "model")
    assert loaded.inference.handcraft.new_tracklet_below == 0.7 and loaded.inference.linking == "hand-craft"


def test_without_a_trained_run_the_weights_that_come_with_the_project_are_taken(video, tmp_path, capsys):
    elsewhere = ["-S", f"runs_dir={tmp_path / 'runs'}", "-S", f"data_dir={tmp_path / 'data'}", "-S", "pretrain.dataset=own",
                 "-S", "model.mask_query=refined", "-S", "input_size=[64, 96]"]
    results = run_predict(video, tmp_path, "--params", CHECKOUT / "params.yaml", *elsewhere, "--no-overlay")
    assert "comes with the project" in capsys.readouterr().err
    fast = run_predict(video, tmp_path / "fast", "--params", CHECKOUT / "params.yaml", *elsewhere, "--no-overlay", "--fast")
    assert [one["score"] for one in fast] == pytest.approx([one["score"] for one in results], abs=1e-3)
    model = tmp_path / "model"
    assert export.main(["--params", str(CHECKOUT / "params.yaml"), *elsewhere, "--out", str(model)]) == 0
    provenance = yaml.safe_load((model / "config.yaml").read_text())["provenance"]
    facts = yaml.safe_load((starts.FOLDER / f"{provenance['shipped']}.yaml").read_text())
    assert [category.name for category in effvis.load(model).categories] == facts["dataset"]["shapes"]["categories"]
    assert provenance["code_digest"] == facts["code_digest"]


@pytest.fixture
def small(tmp_path):
    """A folder of seven frames of 48x64, whose numbers begin at 3."""
    (tmp_path / "small").mkdir()
    for number, frame in enumerate(noise(7, 48, 64), 3):
        Image.fromarray(frame).save(tmp_path / "small" / f"{number:06d}.png")
    return tmp_path / "small"


def imported_tracks(folder):
    """[(category, {frame: mask})] of an imported video, and the names of its frames."""
    index = read_split(folder)
    (video,) = index.videos
    return [(index.categories[track.label].name, {f: decode(rle) for f, rle in enumerate(track.rles) if rle})
            for track in index.tracks], video.file_names


def assert_same_tracks(found, expected):
    """Both are [(category, {frame: mask})], in any order."""
    def key(track):
        return track[0], sorted((frame, mask.tobytes()) for frame, mask in track[1].items())

    assert sorted(map(key, found)) == sorted(map(key, expected))


def test_coco_is_read_back_by_the_importer(tiny_project, small, tmp_path):
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    params, _ = put_run(project, change=seeing)
    out = tmp_path / "out"
    results = run_predict(small, out, "--params", project / "params.yaml", "--no-overlay", "--format", "coco")
    assert sorted(file.name for file in out.iterdir()) == ["small_coco.json", "small_results.json", "small_tracklets.csv"]
    assert import_coco.main([str(small), str(out / "small_coco.json"), "--out", str(tmp_path / "set")]) == 0
    names = {category.id: category.name for category in load_index(params, "val").categories}
    expected = [(names[result["category_id"]], {frame: decode(rle) for frame, rle in enumerate(result["segmentations"])
                                                if rle is not None and decode(rle).any()}) for result in results]
    found, frames = imported_tracks(tmp_path / "set" / "train")
    assert len(expected) == 4 and len(frames) == 7
    assert_same_tracks(found, expected)


def test_mots_is_read_back_by_the_importer_where_the_higher_score_has_won(tiny_project, small, tmp_path):
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    params, _ = put_run(project, change=seeing)
    results = run_predict(small, tmp_path / "out", "--params", project / "params.yaml", "--no-overlay", "--format", "mots")
    shutil.copytree(small, tmp_path / "mots" / "images" / "small")
    (tmp_path / "mots" / "instances_txt").mkdir()
    shutil.copy(tmp_path / "out" / "small_mots.txt", tmp_path / "mots" / "instances_txt" / "small.txt")
    classes = tmp_path / "out" / "small_mots_classes.yaml"
    assert import_masks.main([str(tmp_path / "mots"), "--layout", "kitti-mots", "--categories", str(classes),
                              "--out", str(tmp_path / "set")]) == 0

    names = {category.id: category.name for category in load_index(params, "val").categories}
    owner = np.full((7, 48, 64), -1)
    for place in sorted(range(len(results)), key=lambda place: results[place]["score"]):
        for frame, rle in enumerate(results[place]["segmentations"]):
            if rle is not None:
                owner[frame][decode(rle)] = place
    expected = [(names[result["category_id"]], {frame: owner[frame] == place for frame in range(7)
                                                if (owner[frame] == place).any()}) for place, result in enumerate(results)]
    found, frames = imported_tracks(tmp_path / "set" / "train")
    assert len(frames) == 7 and sum(len(masks) for _, masks in found) > 7
    assert_same_tracks(found, [track for track in expected if track[1]])


def test_the_frames_of_a_video_file_go_with_its_coco_and_mots(tiny_project, tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    put_run(project, change=seeing)
    with writing_video(tmp_path / "film.mp4", height=48, width=64, fps=12) as write:
        for frame in noise(9, 48, 64):
            write(frame)
    out = tmp_path / "out"
    given = ["--params", project / "params.yaml", "--no-overlay", "--fps", 6, "--frames", "--format", "mots,coco"]
    results = run_predict(tmp_path / "film.mp4", out, *given)
    assert sorted(file.name for file in out.iterdir()) == [
        "film_coco.json", "film_frames", "film_mots.txt", "film_mots_classes.yaml", "film_results.json", "film_tracklets.csv"]
    assert [file.name for file in sorted((out / "film_frames").iterdir())] == [f"{number:05d}.jpg" for number in range(5)]
    assert import_coco.main([str(out / "film_frames"), str(out / "film_coco.json"), "--out", str(tmp_path / "set")]) == 0
    assert len(imported_tracks(tmp_path / "set" / "train")[0]) == len(results)
    assert {line.split()[0] for line in (out / "film_mots.txt").read_text().splitlines()} <= {str(n) for n in range(5)}
    with pytest.raises(UserError, match="--frames"):
        run_predict(out / "film_frames", out, *given)


def test_classes_and_score_act_on_all_files_alike_and_keep_colours(tiny_project, small, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    params, _ = put_run(project, change=seeing)
    common = ["--params", project / "params.yaml", "--model", "headline", "--format", "mots", "--format", "coco"]
    everything = run_predict(small, tmp_path / "all", *common)
    names = {category.id: category.name for category in load_index(params, "val").categories}
    best = max(everything, key=lambda result: result["score"])
    worst_class = names[min(everything, key=lambda result: result["score"])["category_id"]]
    other = next(name for name in names.values() if name not in {names[one["category_id"]] for one in everything})
    for chosen, arguments in (
        ([best], ["--score", best["score"]]),
        ([one for one in everything if names[one["category_id"]] == worst_class], ["--classes", f"{worst_class}, {other}"]),
        ([], ["--classes", other]),
    ):
        out = tmp_path / arguments[-1] if isinstance(arguments[-1], str) else tmp_path / "best"
        assert predict.main(list(map(str, [small, "--out", out, "--score", "0", *common, *arguments]))) == 0
        assert json.loads((out / "small_results.json").read_text()) == chosen
        rows = list(csv.DictReader((out / "small_tracklets.csv").open()))
        assert {int(row["tracklet"]) for row in rows} == set(range(1, len(chosen) + 1))
        content = json.loads((out / "small_coco.json").read_text())
        assert {one["track_id"] for one in content["annotations"]} == set(range(1, len(chosen) + 1))
        assert len(content["images"]) == 7 and len(content["categories"]) == len(names)
        objects = {int(line.split()[1]) % 1000 for line in (out / "small_mots.txt").read_text().splitlines()}
        assert objects <= set(range(1, len(chosen) + 1)) and bool(objects) == bool(chosen)
        assert f"{len(chosen)} tracklets" in capsys.readouterr().out
        assert open_video(out / "small_overlay.mp4").length == 7


def test_an_object_is_drawn_in_one_colour_whatever_else_is_left_out(small, tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    masks = {3: (slice(4, 20), slice(4, 20)), 7: (slice(24, 40), slice(30, 50))}

    def drawn(kept):
        tracklets = []
        for number, rank in enumerate(kept, 1):
            mask = np.zeros((48, 64), dtype=bool)
            mask[masks[rank]] = True
            rles = {frame: encode(mask) for frame in (1, 2, 5)}
            tracklets.append(Tracklet(number, rank, Category(1, ""), 0.5, rles, {}, {}))
        predict.write_overlay(TrackedVideo(48, 64, 7, tuple(tracklets)), grey, tmp_path / "drawn.mp4", scale=8,
                              told=lambda *_: None)
        return [frame[36 * 8 - 30, 40 * 8].astype(int) for frame in open_video(tmp_path / "drawn.mp4").frames()]

    grey = replace(open_video(small), frames=lambda: iter(np.full((7, 48, 64, 3), 90, np.uint8)))
    both, alone = drawn([3, 7]), drawn([7])
    for frame in (1, 2, 5):
        assert np.abs(both[frame] - alone[frame]).max() <= 3 and np.abs(both[frame] - both[0]).max() > 30
        assert np.abs(both[frame] - both[1]).max() <= 3


@pytest.mark.parametrize("arguments, problem", [
    (["--score", "1.5"], "--score: 1.5 is not a number from 0 to 1"),
    (["--score", "-0.1"], "--score: -0.1 is not a number from 0 to 1"),
    (["--format", "coco,voc"], "--format: there is no format 'voc'; choose from mots, coco"),
])
def test_wrong_options_name_themselves(small, tmp_path, capsys, arguments, problem):
    with pytest.raises(SystemExit) as ended:
        predict.main([str(small), "--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2 and problem in capsys.readouterr().err


def _unfinished(project):
    params, spec = put_run(project)
    (params.runs_dir / spec.train.key / "done.json").unlink()
    return ["--model", spec.train.key]


def _of_other_data(project):
    params, spec = put_run(project)
    file = params.runs_dir / spec.train.key / "config.yaml"
    file.write_text(file.read_text().replace(spec.train.dataset_digest, "0" * 64))
    return ["--model", spec.train.key]


def _unknown_class(project):
    _, spec = put_run(project)
    return ["--model", spec.train.key, "--classes", "circle,circel"]


@pytest.mark.parametrize("arguments, problem", [
    (lambda project: ["--model", "0123456789abcdef"], "0123456789abcdef: is no folder or file of a model and no run's key"),
    (lambda project: ["--model", str(project / "experiments")], "config.yaml.*cannot be read"),
    (lambda project: ["--model", "a", "--row", "b"], "--model.*together with --row"),
    (lambda project: ["--model", "headline"], "no weights that come with the project"),
    (lambda project: ["--sketch"], "--sketch: is for the picture of --strip"),
    (lambda project: ["--row", "table1e:w/ CL"], "this run is not finished"),
    (_unfinished, "this run is not finished"),
    (_of_other_data, "dataset_digest.*not the one that the run was trained on"),
    (_unknown_class, "'circel': the model knows no class of this name. Near it are circle"),
    (lambda project: ["--out", str(project / "params.yaml")], "--out: is a file"),
])
def test_what_cannot_be_done_is_said_before_anything_is_written(tiny_project, video, tmp_path, arguments, problem):
    project = tiny_project(pretrain={"source": "none"})
    given = ["--params", str(project / "params.yaml"), "--no-overlay", "--out", str(tmp_path / "out"), *arguments(project)]
    with pytest.raises(UserError, match=problem):
        predict.main([str(video), *given])
    assert not (tmp_path / "out").exists()


def test_an_overlay_needs_pyav_and_says_so_first(video, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"\[video\]"):
        predict.main([str(video), "--out", str(tmp_path / "out")])


def test_an_export_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export.main(["--params", str(CHECKOUT / "params.yaml"), "--out", str(tmp_path)])


def test_a_video_that_cannot_be_read_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    command = [sys.executable, "-m", "pipeline.predict", str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "clip.mp4" in line


def test_of_a_folder_that_breaks_in_the_middle_what_came_before_is_written(tiny_project, video, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    project = tiny_project(pretrain={"source": "none"}, inference=EVERYTHING)
    put_run(project)
    given = [str(video), "--score", "0", "--params", str(project / "params.yaml"), "--scale", "1", "--model", "headline"]
    fifth = video / "5.png"
    fifth.write_bytes(fifth.read_bytes()[:500])
    assert predict.main([*given, "--out", str(tmp_path / "broken")]) == 3
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert "broke after frame 4" in warning and str(fifth) in warning
    for number in (5, 6):
        (video / f"{number}.png").unlink()
    assert predict.main([*given, "--out", str(tmp_path / "short")]) == 0
    assert open_video(tmp_path / "broken" / "clip_overlay.mp4").length == 5
    for name in ("clip_results.json", "clip_tracklets.csv"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "short" / name).read_bytes()


def test_a_file_that_is_cut_off_ends_with_a_warning_and_exit_code_3(tmp_path):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    from support.footage import cut, film, pictures

    file = cut(film(tmp_path / "clip.mkv", pictures(40, 64, 96)), 0.5)
    command = [sys.executable, "-m", "pipeline.predict", str(file), "--out", str(tmp_path / "out"), "--fps", "5",
               "-S", f"runs_dir={tmp_path}", "-S", f"data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    (warning,) = [line for line in done.stderr.splitlines() if "warning" in line]
    number = int(re.search(r"broke after frame (\d+)", warning)[1])
    assert 8 < number < 32 and f"{number // 2 + 1} frames of 96x64" in done.stdout
    assert (tmp_path / "out" / "clip_overlay.mp4").is_file() and (tmp_path / "out" / "clip_results.json").is_file()


def test_python_raises_where_a_video_breaks_unless_it_is_read_until_there(video):
    (video / "3.png").write_bytes(b"")
    model = Predictor(tiny_queryinst(), input_size=(32, 48), inference=QueryInstInference(presence_threshold=0),
                                       categories=[Category(number, str(number)) for number in range(3)])
    with pytest.raises(BrokenVideo, match="3.png"):
        model.track(open_video(video).frames())
    frames = UntilBroken(open_video(video).frames())
    assert model.track(frames).length == 3 and frames.error.frame == 3


def test_frames_that_lack_are_told(tiny_project, tmp_path, capsys):
    pytest.importorskip("av", reason="PyAV (the extra video) is not installed")
    from support.footage import film, pictures, shifted

    project = tiny_project(pretrain={"source": "none"})
    put_run(project)
    whole = film(tmp_path / "whole.mp4", pictures(20, 64, 64), codec="libx264", pixels="yuv420p")
    file = shifted(whole, tmp_path / "clip.mp4", -1.0)  # trimmed by its edit list: the index counts all frames
    run_predict(file, tmp_path / "out", "--params", project / "params.yaml", "--no-overlay")
    assert "clip.mp4 should have 20 frames, of which 10 came" in capsys.readouterr().err


def test_a_real_video(tmp_path):
    sequences = CHECKOUT.parent / "shared" / "real" / "davis-mini" / "val" / "JPEGImages"
    if not sequences.is_dir():
        pytest.skip(f"no real videos in {sequences}")
    folder = sorted(sequences.iterdir())[0]
    assert predict.main([str(folder), "--out", str(tmp_path), "--params", str(CHECKOUT / "params.yaml"), "--no-overlay",
                         "--score", "0", "-S", f"runs_dir={tmp_path}", "-S", f"data_dir={tmp_path}"]) == 0
    results = json.loads((tmp_path / f"{folder.name}_results.json").read_text())
    assert results and {len(result["segmentations"]) for result in results} == {len(list(folder.glob("*.jpg")))}
