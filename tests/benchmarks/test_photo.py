"""The benchmark of photographs: its folds, its IoU, and a run that is continued, on drawn frames and a small network."""

import importlib
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import effvis
from effvis.data import masks
from effvis.errors import UserError

SEQUENCES = ["ant", "bee", "cat", "dog", "eel", "fox"]
SMALL = [argument for setting in (
    "model.backbone=tiny", "model.hidden_dim=16", "model.queries=2", "model.iterations=1", "model.ffn_dim=16",
    "model.dynamic_dim=4", "model.roi_size=4", "model.mask_roi_size=4", "model.mask_convs=1", "input_size=[32,48]",
    "pretrain.train.batch_size=2", "train.batch_size=2", "inference.presence_threshold=0") for argument in ("-S", setting)]


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.photo")


def rectangle(left, right):
    mask_HW = np.zeros((32, 48), bool)
    mask_HW[4:20, left:right] = True
    return mask_HW


@pytest.fixture
def folder(tmp_path):
    """Five sequences to train on and one to validate on, as DAVIS splits them."""
    rng = np.random.default_rng(0)
    for name in SEQUENCES:
        part = tmp_path / "videos" / ("val" if name == "fox" else "train")
        for kind in ("JPEGImages", "Annotations"):
            (part / kind / name).mkdir(parents=True)
        for frame in range(4):
            mask_HW = rectangle(4 + 3 * frame, 20 + 3 * frame)
            pixels = rng.integers(0, 100, (32, 48, 3), dtype=np.uint8) + 120 * mask_HW[..., None].astype(np.uint8)
            Image.fromarray(pixels).save(part / "JPEGImages" / name / f"{frame:05d}.jpg")
            Image.fromarray(mask_HW.astype(np.uint8)).save(part / "Annotations" / name / f"{frame:05d}.png")
    return tmp_path / "videos"


def test_every_sequence_is_scored_once_and_never_trained_on_in_its_fold(benchmark):
    names = [f"{number:02d}" for number in range(15)]
    folds = [benchmark.fold_of(names, number, inner=False) for number in range(5)]
    assert sorted(name for fold in folds for name in fold.scored) == names
    for number, fold in enumerate(folds):
        assert sorted(fold.train + fold.scored) == names and len(fold.scored) == 3
        inner = benchmark.fold_of(names, number, inner=True)
        assert sorted(inner.train + inner.scored) == fold.train and len(inner.scored) == 3


def test_the_iou_of_tracklets_sums_over_frames(benchmark):
    """They share 2 of 6 columns; in a second frame only one of them has 4 columns, in a third none has any."""
    one = [masks.encode(rectangle(2, 6)), None, None]
    other = [masks.encode(rectangle(4, 8)), masks.encode(rectangle(0, 4)), None]
    assert masks.tracklet_iou(one, other) == masks.tracklet_iou(other, one) == pytest.approx(2 / 10)
    assert masks.tracklet_iou([None], [None]) == 0


@pytest.mark.slow
def test_folds_are_continued_where_they_ended(benchmark, folder, tmp_path, capsys):
    out = tmp_path / "folds"
    common = [str(folder), "--out", str(out), "--start", "scratch", "--steps", "2", *SMALL]
    assert benchmark.main([*common, "--fold", "0", "--until", "frames"]) == 0
    first = json.loads((out / "fold-0.json").read_text())
    assert first["scored"] == ["ant", "fox"] and "clips" not in first and set(first["frames"]["iou"]) == {"ant", "fox"}
    capsys.readouterr()
    assert benchmark.main([*common, "--fold", "0", "--fold", "1", "--sketches"]) == 0
    both = json.loads((out / "fold-0.json").read_text())
    assert both["frames"] == first["frames"] and both["clips"]["steps"] == 2
    shown = capsys.readouterr().out
    assert "fold 0, frames" not in shown and "fold 0, clips: ant, fox" in shown and "fold 1, frames: bee" in shown
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    assert {row[0] for row in rows} >= {"0", "1", "mean of 2", "together", "ant", "bee", "fox"}
    mean = next(row for row in rows if row[:2] == ["mean of 2", "clips"])
    folds = [row for row in rows if row[0] in "01" and row[1] == "clips"]
    assert float(mean[-1]) == pytest.approx(np.mean([float(row[-1]) for row in folds]), abs=0.1)
    assert {file.stem for file in out.glob("*.png")} == {"ant", "bee", "fox"}
    with pytest.raises(UserError, match="other settings"):
        benchmark.main([*common, "--fold", "0", "--seed", "3"])


