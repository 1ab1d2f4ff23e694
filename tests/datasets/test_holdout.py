"""Training videos held out to validate on: chosen by category, the same ones everywhere, and only from this data set."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from effvis.data.dataset import Category, DatasetIndex, Video, make_track
from effvis.data.holdout import choose, divide, videos_by_category
from effvis.data.synthetic import shapes
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.datasets import holdout, place
from pipeline.grid import linking
from pipeline.grid.rows import evaluation_spec
from pipeline.indexing import build as build_module
from pipeline.indexing import read as read_module
from pipeline.settings.loading import load_params
from pipeline.settings.params import RowSettings

PROFILES = Path(__file__).resolve().parents[2] / "experiments" / "profiles"
SHAPES = {"train_videos": 20, "val_videos": 2, "test_videos": 0, "frames": 4, "height": 32, "width": 40, "min_radius": 5,
          "max_radius": 8}


def synthetic(labels_of: list[tuple[int, ...]]) -> DatasetIndex:
    """Videos of one frame, without pixels, that show these categories; ids start at 100."""
    categories = tuple(Category(10 + label, f"category {label}") for label in range(1 + max(map(max, filter(None, labels_of)))))
    videos = tuple(Video(100 + v, 8, 8, 6.0, (f"{v}/0.jpg",)) for v in range(len(labels_of)))
    tracks = [(v, label) for v, labels in enumerate(labels_of) for label in labels]
    return DatasetIndex(Path("train/JPEGImages"), "digest", categories, videos, tuple(
        make_track(track_id=t, video_index=v, label=label, iscrowd=False, rles=[None]) for t, (v, label) in enumerate(tracks)))


def like_youtube_vis() -> DatasetIndex:
    """600 videos of 40 categories as unevenly frequent as YouTube-VIS's, most videos with one category."""
    draw = np.random.default_rng(0)
    frequencies = 1 / np.arange(1, 41)
    frequencies /= frequencies.sum()
    return synthetic([tuple({int(label) for label in draw.choice(40, size=1 + (v % 4 == 0), p=frequencies)})
                      for v in range(600)])


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_category_gives_its_share(fraction):
    index = like_youtube_vis()
    held_out = choose(index, fraction, seed=0)
    assert abs(len(held_out) - 600 * fraction) <= 20
    left, validation = divide(index, held_out)
    every, kept, held = (videos_by_category(part) for part in (index, left, validation))
    for name, count in every.items():
        assert kept[name] + held[name] == count
        assert abs(held[name] - fraction * count) <= 2.5, "a video of two categories may be one too many for one of them"
        assert kept[name] > 0 or count == 0


def test_the_choice_follows_from_the_seed_alone():
    index = like_youtube_vis()
    held_out = choose(index, 0.1, seed=0)
    assert choose(index, 0.1, seed=0) == held_out != choose(index, 0.1, seed=1)
    order = random.Random(0).sample(range(600), 600)
    shuffled = replace(index, videos=tuple(index.videos[v] for v in order),
                       tracks=tuple(replace(track, video_index=order.index(track.video_index)) for track in index.tracks))
    assert choose(shuffled, 0.1, seed=0) == held_out
    # These were recorded once: another machine or another version of a library must choose the same ones.
    assert sorted(choose(synthetic([(0,), (1,), (0, 1), (), (1,), (0,)]), 0.5, seed=0)) == NOTED


NOTED = [101, 103, 105]


def test_rare_categories_and_empty_videos():
    """A category with a single video goes to training; videos without instances are dealt out like the others."""
    held_out = choose(synthetic([(0,)] + [()] * 9 + [(1,)] * 10), 0.2, seed=0)
    assert 100 not in held_out
    assert len(held_out & set(range(101, 110))) == 2 and len(held_out & set(range(110, 120))) == 2


def test_the_parts_are_the_whole():
    index = synthetic([(0,), (1,), (0, 1), (2,)])
    left, validation = divide(index, {101, 102})
    assert [video.id for video in left.videos] == [100, 103] and [video.id for video in validation.videos] == [101, 102]
    assert [(t.id, t.video_index, t.label) for t in left.tracks] == [(0, 0, 0), (4, 1, 2)]
    assert [(t.id, t.video_index, t.label) for t in validation.tracks] == [(1, 0, 1), (2, 1, 0), (3, 1, 1)]
    assert [t.id for t in validation.tracks_of(1)] == [2, 3]
    digests = {index.digest, left.digest, validation.digest, divide(index, {101})[0].digest,
               divide(replace(index, digest="another"), {101, 102})[0].digest}
    assert len(digests) == 5


