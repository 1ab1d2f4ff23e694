"""KITTI-MOTS and MOTSChallenge masks become a data set that reads back exactly; errors name what is wrong.

The formats are written here from their description (https://www.vision.rwth-aachen.de/page/mots), not with the project's code.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as cocotools

from effvis.data import masks
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline import import_masks
from pipeline.importers.mots import import_mots

CHECKOUT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 48, 64
CAR, PEDESTRIAN = 1, 2
IGNORED = 10_000
CLASSES = {CAR: "car", PEDESTRIAN: "pedestrian"}


def numbers_of(frame: int) -> np.ndarray:
    """Car 1005 in every frame, pedestrian 2001 in frames 0 and 2, a region to ignore, the rest background."""
    numbers_HW = np.zeros((HEIGHT, WIDTH), np.uint16)
    numbers_HW[40:, 50:] = IGNORED
    numbers_HW[4 + frame:20 + frame, 6:30] = 1005
    if frame != 1:
        numbers_HW[24:40, 30 + frame:36 + frame] = 2001
    return numbers_HW


EXPECTED = [("car", {frame: numbers_of(frame) == 1005 for frame in range(3)}),
            ("pedestrian", {frame: numbers_of(frame) == 2001 for frame in (0, 2)})]


def write_frames(folder: Path, first: int, suffix=".png") -> None:
    folder.mkdir(parents=True)
    for frame in range(3):
        Image.new("RGB", (WIDTH, HEIGHT), (10 * frame, 90, 20)).save(folder / f"{first + frame:06d}{suffix}")


def write_pngs(folder: Path, first: int) -> None:
    folder.mkdir(parents=True)
    for frame in range(3):
        Image.fromarray(numbers_of(frame)).save(folder / f"{first + frame:06d}.png")


def text_lines(first: int) -> list[str]:
    lines = []
    for frame in range(3):
        numbers_HW = numbers_of(frame)
        for number in np.unique(numbers_HW[numbers_HW > 0]):
            rle = cocotools.encode(np.asfortranarray(numbers_HW == number, dtype=np.uint8))
            lines.append(f"{first + frame} {number} {number // 1000} {HEIGHT} {WIDTH} {rle['counts'].decode()}")
    return lines


def write_text(file: Path, first: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(text_lines(first)) + "\n")


def kitti(folder: Path) -> None:
    """As the downloads of KITTI's tracking images and of KITTI-MOTS unpack: frames from 0, masks beside training/."""
    for name in ("0000", "0002"):
        write_frames(folder / "training" / "image_02" / name, 0)
        write_pngs(folder / "instances" / name, 0)


def kitti_text(folder: Path) -> None:
    for name in ("0000", "0002"):
        write_frames(folder / "image_02" / name, 0)
        write_text(folder / "instances_txt" / f"{name}.txt", 0)


def challenge(folder: Path) -> None:
    """As MOTSChallenge.zip unpacks: frames from 1, only train/ has masks."""
    for name in ("0002", "0005"):
        write_frames(folder / "train" / "images" / name, 1, ".jpg")
        write_pngs(folder / "train" / "instances" / name, 1)
        write_text(folder / "train" / "instances_txt" / f"{name}.txt", 1)
    write_frames(folder / "test" / "images" / "0001", 1, ".jpg")


def challenge_text(folder: Path) -> None:
    """As MOTS.zip of motchallenge.net unpacks: a folder per sequence."""
    for name in ("MOTS20-02", "MOTS20-05"):
        write_frames(folder / "train" / name / "img1", 1, ".jpg")
        write_text(folder / "train" / name / "gt" / "gt.txt", 1)
    write_frames(folder / "test" / "MOTS20-01" / "img1", 1, ".jpg")


def split_already(folder: Path) -> None:
    for split, name in (("train", "0000"), ("val", "0002")):
        write_frames(folder / split / "images" / name, 0)
        write_pngs(folder / split / "instances" / name, 0)


def run(tmp_path: Path, write=kitti, change=None, classes=None, **options):
    folder = tmp_path / "given"
    write(folder)
    if change:
        change(folder)
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(CLASSES if classes is None else classes))
    return import_mots(folder, tmp_path / "classes.yaml", tmp_path / "set", fps=options.pop("fps", 10.0), **options)