@pytest.mark.slow
def test_a_network_trained_on_all_sequences_becomes_a_model_folder(benchmark, folder, tmp_path):
    out, model = tmp_path / "folds", tmp_path / "model"
    (tmp_path / "about.yaml").write_text("credit: those who drew the rectangles\nlicence: for research use\n")
    common = [str(folder), "--out", str(out), "--start", "scratch", "--steps", "2", *SMALL, "--all"]
    assert benchmark.main([*common, "--until", "frames"]) == 0
    assert benchmark.main([*common, "--export", str(model), "--about", str(tmp_path / "about.yaml")]) == 0
    assert set(json.loads((out / "all.json").read_text())["clips"]) == {"steps", "seconds", "cpu_seconds"}
    trained, loaded = load_file(out / "all-clips.safetensors"), effvis.load(model)
    assert loaded.model.state_dict().keys() == trained.keys()
    for name, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32 and value.equal(trained[name].half().float()), name
    assert [label.name for label in loaded.categories] == ["object"] and loaded.input_size == (32, 48)
    assert loaded.model.config.clip_length == 3 and loaded.inference.presence_threshold == 0
    told = yaml.safe_load((model / "config.yaml").read_text())["provenance"]
    assert told["credit"] == "those who drew the rectangles" and told["licence"] == "for research use"
    assert told["dataset"]["sequences"] == SEQUENCES and told["dataset"]["frames"] == 4 * len(SEQUENCES)
    assert (told["seed"], told["start"], told["folds"]) == (0, "scratch", None) and told["training"]["clips"]["steps"] == 2
    assert told["command"].startswith("python -m benchmarks.photo ") and "--export" in told["command"]
    assert {"date", "packages", "train", "pretrain"} <= told.keys()
    with pytest.raises(UserError, match="exists already"):
        benchmark.main([*common, "--export", str(model)])
    for wrong in ([*common, "--inner"], [*common, "--fold", "0"], [*common, "--export", "new", "--until", "frames"],
                  [str(folder), "--out", str(out), "--export", "new"]):
        with pytest.raises(SystemExit):
            benchmark.main(wrong)


def test_what_is_exported_tells_the_scores_of_folds_of_the_same_settings(benchmark, monkeypatch, tmp_path):
    args = benchmark._parser().parse_args(["videos", "--out", str(tmp_path)])
    monkeypatch.setattr(benchmark, "together", lambda folds, stage: {"AP": float(len(folds))})
    for number in range(5):
        assert benchmark.folds_like(args) is None
        content = {"settings": benchmark.settings_of(args), "clips": {}}
        (tmp_path / f"fold-{number}.json").write_text(json.dumps(content))
    assert benchmark.folds_like(args) == {"AP": 5.0}
    args.seed = 3
    assert benchmark.folds_like(args) is None


def test_bad_input_has_a_remedy(benchmark, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="0 sequences.*at least 5"):
        benchmark.main([str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="no such file"):
        benchmark.main([str(folder), "--out", str(tmp_path / "out"), "--start", "nothing.safetensors", *SMALL])
    with pytest.raises(UserError, match="no package has weights of a tiny"):
        benchmark.main([str(folder), "--out", str(tmp_path / "other"), *SMALL])