# Tests in a project.

@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(PROFILES, folder / "experiments" / "profiles")
    values = {"profile": "laptop", "dataset": "own", "index": {"clip_lengths": [1]}, "pretrain": {"source": "none"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    shapes.write(shapes.ShapesConfig(**SHAPES), folder / "own")
    shutil.rmtree(folder / "own" / "val")
    return folder


@pytest.fixture
def project(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "project")


def prepare(project: Path, *overrides: str):
    params = load_params(project / "params.yaml", overrides)
    place.put_in_place(params)
    build_module.build(params)
    return params, {split: read_module.load_index(params, split) for split in ("train", "val")}


FRACTION = "holdout={fraction: 0.25, seed: 3}"


def test_the_index_is_of_both_parts(project):
    with pytest.raises(UserError, match="own/val: dataset: no such folder.*holdout does without val"):
        prepare(project)
    params, _ = prepare(project, FRACTION)
    whole = read_split(project / "own" / "train")
    left, validation = (read_module.load_index(params, split) for split in ("train", "val"))
    assert {v.id for v in left.videos} | {v.id for v in validation.videos} == {v.id for v in whole.videos}
    assert len(left.videos) + len(validation.videos) == 20 and 3 <= len(validation.videos) <= 7
    assert len(left.tracks) + len(validation.tracks) == len(whole.tracks)
    assert all((validation.images / name).is_file() for video in validation.videos for name in video.file_names)
    assert read_module.load_clips(params, "val", 1).clip_video_K.max() == len(validation.videos) - 1
    assert read_module.dataset_facts(params).name == params.dataset_name == "own (holdout 0.25, seed 3)"


def test_the_file_says_which_and_can_be_shared(project):
    params, splits = prepare(project, FRACTION)
    note = json.loads((params.index_folder / "holdout.json").read_text())
    assert [entry["id"] for entry in note["val"]] == [video.id for video in splits["val"].videos]
    assert (note["dataset"], note["fraction"], note["seed"]) == ("own", 0.25, 3)
    assert {name: part["val"] for name, part in note["videos_by_category"].items()} == videos_by_category(splits["val"])
    shutil.copy(params.index_folder / "holdout.json", project / "own.json")
    shared, again = prepare(project, "holdout.file='{dataset}.json'")
    assert {split: index.digest for split, index in again.items()} == {split: index.digest for split, index in splits.items()}
    assert shared.dataset_name == "own (holdout own.json)"


def test_each_data_set_of_the_tables_has_its_own_file(project):
    shapes.write(shapes.ShapesConfig(**SHAPES | {"seed": 7, "train_videos": 8}), project / "other")
    shutil.rmtree(project / "other" / "val")
    for seed, name in enumerate(("own", "other")):
        params, _ = prepare(project, f"dataset={name}", f"holdout={{fraction: 0.25, seed: {seed}}}")
        shutil.copy(params.index_folder / "holdout.json", project / f"{name}.json")
    for name in ("own", "other"):
        prepare(project, f"dataset={name}", "holdout.file='{dataset}.json'")
    params = load_params(project / "params.yaml",
                         ["holdout.file='{dataset}.json'", "scale.dataset={youtube-vis-2021: other}"])
    for name, published in (("own", "youtube-vis-2019"), ("other", "youtube-vis-2021")):
        row = evaluation_spec(params, RowSettings(T=3, dataset=published), seed=0)
        assert row.train.dataset_name == f"{name} (holdout {name}.json)"
        listed = json.loads((project / f"{name}.json").read_text())["val"]
        validation = read_module.load_index(params.of_dataset(row.train.dataset_name), "val")
        assert [video.id for video in validation.videos] == [entry["id"] for entry in listed]


def test_listed_videos_are_left_out_of_both_parts(project):
    """``without`` leaves the listed videos out, and the fraction is of the others; the same ones every time."""
    params, splits = prepare(project, FRACTION)
    whole, listed = read_split(project / "own" / "train"), {video.id for video in splits["val"].videos}
    shutil.copy(params.index_folder / "holdout.json", project / "listed.json")
    without = "holdout={fraction: 0.5, without: listed.json}"
    params, parts = prepare(project, without)
    left, validation = ({video.id for video in parts[split].videos} for split in ("train", "val"))
    assert not listed & (left | validation) and not left & validation
    assert left | validation | listed == {video.id for video in whole.videos}
    assert validation == choose(divide(whole, listed)[0], 0.5, seed=0)
    assert params.dataset_name == "own (holdout 0.5, seed 0, without listed.json)"
    again = prepare(project, without)[1]
    assert {split: index.digest for split, index in again.items()} == {split: index.digest for split, index in parts.items()}
    (project / "listed.json").write_text('{"val": [{"id": 2}]}')
    with pytest.raises(UserError, match="of another data set than the parameters say"):
        read_module.load_index(params, "train")


def test_a_holdout_with_nothing_left_out_is_described_as_ever(project):
    """No index and no training becomes stale."""
    params = load_params(project / "params.yaml", [FRACTION])
    assert place.describe(params)["holdout"] == {"fraction": 0.25, "seed": 3}
    assert params.holdout.model_dump() == {"fraction": 0.25, "seed": 3, "file": None}


def test_the_reported_videos_have_one_digest_however_they_are_given(project):
    params, _ = prepare(project, FRACTION)
    shutil.copy(params.index_folder / "holdout.json", project / "own.json")
    digest = linking.reported(params)
    assert linking.reported(prepare(project, "holdout.file=own.json")[0]) == digest
    assert linking.reported(prepare(project, "holdout={fraction: 0.25, seed: 4}")[0]) != digest


def test_the_keys_say_which_split(project):
    params, _ = prepare(project, FRACTION)
    first = evaluation_spec(params, RowSettings(T=3), seed=0)
    assert first.train.dataset_name == "own (holdout 0.25, seed 3)"
    with pytest.raises(UserError, match="of another data set than the parameters say"):
        read_module.load_index(load_params(project / "params.yaml", ["holdout.fraction=0.5"]), "train")
    params, _ = prepare(project, "holdout.fraction=0.5")
    second = evaluation_spec(params, RowSettings(T=3), seed=0)
    assert first.train.key != second.train.key and first.evaluation_digest != second.evaluation_digest
    assert second.train.dataset_name == "own (holdout 0.5, seed 0)"
    assert params.of_dataset(second.train.dataset_name) is params


def test_without_a_holdout_nothing_is_new(tmp_path):
    """Neither the split's digest nor the index's source changes, so no index and no training becomes stale."""
    shutil.copytree(PROFILES, tmp_path / "experiments" / "profiles")
    shapes.write(shapes.ShapesConfig(**SHAPES), tmp_path / "own")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"profile": "laptop", "dataset": "own", "holdout": None}))
    params, splits = prepare(tmp_path)
    assert splits["train"].digest == read_split(tmp_path / "own" / "train").digest
    assert place.describe(params) == {"dataset": "own", "kind": "folder", "folder": "own"}
    assert holdout.remarks(params, len(splits["val"].tracks)) == [] and not (params.index_folder / "holdout.json").exists()


