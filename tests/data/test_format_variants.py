"""What exporters write in place of the YouTube-VIS format is read as the plain form is, with one warning for each kind."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvis.data import masks
from effvis.data.youtube_vis import check_split, read_split
from effvis.errors import UserError

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
HEIGHT, WIDTH, LENGTH = 12, 16, 3
FIRST, PLACE = "annotations[0]", "annotations[0].segmentations[1]"
NOTHING = [None, [], {}, "", [[]], [None], [0, 0, 0, 0], [[0, 0, 0, 0]], {"size": [HEIGHT, WIDTH], "counts": ""},
           {"size": [HEIGHT, WIDTH], "counts": []}, {"size": [], "counts": None}]


def square(frame: int, instance: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[2 + 4 * instance:6 + 4 * instance, 3 + frame:8 + frame] = True
    return mask_HW


def plain() -> dict:
    """Two videos; each shows one instance, which is absent in frame 1 of the first."""
    annotations = []
    for i in range(2):
        seen = [i == 1 or frame != 1 for frame in range(LENGTH)]
        annotations.append({
            "id": 5 + i, "video_id": 1 + i, "category_id": 3 - i, "iscrowd": i,
            "segmentations": [masks.encode(square(frame, i)) if seen[frame] else None for frame in range(LENGTH)],
            "bboxes": [[3 + frame, 2 + 4 * i, 5, 4] if seen[frame] else None for frame in range(LENGTH)],
            "areas": [20 if seen[frame] else None for frame in range(LENGTH)]})
    return {
        "videos": [{"id": 1 + v, "height": HEIGHT, "width": WIDTH, "file_names": [f"v{v}/{f:05d}.jpg" for f in range(LENGTH)]}
                   for v in range(2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 2, "name": "dog"}], "annotations": annotations}


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "set" / "train"
    for v in range(2):
        (folder / "JPEGImages" / f"v{v}").mkdir(parents=True)
        for f in range(LENGTH):
            Image.new("RGB", (WIDTH, HEIGHT), (90 * v, 60 * f, 30)).save(folder / "JPEGImages" / f"v{v}" / f"{f:05d}.jpg")
    return folder


def written(folder: Path, change=lambda content: None) -> Path:
    content = plain()
    change(content)
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def read(folder: Path, change=lambda content: None):
    """The split, and its warnings; the check finds the same."""
    written(folder, change)
    warnings = []
    index = read_split(folder, warn=warnings.append)
    problems, categories = check_split(folder)
    assert problems.errors == [] and categories == index.categories
    assert {str(w) for w in warnings} <= {str(w) for w in problems.warnings}
    return index, warnings


def refused(folder: Path, change, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        read_split(written(folder, change), **options)
    assert check_split(folder, **options)[0].errors[0].key == caught.value.key and len(caught.value.remedy) > 9
    return caught.value


def assert_as_plain(index, folder: Path) -> None:
    """The masks, boxes, identities and categories that ``plain`` describes, and so its digest."""
    assert [(t.id, t.video_index, index.categories[t.label].name, t.iscrowd) for t in index.tracks] == [
        (5, 0, "cat", False), (6, 1, "dog", True)]
    for i, track in enumerate(index.tracks):
        for frame in range(LENGTH):
            if i == 0 and frame == 1:
                assert track.rles[frame] is None and np.isnan(track.boxes_L4[frame]).all()
            else:
                np.testing.assert_array_equal(masks.decode(track.rles[frame]), square(frame, i))
                assert track.boxes_L4[frame].tolist() == [3 + frame, 2 + 4 * i, 8 + frame, 6 + 4 * i]
    assert [v.file_names for v in index.videos] == [tuple(f"v{v}/{f:05d}.jpg" for f in range(LENGTH)) for v in range(2)]
    assert index.digest == read_split(written(folder)).digest


def test_the_plain_form_has_no_warnings(folder):
    index, warnings = read(folder)
    assert warnings == [] and check_split(folder)[0].warnings == []
    assert_as_plain(index, folder)


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_nothing_is_written_in_many_ways_where_an_instance_is_absent(folder, nothing):
    def change(content):
        content["annotations"][0]["segmentations"][1] = nothing

    index, warnings = read(folder, change)
    assert_as_plain(index, folder)
    assert [w.key for w in warnings] == ([] if nothing is None else [PLACE])
    assert all("where an instance is absent" in w.problem for w in warnings)


@pytest.mark.parametrize("box", [None, [], {}, "", [0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0]], ids=repr)
@pytest.mark.parametrize("area", [None, [], 0, 0.0, ""], ids=repr)
def test_boxes_and_areas_of_nothing(folder, box, area):
    def change(content):
        annotation = content["annotations"][0]
        annotation["segmentations"][1], annotation["bboxes"][1], annotation["areas"][1] = [], box, area

    index, warnings = read(folder, change)
    assert_as_plain(index, folder)
    assert len(warnings) == 1 and len(check_split(written(folder, change))[0].warnings) == 1


@pytest.mark.parametrize("key", ["bboxes", "areas"])
@pytest.mark.parametrize("nothing", [None, [], {}, ""], ids=repr)
def test_boxes_and_areas_are_computed(folder, key, nothing):
    assert_as_plain(read(folder, lambda content: content["annotations"][0].update({key: nothing}))[0], folder)
    assert_as_plain(read(folder, lambda content: content["annotations"][1].pop(key))[0], folder)


def test_frames_without_a_box_are_one_line_of_the_check(folder):
    def change(content):
        content["annotations"][1]["bboxes"] = [[], None, {}]

    index, warnings = read(folder, change)
    assert_as_plain(index, folder)
    found = check_split(written(folder, change))[0].warnings
    assert warnings == [] and [(w.key, w.problem) for w in found] == [
        ("annotations[1].bboxes[0]", "no box where there is a mask (in 3 places)")]


@pytest.mark.parametrize(("box", "area"), [([3, 2, 5, 4], None), (None, 20), ([3.5, 2.5, 5, 4], 20)])
@pytest.mark.parametrize("nothing", NOTHING[1:], ids=repr)
def test_no_mask_beside_a_box_is_refused(folder, nothing, box, area):
    """A file of boxes alone is no file of absent instances."""

    def change(content):
        annotation = content["annotations"][0]
        annotation["segmentations"][1], annotation["bboxes"][1], annotation["areas"][1] = nothing, box, area

    error = refused(folder, change)
    assert error.key == PLACE and "no mask, but the box is" in error.problem


def test_a_box_beside_null_is_told(folder):
    def change(content):
        content["annotations"][0]["bboxes"][1] = [4, 2, 5, 4]

    index, warnings = read(folder, change)
    assert_as_plain(index, folder)
    assert [(w.key, "no mask, taken as absent" in w.problem) for w in warnings] == [("annotations[0].bboxes[1]", True)]
    assert len(check_split(written(folder, change))[0].warnings) == 1


@pytest.mark.parametrize("value", ["missing", None, "", False, 0.0], ids=repr)
def test_iscrowd_of_one_or_all_annotations(folder, value):
    def change(content):
        content["annotations"][0].update(iscrowd=value)
        if value == "missing":
            del content["annotations"][0]["iscrowd"]

    index, (warning,) = read(folder, change)
    assert_as_plain(index, folder)
    assert warning.key == f"{FIRST}.iscrowd" and "taken as 0" in warning.problem


@pytest.mark.parametrize("value", [True, 1.0])
def test_iscrowd_of_a_group(folder, value):
    index, (warning,) = read(folder, lambda content: content["annotations"][1].update(iscrowd=value))
    assert_as_plain(index, folder)
    assert warning.key == "annotations[1].iscrowd" and "taken as 1" in warning.problem


def test_one_warning_counts_all_annotations(folder):
    def change(content):
        for annotation in content["annotations"]:
            del annotation["iscrowd"]

    index, (warning,) = read(folder, change)
    assert not any(track.iscrowd for track in index.tracks)
    assert warning.problem == "no iscrowd, taken as 0 (in 2 places)" and str(folder) in warning.where


@pytest.mark.parametrize("value", [2, -1, 0.5, "no", [1], float("nan")], ids=repr)
def test_iscrowd_that_says_neither(folder, value):
    assert refused(folder, lambda content: content["annotations"][0].update(iscrowd=value)).key == f"{FIRST}.iscrowd"


@pytest.mark.parametrize("nothing", ["missing", None, [], {}, ""], ids=repr)
def test_a_split_without_annotations(folder, nothing):
    def change(content):
        content.update(annotations=nothing)
        if nothing == "missing":
            del content["annotations"]

    assert refused(folder, change).key == "annotations"
    index = read_split(folder, require_annotations=False, warn=lambda warning: pytest.fail(str(warning)))
    assert index.tracks == () and [video.id for video in index.videos] == [1, 2]
    assert check_split(folder, require_annotations=False)[0].errors == []


@pytest.mark.parametrize("value", [0, False, 3, "none", {"a": 1}], ids=repr)
def test_annotations_that_are_no_list(folder, value):
    assert refused(folder, lambda content: content.update(annotations=value), require_annotations=False).key == "annotations"


def renamed(change):
    """A change of all file names."""

    def rename(content):
        for video in content["videos"]:
            video["file_names"] = [change(name) for name in video["file_names"]]

    return rename


@pytest.mark.parametrize("change", [
    lambda name: name.replace("/", "\\"), lambda name: f"JPEGImages/{name}", lambda name: f"train/JPEGImages/{name}",
    lambda name: f"JPEGImages/{name}".replace("/", "\\"), lambda name: "train/JPEGImages\\" + name,
    lambda name: f"./JPEGImages/{name}", lambda name: f"JPEGImages/{name}" if "00001" in name else name,
], ids=["backslashes", "with the folder", "with both folders", "both", "mixed", "from here", "some"])
def test_names_written_elsewhere(folder, change):
    index, warnings = read(folder, renamed(change))
    assert_as_plain(index, folder)
    assert len(warnings) == 1 and warnings[0].key.startswith("videos[0].file_names[")


def test_files_that_have_exactly_these_names_count(folder):
    """Slashes are no rule on Linux, and a folder may hold another of its own name: such data sets read as ever."""
    (folder / "JPEGImages" / "JPEGImages").mkdir()
    for f in range(LENGTH):
        for name in (f"v0\\{f:05d}.jpg", f"JPEGImages/{f:05d}.jpg"):
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / name)

    def change(content):
        content["videos"][0]["file_names"] = [f"v0\\{f:05d}.jpg" for f in range(LENGTH)]
        content["videos"][1]["file_names"] = [f"JPEGImages/{f:05d}.jpg" for f in range(LENGTH)]

    index, warnings = read(folder, change)
    assert warnings == []
    assert (index.videos[0].file_names[2], index.videos[1].file_names[2]) == ("v0\\00002.jpg", "JPEGImages/00002.jpg")


@pytest.mark.parametrize("name", [
    "..\\..\\secret.jpg", "v0\\..\\..\\secret.jpg", "v0/..\\../secret.jpg", "\\v0\\00000.jpg", "\\\\server\\v0\\0.jpg",
    "C:\\v0\\00000.jpg", "JPEGImages//etc/passwd", "JPEGImages\\\\etc\\passwd", "../JPEGImages/v0/00000.jpg",
    "JPEGImages/../../secret.jpg", "/JPEGImages/v0/00000.jpg"])
def test_no_name_leaves_the_folder(folder, tmp_path, name):
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "secret.jpg")

    def change(content):
        content["videos"][0]["file_names"][0] = name

    error = refused(folder, change)
    assert error.key == "videos[0].file_names[0]" and "leaves the data set folder" in error.problem


def test_a_missing_frame_is_named_by_the_place_where_it_is_sought(folder):
    error = refused(folder, renamed(lambda name: f"JPEGImages\\{name}".replace("00002", "00007")))
    assert error.key == "videos[0].file_names[2]" and f"missing frame file {folder}/JPEGImages/v0/00007.jpg" in error.problem


POLYGON = [3, 2, 8, 2, 8, 6, 3, 6]  # the square of frame 0


@pytest.mark.parametrize(("segmentation", "warned"), [
    ([POLYGON], False),
    (POLYGON, True),
    ([[float(side) for side in POLYGON]], False),
    ([[[3, 2], [8, 2], [8, 6], [3, 6]]], True),
    ([[3, 2], [8, 2], [8, 6], [3, 6]], True),
    ({"size": [HEIGHT, WIDTH], "counts": masks.run_lengths(masks.encode(square(0, 0))["counts"]).tolist()}, False),
    ({"size": [HEIGHT, WIDTH], "counts": repr(masks.encode(square(0, 0))["counts"].encode())}, True),
], ids=["polygon", "flat", "floats", "points", "one of points", "uncompressed", "bytes"])
def test_masks_in_other_forms(folder, segmentation, warned):
    def change(content):
        content["annotations"][0]["segmentations"][0] = segmentation

    index, warnings = read(folder, change)
    assert_as_plain(index, folder)
    assert [w.key for w in warnings] == [f"{FIRST}.segmentations[0]"] * warned


def test_counts_with_backslashes_in_notation_for_bytes(folder):
    """Counts may contain a backslash, which the notation doubles."""
    rng = np.random.default_rng(0)
    while "\\" not in (rle := masks.encode(mask_HW := rng.random((HEIGHT, WIDTH)) < 0.2))["counts"]:
        pass

    def change(content):
        content["annotations"][0]["segmentations"][0] = rle | {"counts": str(rle["counts"].encode())}

    index, _ = read(folder, change)
    np.testing.assert_array_equal(masks.decode(index.tracks[0].rles[0]), mask_HW)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases of other tools are not here: {CASES}")
@pytest.mark.parametrize(("case", "warned", "seen"), [
    ("ytvis-val-annotations-null", False, 3), ("ytvis-without-iscrowd", True, 3), ("ytvis-backslashes", True, 3),
    ("ytvis-empty-list-for-absent", True, 2)])
def test_cases_of_public_bug_reports(case, warned, seen):
    """A block of 22 rows and 20 columns moves right by a pixel in each frame, as each file's boxes say."""
    for split in ("train", "val"):
        warnings = []
        index = read_split(CASES / case / split, require_annotations=split == "train", warn=warnings.append)
        truth = split == "train" or "null" not in case
        assert [t.id for t in index.tracks] == ([1, 2] if truth else []) and len(warnings) == (warned and truth)
        for track in index.tracks:
            assert index.categories[track.label].name == "thing" and not track.iscrowd and track.present_L.sum() == seen
            for frame in np.flatnonzero(track.present_L):
                expected = np.zeros((48, 64), bool)
                expected[8:30, 6 + frame:26 + frame] = True
                np.testing.assert_array_equal(masks.decode(track.rles[frame]), expected)
