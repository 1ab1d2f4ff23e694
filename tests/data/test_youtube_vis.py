"""Reading the YouTube-VIS format: right content is read exactly; each error names file, key and remedy."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import annotation_entry, read_split, write_annotations
from effvis.errors import UserError

HEIGHT, WIDTH, LENGTH = 12, 16, 4


def write_frame(file: Path, seed: int, size=(HEIGHT, WIDTH)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, quality=95)


def some_masks(seed: int) -> np.ndarray:
    masks_LHW = np.random.default_rng(seed).random((LENGTH, HEIGHT, WIDTH)) < 0.3
    masks_LHW[seed % LENGTH] = False
    return masks_LHW


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two videos with three instances; each is absent in one frame."""
    folder = tmp_path / "set" / "train"
    names = [[f"v{v}/{f:05d}.jpg" for f in range(LENGTH)] for v in range(2)]
    for number, name in enumerate(sum(names, [])):
        write_frame(folder / "JPEGImages" / name, number)
    videos = [{"id": 7 + v, "height": HEIGHT, "width": WIDTH, "length": LENGTH, "fps": 5.0, "file_names": names[v]}
              for v in range(2)]
    categories = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}]
    annotations = []
    for i, (video, category) in enumerate([(8, 1), (7, 3), (8, 3)]):
        rles = [rle if mask.any() else None
                for rle, mask in zip(masks.encode_many(some_masks(i)), some_masks(i), strict=True)]
        annotations.append(annotation_entry(track_id=20 + i, video_id=video, category_id=category, rles=rles,
                                            height=HEIGHT, width=WIDTH))
    write_annotations(folder / "instances.json", description="test", videos=videos, categories=categories,
                      annotations=annotations)
    return folder


def edit(folder: Path, change) -> None:
    """Rewrites the JSON file after ``change(content)``."""
    file = folder / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def refused(folder: Path, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        read_split(folder, **options)
    assert len(caught.value.remedy) > 10
    return caught.value


def test_a_split_is_read_exactly(folder):
    index = read_split(folder)
    assert [(c.id, c.name) for c in index.categories] == [(3, "cat"), (1, "dog")]
    assert [(v.id, v.height, v.width, v.fps, v.length) for v in index.videos] == [(7, 12, 16, 5.0, 4), (8, 12, 16, 5.0, 4)]
    assert [(t.id, t.video_index, t.label, t.iscrowd) for t in index.tracks] == [
        (20, 1, 1, False), (21, 0, 0, False), (22, 1, 0, False)]
    assert [t.id for t in index.tracks_of(1)] == [20, 22] and index.longest_video == LENGTH
    assert (index.images / index.videos[1].file_names[3]).is_file()
    for i, track in enumerate(index.tracks):
        for frame, mask_HW in enumerate(some_masks(i)):
            assert track.present_L[frame] == mask_HW.any()
            assert track.areas_L[frame] == mask_HW.sum()
            if mask_HW.any():
                np.testing.assert_array_equal(masks.decode(track.rles[frame]), mask_HW)
                rows, columns = np.nonzero(mask_HW.any(axis=1))[0], np.nonzero(mask_HW.any(axis=0))[0]
                box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                np.testing.assert_array_equal(track.boxes_L4[frame], box)
            else:
                assert track.rles[frame] is None and np.isnan(track.boxes_L4[frame]).all()


def test_boxes_and_areas_of_the_file_are_not_believed(folder):
    right = read_split(folder)
    edit(folder, lambda content: content["annotations"][0].update(bboxes=[[0, 0, 1, 1]] * LENGTH, areas=[1] * LENGTH))
    again = read_split(folder)
    np.testing.assert_array_equal(again.tracks[0].areas_L, right.tracks[0].areas_L)
    assert again.digest == right.digest


def test_an_empty_mask_counts_as_absent(folder):
    empty = masks.encode(np.zeros((HEIGHT, WIDTH), bool))
    edit(folder, lambda content: content["annotations"][0]["segmentations"].__setitem__(1, empty))
    track = read_split(folder).tracks[0]
    assert track.rles[1] is None and not track.present_L[1] and np.isnan(track.boxes_L4[1]).all()


def test_uncompressed_masks_and_default_frame_rate(folder):
    right = read_split(folder)

    def uncompress(content):
        for annotation in content["annotations"]:
            for rle in filter(None, annotation["segmentations"]):
                rle["counts"] = masks.run_lengths(rle["counts"]).tolist()
        for video in content["videos"]:
            del video["fps"], video["length"]

    edit(folder, uncompress)
    again = read_split(folder, default_fps=30.0)
    assert [t.rles for t in again.tracks] == [t.rles for t in right.tracks]
    assert {v.fps for v in again.videos} == {30.0}


def test_digest_follows_annotations_and_frames_and_nothing_else(folder):
    before = read_split(folder).digest
    edit(folder, lambda content: content.update(info={"description": "renamed"}))
    assert read_split(folder).digest == before
    moved = folder.parent / "moved"
    folder.rename(moved)
    assert read_split(moved).digest == before
    write_frame(moved / "JPEGImages" / "v0" / "00001.jpg", 99)
    changed = read_split(moved).digest
    assert changed != before
    edit(moved, lambda content: content["annotations"][0].update(category_id=3))
    assert read_split(moved).digest not in (before, changed)


@pytest.mark.parametrize("name", ["train.json", "train/valid.json"])
def test_the_other_layouts_of_the_official_releases(folder, name):
    (folder / "instances.json").rename(folder.parent / name)
    assert len(read_split(folder).tracks) == 3


def test_progress_is_told(folder):
    told = []
    read_split(folder, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * LENGTH, 2 * LENGTH)


def test_a_split_without_annotations_where_it_is_allowed(folder):
    edit(folder, lambda content: content.pop("annotations"))
    assert refused(folder).key == "annotations"
    index = read_split(folder, require_annotations=False)
    assert index.tracks == () and len(index.videos) == 2 and index.tracks_of(0) == ()


def at(*path):
    """A change of one value deep in the file; the last item is the new value."""
    *steps, last, value = path

    def change(content):
        for step in steps:
            content = content[step]
        content[last] = value

    return change


def without(*path):
    *steps, last = path

    def change(content):
        for step in steps:
            content = content[step]
        del content[last]

    return change


SHORT_RLE = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 1]}
OTHER_RLE = {"size": [HEIGHT, WIDTH + 1], "counts": [HEIGHT * (WIDTH + 1)]}


