"""The data commands: the data sets that they draw or import, and tables that return what was read and checked."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from effvis.data.index import clip_index
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.datasets import place
from pipeline.indexing import build as build_module
from pipeline.indexing import read as read_module
from pipeline.settings.loading import load_params

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"
SHAPES = {"train_videos": 3, "val_videos": 2, "test_videos": 0, "frames": 7, "height": 32, "width": 40, "min_radius": 5,
          "max_radius": 8, "exits": 1.0}


@pytest.fixture
def project(tmp_path) -> Path:
    shutil.copytree(PROFILES, tmp_path / "experiments" / "profiles")
    values = {"profile": "laptop", "dataset": "shapes-vis", "shapes": SHAPES, "index": {"clip_lengths": [1, 3]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def parameters(project: Path, *overrides: str):
    return load_params(project / "params.yaml", overrides)


def prepare(project: Path, *overrides: str):
    params = parameters(project, *overrides)
    place.put_in_place(params)
    build_module.build(params)
    return params


def move_away(project: Path, name: str = "own") -> str:
    """Makes the drawn data set the user's own folder."""
    place.put_in_place(parameters(project))
    (project / "data" / "shapes-vis").rename(project / name)
    return f"dataset={name}"


def assert_same_index(found, expected) -> None:
    assert (found.digest, found.images, found.categories, found.videos) == (
        expected.digest, expected.images, expected.categories, expected.videos)
    assert len(found.tracks) == len(expected.tracks)
    for a, b in zip(found.tracks, expected.tracks, strict=True):
        assert (a.id, a.video_index, a.label, a.iscrowd, a.rles) == (b.id, b.video_index, b.label, b.iscrowd, b.rles)
        assert a.boxes_L4.dtype == b.boxes_L4.dtype == np.float32 and a.areas_L.dtype == b.areas_L.dtype == np.float32
        np.testing.assert_array_equal(a.boxes_L4, b.boxes_L4)
        np.testing.assert_array_equal(a.areas_L, b.areas_L)