def test_what_is_scored_are_the_videos_held_out(project):
    from effvis.evaluation.video_ap import evaluate

    params, splits = prepare(project, FRACTION)
    truth = holdout.ground_truth(params, splits["val"])
    assert [video["id"] for video in truth["videos"]] == [video.id for video in splits["val"].videos]
    assert [entry["id"] for entry in truth["annotations"]] == [track.id for track in splits["val"].tracks]
    perfect = [{"video_id": entry["video_id"], "category_id": entry["category_id"], "score": 1.0,
                "segmentations": entry["segmentations"]} for entry in truth["annotations"]]
    assert evaluate(truth, perfect).metrics["AP"] == 1.0
    assert evaluate(truth, perfect[1:]).metrics["AP"] < 1.0


@pytest.mark.parametrize("bend", [
    lambda content: [entry.pop("iscrowd") for entry in content["annotations"]],
    lambda content: [entry.update(areas=None) for entry in content["annotations"]],
    lambda content: [entry.update(segmentations=[mask or [] for mask in entry["segmentations"]], bboxes=None)
                     for entry in content["annotations"]],
], ids=["no iscrowd", "no areas", "empty lists"])
def test_what_the_reader_understands_can_be_scored(project, bend):
    """A file that bends the format would otherwise be refused when the evaluation is over."""
    params, splits = prepare(project, FRACTION)
    truth = holdout.ground_truth(params, splits["val"])
    file = project / "own" / "train" / "instances.json"
    content = json.loads(file.read_text())
    bend(content)
    file.write_text(json.dumps(content))
    again = holdout.ground_truth(*prepare(project, FRACTION)[:1], splits["val"])
    names = ("id", "video_id", "category_id", "iscrowd", "segmentations", "areas")
    assert [{name: entry[name] for name in names} for entry in again["annotations"]] == [
        {name: entry[name] for name in names} for entry in truth["annotations"]]


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_a_validation_split_without_ground_truth(project, nothing):
    shutil.copytree(project / "own" / "train", project / "own" / "val")
    file = project / "own" / "val" / "instances.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": nothing}))
    params, splits = prepare(project)
    assert holdout.ground_truth(params, splits["val"])["annotations"] == []