@pytest.mark.parametrize(("change", "key", "problem"), [
    (without("videos"), "videos", "missing key"),
    (without("videos", 1, "height"), "videos[1].height", "missing key"),
    (without("videos", 0, "file_names"), "videos[0].file_names", "missing key"),
    (without("categories", 0, "name"), "categories[0].name", "missing key"),
    (without("annotations", 2, "segmentations"), "annotations[2].segmentations", "missing key"),
    (at("videos", []), "videos", "empty data set"),
    (at("annotations", []), "annotations", "empty data set"),
    (at("categories", []), "categories", "empty data set"),
    (at("videos", {}), "videos", "not of type list"),
    (at("videos", 1, 5), "videos[1]", "not a JSON object"),
    (at("videos", 0, "height", "12"), "videos[0].height", "not of type int"),
    (at("videos", 0, "height", 0), "videos[0].height", "no size"),
    (at("videos", 0, "id", True), "videos[0].id", "not of type int"),
    (at("videos", 0, "length", 5), "videos[0].length", "file_names has 4"),
    (at("videos", 0, "file_names", []), "videos[0].file_names", "without frames"),
    (at("videos", 0, "file_names", 2, 7), "videos[0].file_names[2]", "not a file name"),
    (at("videos", 0, "file_names", 2, "v0/\ud800.jpg"), "videos[0].file_names[2]", "not a file name"),
    (at("videos", 0, "file_names", 2, "v0/" + 300 * "a"), "videos[0].file_names[2]", "unreadable frame file"),
    (at("videos", 0, "id", 1 << 64), "videos[0].id", "more than 64 bits"),
    (at("videos", 0, "fps", float("nan")), "videos[0].fps", "not a finite number"),
    (at("videos", 0, "fps", 0), "videos[0].fps", "no frame rate"),
    (at("videos", 1, "id", 7), "videos[1].id", "already taken by videos[0]"),
    (at("categories", 1, "id", 3), "categories[1].id", "already taken by categories[0]"),
    (at("categories", 1, "name", "cat"), "categories[1].name", "already the name of categories[0]"),
    (at("annotations", 2, "id", 20), "annotations[2].id", "already taken by annotations[0]"),
    (at("annotations", 1, "category_id", 2), "annotations[1].category_id", "not listed in categories"),
    (at("annotations", 1, "video_id", 0), "annotations[1].video_id", "not listed in videos"),
    (at("annotations", 1, "iscrowd", 2), "annotations[1].iscrowd", "neither 0 nor 1"),
    (at("annotations", 1, "areas", 0, float("inf")), "annotations[1].areas[0]", "not a finite number"),
    (at("annotations", 1, "bboxes", 0, [0, 0, float("nan"), 1]), "annotations[1].bboxes[0][2]", "not a finite number"),
    (without("annotations", 1, "segmentations", 3), "annotations[1].segmentations", "3 segmentations, but video 7 has 4"),
    (at("annotations", 1, "segmentations", [None] * 5), "annotations[1].segmentations", "5 segmentations, but video 7"),
    (at("annotations", 0, "segmentations", 3, OTHER_RLE), "annotations[0].segmentations[3]", "wrong size"),
    (at("annotations", 0, "segmentations", 3, SHORT_RLE), "annotations[0].segmentations[3]", "wrong size"),
    (at("annotations", 0, "segmentations", 3, {"size": [HEIGHT, WIDTH], "counts": "!"}),
     "annotations[0].segmentations[3]", "run-length string"),
    (at("annotations", 0, "segmentations", 3, []), "annotations[0].segmentations[3]", "no mask, but the box is"),
    (at("annotations", 0, "segmentations", 3, {"size": [HEIGHT, WIDTH]}), "annotations[0].segmentations[3]", "neither an RLE"),
    (at("videos", 0, "file_names", 1, "../../secret.jpg"), "videos[0].file_names[1]", "leaves the data set folder"),
    (at("videos", 0, "file_names", 1, "v0\\..\\..\\secret.jpg"), "videos[0].file_names[1]", "leaves the data set"),
    (at("videos", 0, "file_names", 1, "/etc/passwd"), "videos[0].file_names[1]", "leaves the data set folder"),
    (at("videos", 0, "file_names", 1, "C:/secret.jpg"), "videos[0].file_names[1]", "leaves the data set folder"),
    (at("videos", 0, "file_names", 1, "v0/none.jpg"), "videos[0].file_names[1]", "missing frame file"),
    (at("videos", 0, "file_names", 1, "v0"), "videos[0].file_names[1]", "unreadable frame file"),
    (at("videos", 0, "width", WIDTH + 1), "annotations[1].segmentations[0]", "wrong size"),
])
def test_each_wrong_thing_is_named(folder, change, key, problem):
    edit(folder, change)
    error = refused(folder)
    assert error.key == key and problem in error.problem
    assert str(folder) in error.where


