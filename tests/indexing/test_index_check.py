"""pipeline.index --check lists all problems; unchanged files are not read again, and changes are noticed."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from effvis.errors import UserError
from pipeline import index as indexing
from pipeline.indexing import build as build_module
from pipeline.indexing import read as read_module
from pipeline.indexing import stamps
from pipeline.settings.loading import load_params

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"


@pytest.fixture
def project(drawn_index, tmp_path) -> Path:
    """A project whose data set is the user's own folder."""
    for split in ("train", "val"):
        shutil.copytree(drawn_index.images.parent, tmp_path / "own" / split)
    shutil.copytree(PROFILES, tmp_path / "experiments" / "profiles")
    values = {"profile": "laptop", "dataset": "own", "index": {"clip_lengths": [3]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def parameters(project: Path):
    return load_params(project / "params.yaml", [])


def frame_of(project: Path, video: int, frame: int, split: str = "train") -> Path:
    return project / "own" / split / "JPEGImages" / f"{video:05d}" / f"{frame:05d}.jpg"


def edit(project: Path, change, split: str = "train") -> None:
    file = project / "own" / split / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def damage(content: dict) -> None:
    annotations, videos = content["annotations"], content["videos"]
    videos[1]["width"] += 1
    videos[2]["fps"] = 0
    videos[3]["file_names"][2] = "../secret.jpg"
    annotations[0]["category_id"] = 77
    annotations[1]["id"] = annotations[0]["id"]
    first = next(f for f, rle in enumerate(annotations[2]["segmentations"]) if rle)
    annotations[2]["segmentations"][first]["counts"] += "0"
    last = annotations[-1]
    seen = next(f for f, box in enumerate(last["bboxes"]) if box)
    last["bboxes"][seen][0] += 9
    last["bboxes"][next(f for f, box in enumerate(last["bboxes"]) if not box)] = [1, 1, 2, 2]


def test_everything_that_is_wrong_is_listed_at_once(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    edit(project, damage)
    frame_of(project, 0, 3).unlink()
    frame_of(project, 4, 1).write_bytes(frame_of(project, 4, 1).read_bytes()[:200])
    edit(project, lambda content: content["categories"][0].update(name="ellipse"), "val")
    assert indexing.main(["--check", "--json"]) == 2
    found = json.loads(capsys.readouterr().out)["problems"]
    assert all(set(entry) == {"split", "severity", "file", "key", "problem", "remedy"} for entry in found)
    train = {entry["key"]: entry for entry in found if entry["split"] == "train"}
    content = json.loads((project / "own" / "train" / "instances.json").read_text())
    of_wide = [i for i, entry in enumerate(content["annotations"]) if entry["video_id"] == content["videos"][1]["id"]]
    expected = {
        "videos[2].fps": "no frame rate", "videos[3].file_names[2]": "leaves the data set folder",
        "annotations[0].category_id": "not listed", "annotations[1].id": "already taken by annotations[0]",
        "videos[0].file_names[3]": "missing frame file", "videos[4].file_names[1]": "truncated",
        **{f"videos[1].file_names[{f}]": "its video 49x32" for f in range(7)},
        **{f"annotations[{i}].segmentations[{f}]": "wrong size" for i in of_wide
           for f, rle in enumerate(content["annotations"][i]["segmentations"]) if rle},
    }
    for key, problem in expected.items():
        assert problem in train[key]["problem"] and train[key]["severity"] == "error"
    others = [entry for key, entry in train.items() if key not in expected]
    warnings = [entry for entry in others if entry["severity"] == "warning"]
    assert sorted(entry["problem"].split()[0] for entry in warnings) == ["a", "the"]
    assert "lies beside its mask" in warnings[0]["problem"] + warnings[1]["problem"]
    assert all("segmentations" in entry["key"] for entry in others if entry["severity"] == "error")
    assert [entry["problem"] for entry in found if entry["split"] == "val"] == ["not the categories of train, in their order"]
    assert not (project / "data").exists()


def test_a_line_for_each_problem(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert indexing.main(["--check"]) == 0
    told = capsys.readouterr()
    assert told.out == "" and "no problems" in told.err
    frame_of(project, 0, 3).unlink()
    frame_of(project, 1, 3, "val").unlink()
    assert indexing.main(["--check"]) == 2
    told = capsys.readouterr()
    assert told.out.count("\n") == 2 and told.out.count("error: ") == 2 and "2 problems" in told.err
    assert "Restore the file" in told.out


def test_what_bends_the_format_is_told_and_used(project, monkeypatch, capsys):
    def change(content):
        for annotation in content["annotations"]:
            del annotation["iscrowd"]

    monkeypatch.chdir(project)
    assert indexing.main([]) == 0
    digest = capsys.readouterr().err.split("digest ")[1][:12]
    edit(project, change)
    edit(project, lambda content: content.update(annotations=None), "val")
    assert indexing.main([]) == 0
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if line.startswith("warning: ")] == told[:1] and "no iscrowd, taken as 0 (in " in told[0]
    assert f"digest {digest}" in told[1] and "0 instances" in told[2]
    assert indexing.main(["--check"]) == 2 and capsys.readouterr().out.count("warning: ") == 1


@pytest.mark.parametrize(("change", "key"), [
    (lambda folder: shutil.rmtree(folder), "(folder)"),
    (lambda folder: shutil.rmtree(folder / "JPEGImages"), "JPEGImages"),
    (lambda folder: (folder / "instances.json").unlink(), "(folder)"),
    (lambda folder: (folder / "instances.json").write_text("{"), "(top)"),
    (lambda folder: (folder / "instances.json").write_text("{}"), "videos"),
])
def test_what_cannot_be_read_at_all_does_not_hide_the_other_split(project, change, key):
    change(project / "own" / "train")
    frame_of(project, 1, 3, "val").unlink()
    found = build_module.check(parameters(project))
    assert key in [error.key for error in found["train"].errors] and len(found["train"].errors) <= 3
    assert [error.key for error in found["val"].errors] == ["videos[1].file_names[3]"]


def test_a_wrong_list_of_videos_or_categories_is_said_once(project):
    edit(project, lambda content: content.update(categories=[]))
    edit(project, lambda content: content.pop("videos"), "val")
    found = build_module.check(parameters(project))
    assert [error.key for error in found["train"].errors] == ["categories"]
    assert [error.key for error in found["val"].errors] == ["videos"]


def test_options_that_do_not_go_together():
    for words in (["--json"], ["--check", "--anew"], ["--check", "--statistics", "x.html"]):
        with pytest.raises(SystemExit) as caught:
            indexing.main(words)
        assert caught.value.code == 2


@pytest.fixture
def read_frames(monkeypatch) -> list[Path]:
    """The frame files whose content is read."""
    read, bytes_of = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or bytes_of(path))
    return read


def test_what_has_not_changed_is_not_read_again(project, read_frames):
    params = parameters(project)
    assert build_module.build(params)
    digest = read_module.dataset_digest(params)
    assert len(frames_of(read_frames)) == 2 * 35
    read_frames.clear()
    assert not build_module.build(params) and frames_of(read_frames) == []
    assert build_module.build(params, anew=True) and len(frames_of(read_frames)) == 2 * 35
    assert read_module.dataset_digest(params) == digest
    assert not build_module.build(params)


def frames_of(read: list[Path]) -> list[Path]:
    return [path for path in read if path.suffix == ".jpg"]


def test_a_changed_frame_is_noticed_and_read_alone(project, read_frames):
    params = parameters(project)
    build_module.build(params)
    digest, frame = read_module.dataset_digest(params), frame_of(project, 2, 4)
    status = frame.stat()
    content = bytearray(frame.read_bytes())
    content[-3] ^= 1
    frame.write_bytes(content)
    # The new file has the size and the date of the old one.
    os.utime(frame, ns=(status.st_atime_ns, status.st_mtime_ns))
    read_frames.clear()
    assert build_module.build(params) and frames_of(read_frames) == [frame]
    assert read_module.dataset_digest(params) != digest


@pytest.mark.parametrize("change", [
    lambda project: edit(project, lambda content: content["annotations"][0].update(iscrowd=1)),
    lambda project: (project / "data" / "index" / "own" / "train" / "tracks.parquet").write_bytes(b""),
    lambda project: (project / "data" / "index" / "own" / "val" / "clips_T3.parquet").unlink(),
    lambda project: shutil.rmtree(project / "data" / "index"),
    lambda project: (project / "data" / "stamps" / "own" / "train.npz").write_bytes(b"PK"),
    lambda project: shutil.rmtree(project / "data" / "stamps"),
    lambda project: (project / "params.yaml").write_text(
        (project / "params.yaml").read_text().replace("- 3", "- 3\n  - 4")),
])
def test_whatever_else_has_changed_is_indexed_anew(project, change):
    build_module.build(parameters(project))
    change(project)
    params = parameters(project)
    assert build_module.build(params) and not build_module.build(params)
    assert len(read_module.load_index(params, "train").tracks) > 0


def test_frames_are_looked_at_again_where_the_checks_have_changed(project, monkeypatch):
    params = parameters(project)
    build_module.build(params)
    monkeypatch.setattr(stamps, "_code_digest", lambda: "other")
    assert build_module.build(params)


def test_a_frame_that_was_right_is_checked_against_a_new_size(project):
    params = parameters(project)
    build_module.build(params)

    def grow(content):
        content["videos"][0]["width"] += 2
        content["annotations"] = [entry for entry in content["annotations"] if entry["video_id"] != content["videos"][0]["id"]]

    edit(project, grow)
    with pytest.raises(UserError, match="the image is 48x32, its video 50x32"):
        build_module.build(params)


def test_the_statistics_page(project, monkeypatch):
    monkeypatch.chdir(project)
    edit(project, lambda content: content["annotations"][0].update(iscrowd=1))
    assert indexing.main(["--statistics", "pages/own.html"]) == 0
    html = (project / "pages" / "own.html").read_text()
    assert "http" not in html.replace("http://www.w3.org", "") and "<svg" not in html and "data:image/svg+xml" in html
    index = read_module.load_index(parameters(project), "train")
    for category in index.categories:
        assert f"<th>{category.name}</th>" in html
    assert "7 &gt; 3" in html and "(headline run)" in html
    from pipeline.reporting.dataset_page import correspondence, statistics

    found = statistics(index)
    assert found["groups"] == 1 and found["instances"] == len(index.tracks) - 1
    assert found["lengths"] == {7: 5} and (found["shortest"], found["longest"], found["median"]) == (7, 7, 7)
    assert sum(entry["instances"] for entry in found["categories"]) == found["instances"]
    present = sum(int(np.sum(track.present_L)) for track in index.tracks if not track.iscrowd)
    assert sum(entry["present"] for entry in found["categories"]) == present
    assert [row["learned"] for row in correspondence(parameters(project), 7)] == [True]
    assert [row["learned"] for row in correspondence(parameters(project), 3)] == [False]