def assert_same_clips(found, expected) -> None:
    assert found.clip_length == expected.clip_length
    for name in ("clip_video_K", "clip_start_K", "pair_first_P", "pair_second_P", "track_offsets_K1", "track_ids"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype == np.int64
        np.testing.assert_array_equal(a, b)


def test_the_tables_give_back_what_was_read(project):
    params = prepare(project)
    for split in ("train", "val"):
        expected = read_split(params.dataset_folder / split)
        assert any(not track.present_L.all() for track in expected.tracks)
        assert_same_index(read_module.load_index(params, split), expected)
        # 3 was indexed, 4 was not, 9 exceeds the videos.
        for clip_length in (3, 4, 9):
            assert_same_clips(read_module.load_clips(params, split, clip_length), clip_index(expected, clip_length))


def test_the_tables_are_what_they_say(project):
    params = prepare(project)
    index = read_split(params.dataset_folder / "train")
    folder = params.index_folder / "train"
    frames = pq.read_table(folder / "frames.parquet").to_pylist()
    assert len(frames) == 21
    assert frames[9] == {"video_id": 2, "video_index": 1, "frame": 2, "file": index.videos[1].file_names[2], "height": 32,
                         "width": 40, "bytes": (index.images / index.videos[1].file_names[2]).stat().st_size}
    instances = pq.read_table(folder / "instances.parquet").to_pylist()
    assert len(instances) == sum(track.present_L.sum() for track in index.tracks)
    last, frame = index.tracks[-1], int(np.flatnonzero(index.tracks[-1].present_L)[-1])
    x0, y0, x1, y1 = last.boxes_L4[frame].tolist()
    assert instances[-1] == {
        "track_id": last.id, "video_id": 3, "video_index": 2, "frame": frame, "label": last.label,
        "category_id": index.categories[last.label].id, "iscrowd": False, "x0": x0, "y0": y0, "x1": x1, "y1": y1,
        "area": float(last.areas_L[frame]), "counts": last.rles[frame]["counts"]}
    clips = pq.read_table(folder / "clips_T3.parquet").to_pylist()
    assert len(clips) == 3 * 5
    present = [track.id for track in index.tracks_of(1) if track.present_L[2:5].any()]
    assert clips[7] == {"video_index": 1, "video_id": 2, "start": 2, "frames": [2, 3, 4], "track_ids": present}
    pairs = pq.read_table(folder / "pairs_T3.parquet").to_pylist()
    assert pairs[:3] == [{"first_clip": 0, "second_clip": b} for b in (3, 4)] + [{"first_clip": 1, "second_clip": 4}]


def test_a_padded_clip_repeats_the_last_frame(project):
    params = prepare(project, "index.clip_lengths=[9]")
    clips = pq.read_table(params.index_folder / "val" / "clips_T9.parquet").to_pylist()
    assert [clip["frames"] for clip in clips] == [[0, 1, 2, 3, 4, 5, 6, 6, 6]] * 2


def test_facts_and_digests(project):
    params = prepare(project)
    facts = read_module.dataset_facts(params)
    train, val = (read_split(params.dataset_folder / split) for split in ("train", "val"))
    assert facts.name == "shapes-vis" and facts.categories == params.shapes.categories
    assert facts.digests == {"train": train.digest, "val": val.digest}
    assert facts.longest_video == {"train": 7, "val": 7}
    before = read_module.dataset_digest(params)
    again = prepare(project, "shapes.val_videos=3")
    assert read_module.dataset_facts(again).digests["train"] == train.digest
    assert read_module.dataset_digest(again) != before


def test_a_second_index_is_the_same_bytes(project):
    params = prepare(project)
    files = sorted(file for file in params.index_folder.rglob("*") if file.is_file())
    before = [file.read_bytes() for file in files]
    build_module.build(params)
    assert [file.read_bytes() for file in files] == before and len(files) == 2 * 7 + 1


def test_an_index_that_fails_leaves_the_old_one(project):
    params = prepare(project)
    before = (params.index_folder / "dataset.json").read_bytes()
    frame = params.dataset_folder / "val" / "JPEGImages" / "00001" / "00003.jpg"
    frame.unlink()
    with pytest.raises(UserError, match="missing frame file"):
        build_module.build(params)
    assert (params.index_folder / "dataset.json").read_bytes() == before
    assert [entry.name for entry in params.index_folder.parent.iterdir()] == ["shapes-vis"]


def test_drawing_is_done_once(project):
    params = parameters(project)
    annotations = params.dataset_folder / "train" / "instances.json"
    assert place.put_in_place(params)
    drawn = annotations.stat().st_mtime_ns
    assert not place.put_in_place(params) and not place.put_in_place(parameters(project, "dataset=data/shapes-vis"))
    assert annotations.stat().st_mtime_ns == drawn
    assert place.put_in_place(parameters(project, "shapes.seed=1"))
    assert annotations.stat().st_mtime_ns != drawn


def test_a_folder_of_the_users_is_never_replaced(project):
    folder = project / "data" / "shapes-vis"
    folder.mkdir(parents=True)
    (folder / "precious").write_text("mine")
    with pytest.raises(UserError, match="would be replaced"):
        place.put_in_place(parameters(project))
    assert (folder / "precious").read_text() == "mine"


def test_nothing_stale_is_believed(project):
    params = parameters(project)
    with pytest.raises(UserError, match="not indexed.*pipeline.index"):
        read_module.load_index(params, "train")
    with pytest.raises(UserError, match="not in place.*pipeline.download"):
        build_module.build(params)
    prepare(project)
    read_module.load_index(params, "train")
    changed = parameters(project, "shapes.seed=1")
    for load in (lambda: read_module.load_index(changed, "train"), lambda: read_module.load_clips(changed, "train", 3),
                 lambda: read_module.dataset_facts(changed), lambda: read_module.dataset_digest(changed)):
        with pytest.raises(UserError, match="of another data set"):
            load()
    with pytest.raises(UserError, match="not in place"):
        build_module.build(changed)
    shutil.rmtree(params.dataset_folder)
    with pytest.raises(UserError, match="not in place"):
        build_module.build(params)


def test_a_folder_in_the_youtube_vis_format(project):
    own = move_away(project)
    before = sorted(project.joinpath("own").rglob("*"))
    params = prepare(project, own)
    assert params.index_folder == project / "data" / "index" / "own"
    assert_same_index(read_module.load_index(params, "val"), read_split(project / "own" / "val"))
    assert sorted(project.joinpath("own").rglob("*")) == before
    digest = read_module.dataset_digest(params)
    frame = project / "own" / "val" / "JPEGImages" / "00001" / "00003.jpg"
    frame.write_bytes(frame.with_name("00004.jpg").read_bytes())
    build_module.build(params)
    assert read_module.dataset_digest(params) != digest


def test_a_validation_split_without_instances(project):
    own = move_away(project)
    file = project / "own" / "val" / "instances.json"
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    params = prepare(project, own)
    index = read_module.load_index(params, "val")
    assert index.tracks == () and [video.length for video in index.videos] == [7, 7]
    assert_same_clips(read_module.load_clips(params, "val", 3), clip_index(index, 3))


def test_an_instance_that_is_never_seen_is_kept(project):
    own = move_away(project)
    file = project / "own" / "train" / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["segmentations"] = [None] * 7
    file.write_text(json.dumps(content))
    params = prepare(project, own)
    expected = read_split(project / "own" / "train")
    assert not expected.tracks[1].present_L.any()
    assert_same_index(read_module.load_index(params, "train"), expected)


def test_both_splits_have_the_same_categories(project):
    own = move_away(project)
    file = project / "own" / "val" / "instances.json"
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "ellipse"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not the categories of train"):
        prepare(project, own)


def test_folders_that_are_no_data_set(project):
    with pytest.raises(UserError, match="dataset: no such folder"):
        place.put_in_place(parameters(project, "dataset=nowhere"))
    with pytest.raises(UserError, match=f"has .. in it. Give the whole path: {project.parent}/videos"):
        place.put_in_place(parameters(project, "dataset=../videos"))
    (project / "own" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="no instances.json"):
        place.put_in_place(parameters(project, "dataset=own"))
    (project / "own" / "train" / "instances.json").write_text("{}")
    with pytest.raises(UserError, match="own/val: dataset: no such folder"):
        place.put_in_place(parameters(project, "dataset=own"))


def command(project: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *words], cwd=project, capture_output=True, text=True)


def test_the_commands(project):
    assert "drawn" in command(project, "pipeline.download").stderr
    assert "already there" in command(project, "pipeline.download").stderr
    done = command(project, "pipeline.index")
    assert done.returncode == 0 and "train: 3 videos, 21 frames" in done.stderr
    file = project / "data" / "shapes-vis" / "train" / "JPEGImages" / "00001" / "00003.jpg"
    file.write_bytes(file.read_bytes()[:300])
    wrong = command(project, "pipeline.index")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert str(file) in wrong.stderr and "videos[1].file_names[3]: truncated" in wrong.stderr