def refused(tmp_path: Path, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        run(tmp_path, *args, **options)
    assert not (tmp_path / "set").exists() and not list(tmp_path.glob(".set*"))
    return str(caught.value)


def read(split: Path):
    """The videos' frames, and for each video [(category, {frame: mask})]."""
    index = read_split(split)
    tracks = [[(index.categories[track.label].name, {f: masks.decode(rle) for f, rle in enumerate(track.rles) if rle})
               for track in index.tracks_of(v)] for v in range(len(index.videos))]
    return [video.file_names for video in index.videos], tracks


def assert_expected(tracks, expected=EXPECTED):
    assert [(name, list(shown)) for name, shown in tracks] == [(name, list(shown)) for name, shown in expected]
    for (_, shown), (_, wanted) in zip(tracks, expected, strict=True):
        for frame, mask in wanted.items():
            np.testing.assert_array_equal(shown[frame], mask)


@pytest.mark.parametrize(("write", "last", "frames"), [
    (kitti, "0002", ["000000.png", "000001.png", "000002.png"]),
    (kitti_text, "0002", ["000000.png", "000001.png", "000002.png"]),
    (challenge, "0005", ["000001.jpg", "000002.jpg", "000003.jpg"]),
    (challenge_text, "MOTS20-05", ["000001.jpg", "000002.jpg", "000003.jpg"]),
])
def test_every_layout_gives_the_same_masks_and_identities(tmp_path, write, last, frames):
    assert run(tmp_path, write, val=(last,)) == {"train": 1, "val": 1}
    for split in ("train", "val"):
        (names,), (tracks,) = read(tmp_path / "set" / split)
        assert [Path(name).name for name in names] == frames
        assert_expected(tracks)
    assert names[0] == f"{last}/{frames[0]}"
    assert [c.name for c in read_split(tmp_path / "set" / "val").categories] == ["car", "pedestrian"]


def test_a_folder_that_is_split_already(tmp_path):
    assert run(tmp_path, split_already) == {"train": 1, "val": 1}
    assert_expected(read(tmp_path / "set" / "val")[1][0])
    assert "already split" in refused(tmp_path / "again", split_already, val=("0002",))


def test_null_leaves_a_class_out_and_two_classes_may_be_one_category(tmp_path):
    run(tmp_path, classes={CAR: None, PEDESTRIAN: "person"})
    assert_expected(read(tmp_path / "set" / "train")[1][0], [("person", EXPECTED[1][1])])
    run(tmp_path / "same", classes={CAR: "thing", PEDESTRIAN: "thing"})
    index = read_split(tmp_path / "same" / "set" / "train")
    assert [c.name for c in index.categories] == ["thing"] and len(index.tracks) == 4


def test_numbers_use_all_sixteen_bits(tmp_path):
    def change(folder):
        numbers_HW = numbers_of(0)
        numbers_HW[0, :5] = 65_535
        numbers_HW[1, :5] = 10_001
        Image.fromarray(numbers_HW).save(folder / "instances" / "0000" / "000000.png")

    run(tmp_path, change=change, classes=CLASSES | {65: "last", 10: "tenth"})
    tracks = dict(read(tmp_path / "set" / "train")[1][0])
    assert tracks["last"][0].sum() == tracks["tenth"][0].sum() == 5 and tracks["last"][0][0, :5].all()


def test_a_frame_in_which_nothing_is_seen(tmp_path):
    def change(folder):
        Image.new("L", (WIDTH, HEIGHT)).save(folder / "instances" / "0000" / "000001.png")
        for file in (folder / "instances" / "0002").iterdir():
            Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint16)).save(file)

    run(tmp_path, change=change)
    assert [list(shown) for _, shown in read(tmp_path / "set" / "train")[1][0]] == [[0, 2], [0, 2]]
    assert read(tmp_path / "set" / "train")[1][1] == []


def png(name, array):
    return lambda folder: Image.fromarray(array).save(folder / "instances" / "0000" / name)