def test_unreadable_json(folder):
    file = folder / "instances.json"
    for text in (file.read_text()[:-40], "", "\x00", "[" * 100000):
        file.write_text(text)
        error = refused(folder)
        assert error.where == str(file) and "unreadable JSON" in error.problem
    file.write_text("[]")
    assert "not a JSON object" in refused(folder).problem


def test_missing_folders_and_files(folder):
    assert "no such folder" in refused(folder / "nowhere").problem
    (folder / "JPEGImages").rename(folder / "Images")
    assert refused(folder).key == "JPEGImages"
    (folder / "instances.json").unlink()
    assert "no instances.json" in refused(folder).problem


@pytest.mark.parametrize("kept", [0, 1, 20, 0.5, -1, -2])
def test_a_truncated_frame(folder, kept):
    file = folder / "JPEGImages" / "v1" / "00002.jpg"
    content = file.read_bytes()
    file.write_bytes(content[:int(kept * len(content))] if kept == 0.5 else content[:kept])
    error = refused(folder)
    assert (error.where, error.key, error.problem) == (
        str(file), "videos[1].file_names[2]", "truncated or damaged image")


def test_a_frame_whose_end_was_never_written(folder):
    file = folder / "JPEGImages" / "v1" / "00002.jpg"
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2] + bytes(len(content) - len(content) // 2))
    assert refused(folder).where == str(file)


def test_bytes_after_the_end_of_a_frame_do_no_harm(folder):
    file = folder / "JPEGImages" / "v1" / "00002.jpg"
    file.write_bytes(file.read_bytes() + b"made by a camera")
    assert len(read_split(folder).videos) == 2


def test_a_frame_of_another_size(folder):
    write_frame(folder / "JPEGImages" / "v1" / "00002.jpg", 0, (HEIGHT, WIDTH + 2))
    error = refused(folder)
    assert error.key == "videos[1].file_names[2]" and "18x12, its video 16x12" in error.problem


@pytest.mark.parametrize("what", ["frame", "video folder"])
def test_a_link_out_of_the_data_set(folder, tmp_path, what):
    write_frame(tmp_path / "elsewhere" / "00002.jpg", 0)
    inside, outside = folder / "JPEGImages" / "v1", tmp_path / "elsewhere"
    if what == "frame":
        (inside / "00002.jpg").unlink()
        (inside / "00002.jpg").symlink_to(outside / "00002.jpg")
    else:
        os.replace(inside, tmp_path / "old")
        inside.symlink_to(tmp_path / "old")
    error = refused(folder)
    assert error.key == f"videos[1].file_names[{2 if what == 'frame' else 0}]" and "through a link" in error.problem


def test_a_data_set_that_is_itself_reached_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(read_split(tmp_path / "link").videos) == 2
