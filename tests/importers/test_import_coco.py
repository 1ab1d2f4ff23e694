"""COCO with track ids becomes a data set that reads back exactly; errors name the place in the file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from pipeline.importers.coco import import_coco

HEIGHT, WIDTH = 8, 12


def mask_of(frame: int, track: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[track:track + 3, frame:frame + 4] = True
    return mask_HW


def write_frames(folder: Path) -> None:
    for v in range(2):
        (folder / f"v{v}").mkdir(parents=True)
        for f in (8, 9, 10):
            Image.new("RGB", (WIDTH, HEIGHT), (100 * v, 20 * f, 0)).save(folder / f"v{v}" / f"{f}.jpg")


def content() -> dict:
    """Two videos of three frames; track 1 is everywhere, track 2 only in the last frame of v1."""
    images = [{"id": 10 * v + f, "file_name": f"v{v}/{f}.jpg", "height": HEIGHT, "width": WIDTH}
              for v in range(2) for f in (10, 8, 9)]
    annotations = [{"id": i, "image_id": image["id"], "category_id": 7, "iscrowd": 0, "attributes": {"track_id": 1},
                    "segmentation": masks.encode(mask_of(image["id"] % 10, 1))} for i, image in enumerate(images)]
    annotations.append({"id": 99, "image_id": 20, "category_id": 3, "iscrowd": 1, "attributes": {"track_id": 2},
                        "segmentation": [[2, 2, 6, 2, 6, 5, 2, 5]]})
    return {"images": images, "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}], "annotations": annotations}


def as_coco_vid(data: dict) -> None:
    """Rewrites the data in CocoVID's form, with frame numbers in reversed order."""
    data["videos"] = [{"id": 5, "name": "first"}, {"id": 6, "name": "second"}]
    for image in data["images"]:
        image |= {"video_id": 5 + int(image["file_name"][1]), "frame_id": -int(image["file_name"][3:-4])}
    for annotation in data["annotations"]:
        annotation["instance_id"] = annotation.pop("attributes")["track_id"]


def run(tmp_path: Path, change=None, **options) -> dict[str, int]:
    if not (tmp_path / "frames").exists():
        write_frames(tmp_path / "frames")
    data = content()
    if change:
        change(data)
    (tmp_path / "tracks.json").write_text(json.dumps(data))
    return import_coco(tmp_path / "frames", tmp_path / "tracks.json", tmp_path / "set", fps=options.pop("fps", 5.0), **options)