@pytest.mark.parametrize(("change", "problem"), [
    (png("000001.png", np.ones((HEIGHT, WIDTH), np.uint8)), "000001.png: 0000/000001: not a 16-bit PNG"),
    (png("000001.png", np.ones((HEIGHT, WIDTH, 3), np.uint8)), "not a 16-bit PNG of one channel, but of mode RGB"),
    (png("000001.png", np.full((HEIGHT, WIDTH), 3004, np.uint16)), "3: no category for this class, .*3004 in .*0000, 000"),
    (png("000001.png", np.full((HEIGHT, WIDTH - 1), 1001, np.uint16)), "000001.png: the mask is 63x48, the first one .* 64x48"),
    (png("000003.png", np.zeros((HEIGHT, WIDTH), np.uint16)), "0000/000003: a mask without a frame"),
    (lambda folder: (folder / "instances/0000/000001.png").unlink(), "0000/000001: a frame without a mask"),
    (lambda folder: (folder / "instances/0000/000001.png").write_bytes(b"\x89PNG"), "truncated or damaged"),
    (lambda folder: (folder / "instances/0000").rename(folder / "instances/0007"), "0000: a sequence without masks"),
    (lambda folder: (folder / "instances").rename(folder / "masks"), "no folder of masks in it. Name it instances/"),
    (lambda folder: (folder / "training").rename(folder / "frames"), "no folder of frames in it. Name it images/"),
    (lambda folder: Image.new("RGB", (60, 48)).save(folder / "training/image_02/0000/000001.png"), "60x48"),
])
def test_what_is_wrong_with_masks_is_named(tmp_path, change, problem):
    assert re.search(problem, refused(tmp_path, change=change))


def replaced(line, old, new):
    def change(folder):
        file = folder / "instances_txt" / "0000.txt"
        lines = file.read_text().splitlines()
        assert old in lines[line]
        lines[line] = lines[line].replace(old, new, 1)
        file.write_text("\n".join(lines))
    return change


@pytest.mark.parametrize(("change", "problem"), [
    (replaced(0, "0 1005 1 48", "0 1005 1 48 7"), "0000.txt: line 1: is not  time_frame id class_id img_height img_width rle"),
    (replaced(0, "0 1005", "0.5 1005"), "line 1: is not"),
    (replaced(0, "0 1005", "9" * 5000 + " 1005"), "line 1: is not"),
    (replaced(0, "0 1005", "3 1005"), "line 1: there is no frame 3. Add it, .* here 0 to 2"),
    (replaced(3, "1005 1 ", "1005 2 "), "line 4: object 1005 is of class 2, of class 1 in line 1"),
    (replaced(3, "1 1005", "0 1005"), "line 4: object 1005 has a mask in this frame already"),
    (replaced(3, " 48 64 ", " 64 48 "), "line 4: the mask is 48x64, the first one of its sequence 64x48"),
    (replaced(3, " 48 64 ", " 48 65 "), "line 4: RLE of the wrong size"),
    (replaced(3, " 48 64 ", " 0 64 "), "line 4: 64x0 is no size"),
    (lambda folder: (folder / "instances_txt/0000.txt").write_bytes(b"\xff\xfe"), "is not a text file"),
    (lambda folder: (folder / "image_02/0000/000001.png").rename(folder / "image_02/0000/a.png"), "does not end in a number"),
])
def test_what_is_wrong_with_text_is_named(tmp_path, change, problem):
    assert re.search(problem, refused(tmp_path, kitti_text, change))


@pytest.mark.parametrize(("classes", "problem"), [
    ([], "not a mapping"), ({}, "not a mapping"), ({"car": 1}, "not the number of a class"), ({True: "car"}, "not the number"),
    ({-1: "car"}, "not the number"), ({1: 3}, "3 is not a category"), ({1: " "}, "not a category"),
    ({1: None}, "every class is left out"),
])
def test_wrong_classes(tmp_path, classes, problem):
    said = refused(tmp_path, classes=classes)
    assert "classes.yaml: " in said and problem in said


def test_the_command(tmp_path):
    kitti(tmp_path / "given")
    (tmp_path / "classes.yaml").write_text("1: car\n2: pedestrian\n")
    command = [sys.executable, "-m", "pipeline.import_masks", str(tmp_path / "given"), "--layout", "kitti-mots",
               "--categories", str(tmp_path / "classes.yaml"), "--val", "0002", "--fps", "10", "--out", str(tmp_path / "set")]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0 and "1 sequences to train on, 1 to validate on" in done.stderr
    assert read_split(tmp_path / "set" / "train").videos[0].fps == 10.0
    again = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    assert again.returncode == 2 and "exists already" in again.stderr and len(again.stderr.splitlines()) == 1


def test_numbers_of_classes_need_names(tmp_path):
    with pytest.raises(UserError, match="--categories: is missing.*{1: car, 2: pedestrian}"):
        import_masks.main([str(tmp_path), "--layout", "kitti-mots", "--out", str(tmp_path / "own")])
