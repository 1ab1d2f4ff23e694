"""Frames and palette masks become a data set that reads back exactly; errors name what is wrong with them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.importers.categories import best_rule
from pipeline.importers.mask_images import VOID
from pipeline.importers.masks import import_masks

DAVIS = Path(__file__).resolve().parents[3] / "shared" / "real" / "davis-mini"
HEIGHT, WIDTH = 10, 14
PALETTE = [value for number in range(256) for value in (number, 255 - number, 128)]


def write_frame(file: Path, size=(HEIGHT, WIDTH)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(file))).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


def write_mask(file: Path, numbers_HW: np.ndarray, palette: bool = True) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers_HW.astype(np.uint8))
    if palette:
        image = image.convert("P")
        image.putdata(numbers_HW.reshape(-1).tolist())
        image.putpalette(PALETTE)
    image.save(file)


def mask_of(sequence: str, frame: int) -> np.ndarray:
    """Instance 1 in every frame, instance 2 in frames 0 and 2, and a void corner."""
    numbers_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    numbers_HW[1 + frame:4 + frame, 2:6 + len(sequence) % 3] = 1
    if frame != 1:
        numbers_HW[5:9, 8:12] = 2
    numbers_HW[0, 0] = VOID
    return numbers_HW


def write_sequence(parent: Path, name: str, stems=("8", "9", "10"), palette: bool = True) -> None:
    for frame, stem in enumerate(stems):
        write_frame(parent / "JPEGImages" / name / f"{stem}.jpg")
        write_mask(parent / "Annotations" / name / f"{stem}.png", mask_of(name, frame), palette)


@pytest.fixture
def folder(tmp_path) -> Path:
    for split, names in (("train", ["car-red", "cat", "mixed"]), ("val", ["car-blue"])):
        for name in names:
            write_sequence(tmp_path / "given" / split, name, palette=name != "cat")
    return tmp_path / "given"


RULES = {"car-*": "sedan", "cat": "cat", "mixed": {1: "dog", 2: None}}


def run(folder: Path, tmp_path: Path, rules=None, **options):
    categories = tmp_path / "categories.yaml"
    categories.write_text(yaml.safe_dump(RULES if rules is None else rules))
    return import_masks(folder, categories, tmp_path / "set", fps=options.pop("fps", 8.0), **options)


def refused(folder: Path, tmp_path: Path, rules=None, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        run(folder, tmp_path, rules, **options)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set*"))
    return caught.value


def test_what_is_imported_reads_back_exactly(folder, tmp_path):
    assert run(folder, tmp_path) == {"train": 3, "val": 1}
    train, val = (read_split(tmp_path / "set" / split) for split in ("train", "val"))
    assert [c.name for c in train.categories] == [c.name for c in val.categories] == ["cat", "dog", "sedan"]
    assert [v.file_names[0] for v in train.videos] == ["car-red/8.jpg", "cat/8.jpg", "mixed/8.jpg"]
    assert train.videos[0].file_names == ("car-red/8.jpg", "car-red/9.jpg", "car-red/10.jpg")
    assert {(v.fps, v.height, v.width) for v in train.videos} == {(8.0, HEIGHT, WIDTH)}
    found = [(train.videos[t.video_index].file_names[0].split("/")[0], train.categories[t.label].name) for t in train.tracks]
    assert found == [("car-red", "sedan"), ("car-red", "sedan"), ("cat", "cat"), ("cat", "cat"), ("mixed", "dog")]
    for track, number in zip(train.tracks, (1, 2, 1, 2, 1), strict=True):
        name = train.videos[track.video_index].file_names[0].split("/")[0]
        for frame in range(3):
            expected = mask_of(name, frame) == number
            assert track.present_L[frame] == expected.any()
            if expected.any():
                np.testing.assert_array_equal(masks.decode(track.rles[frame]), expected)
    copied = train.images / "car-red" / "9.jpg"
    assert copied.read_bytes() == (folder / "train" / "JPEGImages" / "car-red" / "9.jpg").read_bytes()


def test_frames_are_copied_also_through_links(folder, tmp_path):
    frame = folder / "val" / "JPEGImages" / "car-blue" / "8.jpg"
    frame.rename(tmp_path / "elsewhere.jpg")
    frame.symlink_to(tmp_path / "elsewhere.jpg")
    run(folder, tmp_path)
    copied = tmp_path / "set" / "val" / "JPEGImages" / "car-blue" / "8.jpg"
    assert not copied.is_symlink() and copied.stat().st_nlink == 1


def test_a_folder_that_is_not_split(folder, tmp_path):
    assert run(folder / "train", tmp_path, val=("c*t",)) == {"train": 2, "val": 1}
    assert read_split(tmp_path / "set" / "val").videos[0].file_names[0] == "cat/8.jpg"


def test_without_validation_there_is_no_such_folder(folder, tmp_path):
    assert run(folder / "train", tmp_path) == {"train": 3, "val": 0}
    assert [entry.name for entry in (tmp_path / "set").iterdir()] == ["train"]


def test_the_most_specific_entry_counts():
    rules = {"*": "thing", "car-*": "car", "car-r*": "red car", "car-red": None, "[cd]at": "pet"}
    expected = {"car-red": "car-red", "car-rose": "car-r*", "car-blue": "car-*", "boat": "*", "cat": "[cd]at"}
    assert {name: best_rule(rules, name) for name in expected} == expected
    assert best_rule({"car-*": "car"}, "boat") is None


def test_null_leaves_a_sequence_out(folder, tmp_path):
    assert run(folder, tmp_path, RULES | {"car-red": None, "mixed": {1: None}}) == {"train": 1, "val": 1}
    assert [c.name for c in read_split(tmp_path / "set" / "train").categories] == ["cat", "sedan"]


def test_every_sequence_without_an_entry_is_listed(folder, tmp_path):
    error = refused(folder, tmp_path, {"cat": "cat"})
    assert error.key == "car-blue, car-red, mixed" and "no category" in error.problem


@pytest.mark.parametrize(("rules", "problem"), [
    ([], "not a mapping"),
    ({}, "not a mapping"),
    ({3: "cat"}, "not a name or a pattern"),
    ({"cat": 4}, "not a category"),
    ({"cat": ""}, "not a category"),
    ({"cat": {1.5: "cat"}}, "neither a number nor the name of an instance"),
    ({"cat": {1: ["cat"]}}, "not a category"),
])
def test_wrong_categories(folder, tmp_path, rules, problem):
    error = refused(folder, tmp_path, rules)
    assert problem in error.problem and error.where.endswith("categories.yaml")


def test_unreadable_categories(folder, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        import_masks(folder, tmp_path / "none.yaml", tmp_path / "set", fps=6)
    (tmp_path / "broken.yaml").write_text("cat: [")
    with pytest.raises(UserError, match="not YAML"):
        import_masks(folder, tmp_path / "broken.yaml", tmp_path / "set", fps=6)


def test_an_instance_without_a_category(folder, tmp_path):
    error = refused(folder, tmp_path, RULES | {"mixed": {1: "dog"}})
    assert error.key == "mixed.2" and "no category" in error.problem


@pytest.mark.parametrize(("removed", "problem"), [
    ("train/Annotations/cat/9.png", "a frame without a mask"),
    ("train/JPEGImages/cat/9.jpg", "a mask without a frame"),
])
def test_frames_and_masks_belong_together(folder, tmp_path, removed, problem):
    (folder / removed).unlink()
    error = refused(folder, tmp_path)
    assert (error.key, error.problem) == ("cat/9", problem)
    other = removed.replace("Annotations", "JPEGImages") if "png" in removed else removed.replace("JPEGImages", "Annotations")
    assert error.where == str((folder / other).with_suffix(".jpg" if "png" in removed else ".png"))


def test_a_sequence_without_masks(folder, tmp_path):
    write_frame(folder / "train" / "JPEGImages" / "more" / "0.jpg")
    error = refused(folder, tmp_path)
    assert error.key == "more" and "without Annotations/more" in error.problem


def test_masks_that_are_neither_numbers_nor_colours(folder, tmp_path):
    file = folder / "train" / "Annotations" / "cat" / "9.png"
    Image.new("LA", (WIDTH, HEIGHT)).save(file)
    error = refused(folder, tmp_path)
    assert (error.where, error.key) == (str(file), "cat/9") and "of mode LA" in error.problem and "as RGB" in error.remedy


def test_sizes_must_agree(folder, tmp_path):
    mask = folder / "train" / "Annotations" / "cat" / "9.png"
    whole = mask.read_bytes()
    write_mask(mask, np.ones((HEIGHT, WIDTH + 1)))
    error = refused(folder, tmp_path)
    assert error.where == str(mask) and "15x10, the first one of its sequence 14x10" in error.problem
    mask.write_bytes(whole)
    frame = folder / "train" / "JPEGImages" / "cat" / "10.jpg"
    write_frame(frame, (HEIGHT + 3, WIDTH))
    error = refused(folder, tmp_path)
    assert error.where == str(frame) and "14x13" in error.problem


@pytest.mark.parametrize("file", ["train/Annotations/cat/9.png", "train/JPEGImages/cat/9.jpg"])
def test_truncated_pictures(folder, tmp_path, file):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:len(whole) // 2])
    error = refused(folder, tmp_path)
    assert error.where == str(folder / file) and "truncated" in error.problem


def test_masks_of_0_and_255_alone(folder, tmp_path):
    for file in (folder / "train" / "Annotations" / "cat").iterdir():
        write_mask(file, np.full((HEIGHT, WIDTH), VOID), palette=False)
    error = refused(folder, tmp_path)
    assert error.key == "cat" and "no instance" in error.problem and "0 and 1" in error.remedy


def test_wrong_folders_and_options(folder, tmp_path):
    assert "no such folder" in refused(folder / "none", tmp_path).problem
    assert "neither JPEGImages/" in refused(folder / "train" / "JPEGImages", tmp_path).problem
    assert "matches no sequence" in refused(folder / "train", tmp_path, val=("bus-*",)).problem
    assert "already split" in refused(folder, tmp_path, val=("cat",)).problem
    assert "no sequence to train on" in refused(folder / "train", tmp_path, val=("*",)).problem
    assert "no sequence to train on" in refused(folder, tmp_path, {"*": None, "car-blue": "sedan"}).problem


def test_nothing_is_overwritten(folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        run(folder, tmp_path)
    assert (tmp_path / "set" / "precious").read_text() == "mine"


def test_the_command(folder, tmp_path):
    (tmp_path / "categories.yaml").write_text(yaml.safe_dump(RULES))
    command = [sys.executable, "-m", "pipeline.import_masks", str(folder), "--categories",
               str(tmp_path / "categories.yaml"), "--out", str(tmp_path / "set")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "3 sequences to train on, 1 to validate on" in done.stderr
    assert {v.fps for v in read_split(tmp_path / "set" / "train").videos} == {6.0}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "exists already" in again.stderr


def write_instances(parent: Path, name: str, stems=("8", "9", "10"), value: int = 255) -> None:
    """Writes the same instances as ``mask_of``, in a folder each; 2 has no file where it is not visible."""
    for frame, stem in enumerate(stems):
        write_frame(parent / "JPEGImages" / name / f"{stem}.jpg")
        for number, instance in ((1, "rex"), (2, "2")):
            mask_HW = mask_of(name, frame) == number
            if number == 1 or mask_HW.any():
                write_mask(parent / "Annotations" / name / instance / f"{stem}.png", mask_HW * value, palette=False)


def test_a_folder_for_each_instance(folder, tmp_path):
    write_instances(folder / "train", "pets")
    rules = RULES | {"pets": {"rex": "dog", 2: "cat"}}
    assert run(folder, tmp_path, rules) == {"train": 4, "val": 1}
    index = read_split(tmp_path / "set" / "train")
    tracks = index.tracks_of([video.file_names[0] for video in index.videos].index("pets/8.jpg"))
    assert [index.categories[track.label].name for track in tracks] == ["cat", "dog"]
    for track, number in zip(tracks, (2, 1), strict=True):
        for frame in range(3):
            expected = mask_of("pets", frame) == number
            assert track.present_L[frame] == expected.any()
            if expected.any():
                np.testing.assert_array_equal(masks.decode(track.rles[frame]), expected)


def test_masks_of_one_bit(folder, tmp_path):
    write_instances(folder / "train", "pets")
    file = folder / "train" / "Annotations" / "pets" / "rex" / "9.png"
    Image.open(file).convert("1").save(file)
    run(folder, tmp_path, RULES | {"pets": {"rex": "dog", 2: None}})
    index = read_split(tmp_path / "set" / "train")
    assert index.tracks[-1].areas_L[1] == (mask_of("pets", 1) == 1).sum()


def test_wrong_folders_of_instances(folder, tmp_path):
    write_instances(folder / "train", "pets")
    error = refused(folder, tmp_path, RULES | {"pets": {"rex": "dog"}})
    assert error.key == "pets.2" and "no category for this instance" in error.problem
    extra = folder / "train" / "Annotations" / "pets" / "rex" / "11.png"
    write_mask(extra, np.ones((HEIGHT, WIDTH)))
    error = refused(folder, tmp_path, RULES | {"pets": "dog"})
    assert (error.where, error.problem) == (str(extra), "a mask without a frame")
    extra.rename(extra.parents[1] / "8.png")
    assert "both masks and folders" in refused(folder, tmp_path, RULES | {"pets": "dog"}).problem


@pytest.mark.skipif(not DAVIS.is_dir(), reason=f"real video is not here: {DAVIS}")
def test_real_video(tmp_path):
    rules = {"*": "thing", "car-*": "sedan", "drift-chicane": "sedan", "dog": "dog", "soapbox": None}
    assert run(DAVIS, tmp_path, rules) == {"train": 11, "val": 3}
    train, val = (read_split(tmp_path / "set" / split) for split in ("train", "val"))
    assert sum(v.length for v in train.videos) == 294 - 33 and sum(v.length for v in val.videos) == 68
    assert len(train.tracks) == 11 and len(val.tracks) == 3
    assert [val.categories[t.label].name for t in val.tracks] == ["sedan", "dog", "thing"]
    frame = sorted((DAVIS / "val" / "Annotations" / "dog").iterdir())[5]
    np.testing.assert_array_equal(masks.decode(val.tracks[1].rles[5]), np.asarray(Image.open(frame)) == 1)