def refused(tmp_path: Path, change=None, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        run(tmp_path, change, **options)
    assert not (tmp_path / "set").exists() and len(caught.value.remedy) > 10
    return caught.value


def test_folders_are_videos_and_frames_follow_their_names(tmp_path):
    assert run(tmp_path, val=("v0",)) == {"train": 1, "val": 1}
    train, val = (read_split(tmp_path / "set" / split) for split in ("train", "val"))
    assert [c.name for c in train.categories] == [c.name for c in val.categories] == ["cat", "dog"]
    assert train.videos[0].file_names == tuple(f"v1/{i:05d}.jpg" for i in range(3)) and train.videos[0].fps == 5.0
    cat, dog = train.tracks
    assert (cat.label, cat.iscrowd, dog.label, dog.iscrowd) == (0, False, 1, True)
    for frame, name in enumerate((8, 9, 10)):
        np.testing.assert_array_equal(masks.decode(cat.rles[frame]), mask_of(name % 10 if name < 10 else 0, 1))
        source = tmp_path / "frames" / "v1" / f"{name}.jpg"
        assert (train.images / train.videos[0].file_names[frame]).read_bytes() == source.read_bytes()
    assert dog.present_L.tolist() == [False, False, True] and dog.areas_L[2] == 12


def test_videos_and_frame_numbers_of_the_file_count(tmp_path):
    assert run(tmp_path, as_coco_vid) == {"train": 2, "val": 0}
    index = read_split(tmp_path / "set" / "train")
    assert [video.file_names[0] for video in index.videos] == ["first/00000.jpg", "second/00000.jpg"]
    first = tmp_path / "frames" / "v0" / "10.jpg"
    assert (index.images / "first" / "00000.jpg").read_bytes() == first.read_bytes()


def test_frames_in_one_folder_are_one_video(tmp_path):
    write_frames(tmp_path / "frames")

    def flatten(data):
        data["images"] = [image | {"file_name": image["file_name"][3:]} for image in data["images"][:3]]
        data["annotations"] = data["annotations"][:3]

    for file in (tmp_path / "frames" / "v0").iterdir():
        file.rename(tmp_path / "frames" / file.name)
    assert run(tmp_path, flatten) == {"train": 1, "val": 0}
    assert read_split(tmp_path / "set" / "train").videos[0].file_names[0] == "tracks/00000.jpg"


def at(*path):
    *steps, last, value = path

    def change(data):
        for step in steps:
            data = data[step]
        data[last] = value

    return change


def coco_vid(*path):
    def change(data):
        as_coco_vid(data)
        at(*path)(data)

    return change


@pytest.mark.parametrize(("change", "key", "problem"), [
    (at("images", []), "images", "no image"),
    (at("categories", []), "categories", "no category"),
    (lambda data: data.pop("annotations"), "annotations", "missing key"),
    (at("categories", 1, "name", "cat"), "categories[1].name", "already"),
    (at("images", 1, "id", 10), "images[1].id", "already taken by images[0]"),
    (at("images", 1, "file_name", "../x.jpg"), "images[1].file_name", "leaves the data set folder"),
    (at("images", 1, "height", 0), "images[1].height", "no size"),
    (at("images", 1, "height", 9), "annotations[1].segmentation", "wrong size"),
    (at("images", 1, "file_name", "v0/none.jpg"), "v0/none", "missing frame file"),
    (at("annotations", 2, "image_id", 77), "annotations[2].image_id", "not listed in images"),
    (at("annotations", 2, "category_id", 77), "annotations[2].category_id", "not listed in categories"),
    (at("annotations", 2, "category_id", 3), "annotations[2].category_id", "a dog here and a cat in annotations[0]"),
    (at("annotations", 2, "attributes", {}), "annotations[2]", "no track_id"),
    (at("annotations", 2, "attributes", "track_id", "1"), "annotations[2].attributes.track_id", "not of type int"),
    (at("annotations", 2, "segmentation", []), "annotations[2].segmentation", "no mask"),
    (at("annotations", 2, "segmentation", [[1, 2]]), "annotations[2].segmentation", "at least three points"),
    (at("annotations", 2, "segmentation", [[1, 2, 3, 4, 5, 10**30]]), "annotations[2].segmentation[0][5]", "64 bits"),
    (coco_vid("images", 1, "video_id", 9), "images[1].video_id", "not listed in videos"),
    (coco_vid("images", 1, "frame_id", -9), "images[2]", "is also images[1]"),
    (coco_vid("videos", 1, "name", "first"), "videos[1].name", "already"),
    (coco_vid("videos", 1, "name", "/etc"), "videos[1].name", "leaves the data set folder"),
])
def test_each_wrong_thing_is_named(tmp_path, change, key, problem):
    error = refused(tmp_path, change)
    assert error.key == key and problem in error.problem


def test_frames_of_a_video_are_equal_in_size(tmp_path):
    def shrink(data):
        data["images"][5]["width"] = 5
        data["annotations"] = data["annotations"][:3]

    error = refused(tmp_path, shrink)
    assert error.key == "images[5]" and "5x8, but images[4] of the same video is 12x8" in error.problem


def test_wrong_files_and_options(tmp_path):
    assert "matches no video" in refused(tmp_path, val=("v7",)).problem
    assert "no video to train on" in refused(tmp_path, val=("*",)).problem
    with pytest.raises(UserError, match="no such folder"):
        import_coco(tmp_path / "none", tmp_path / "tracks.json", tmp_path / "set", fps=6)
    with pytest.raises(UserError, match="no such file"):
        import_coco(tmp_path / "frames", tmp_path / "none.json", tmp_path / "set", fps=6)


def test_the_command(tmp_path):
    run(tmp_path)
    command = [sys.executable, "-m", "pipeline.import_coco", str(tmp_path / "frames"), str(tmp_path / "tracks.json"),
               "--val", "v1", "--out", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 videos to train on, 1 to validate on" in done.stderr
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "exists already" in again.stderr