def test_categories_that_nothing_is_held_out_of_are_named(project):
    params, splits = prepare(project, FRACTION)
    counts = videos_by_category(splits["val"])
    missing = [name for name, count in counts.items() if not count]
    one = divide(read_split(project / "own" / "train"), {splits["val"].videos[0].id})[1]
    holdout.write(params, {"train": splits["train"], "val": one}, params.index_folder)
    remarks = holdout.remarks(params, len(one.tracks))
    absent = [name for name, count in videos_by_category(one).items() if not count]
    assert set(missing) <= set(absent) and absent
    assert remarks[0] == f"held out: {params.index_folder}/holdout.json"
    assert remarks[1] == f"no video held out shows {', '.join(absent)}: these count in no score"


@pytest.mark.parametrize("values, problem", [
    ("{}", "either fraction or file"), ("{fraction: 0.1, file: a.json}", "either fraction or file"),
    ("{file: a.json, without: b.json}", "without goes with fraction"),
    ("{fraction: 0.5, without: none.json}", r"none.json: \(file\): cannot be read.*Give as holdout.without"),
    ("{fraction: 1}", "holdout.fraction"), ("{fraction: 0}", "holdout.fraction"), ("{ratio: 0.1}", "unknown key"),
    ("{fraction: 0.001}", "params.yaml: holdout.fraction: holds out 0 of 20 videos"),
    ("{file: none.json}", r"none.json: \(file\): cannot be read: No such file or directory. Give as holdout.file"),
])
def test_holdouts_that_are_none(project, values, problem):
    with pytest.raises(UserError, match=problem):
        prepare(project, f"holdout={values}")


@pytest.mark.parametrize("content, key, problem", [
    ("{", r"\(top\)", "unreadable JSON"), ("[]", r"\(top\)", "is no JSON object. Give"), ("{}", "val", "Field required. Give"),
    ('{"val": []}', "val", "at least 1 item.*Give"), ('{"val": [{"id": 1, "frame": "a"}]}', "val.0.frame", "unknown key. Give"),
    ('{"val": [{"id": "1"}]}', "val.0.id", "valid integer.*Give"),
    ('{"val": [{"id": 1}, {"id": 1}]}', "val", "video 1 is listed 2 times"),
    ('{"val": [{"id": 1}, {"id": 999}]}', "val.1", "not of this data set: video 999 is none of it"),
    ('{"val": [{"id": 1, "first_frame": "other/0.jpg"}]}', "val.0", "starts with .*, not with other/0.jpg"),
    (json.dumps({"val": [{"id": number} for number in range(1, 21)]}), "val", "holds out 20 of 20 videos"),
])
def test_files_that_hold_nothing_out(project, content, key, problem):
    (project / "split.json").write_text(content)
    with pytest.raises(UserError, match=f"split.json: {key}: .*{problem}"):
        prepare(project, "holdout.file=split.json")


def test_a_file_by_hand(project):
    (project / "split.json").write_text('{"val": [{"id": 2}, {"id": 7}]}')
    _, splits = prepare(project, "holdout.file=split.json")
    assert [video.id for video in splits["val"].videos] == [2, 7] and len(splits["train"].videos) == 18
