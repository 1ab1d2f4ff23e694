"""Label Studio's JSON export, written by this test as its documentation says, becomes the masks that were drawn."""

import json
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
from pipeline.importers import label_studio_rle
from pipeline.importers.label_studio import import_label_studio

HEIGHT, WIDTH = 9, 13
SIZES = (3, 4, 8, 16)


def brush(mask_HW: np.ndarray, *, colour=(7, 9, 11), repeats: bool = True) -> list[int]:
    """The bytes of a mask: RGBA, of this colour and of alpha 128 to 255 where it is drawn; counts of four lengths."""
    picture = np.full((*mask_HW.shape, 4), (5, 1, 3, 0))
    picture[mask_HW] = (*colour, 255)
    picture[mask_HW, 3] -= np.arange(mask_HW.sum()) % 128
    values = picture.ravel().tolist()
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in SIZES)
    at = 0
    while at < len(values):
        end = at + 1
        while end < len(values) and values[end] == values[at] and end - at < 2 ** 16:
            end += 1
        if repeats and end - at > 1:
            bits += "1" + count(end - at) + f"{values[at]:08b}"
        else:
            end = min(at + (5 if repeats else 300), len(values))
            bits += "0" + count(end - at) + "".join(f"{value:08b}" for value in values[at:end])
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)]


def count(number: int) -> str:
    index = next(i for i, size in enumerate(SIZES) if number <= 2 ** size)
    return f"{index:02b}{number - 1:0{SIZES[index]}b}"


def block(left: int, top: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[top:top + 3, left:left + 4] = True
    return mask_HW


def region(label: str, mask_HW: np.ndarray, kind: str = "brushlabels") -> dict:
    return {"id": label, "type": kind, "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0,
            "from_name": "tag", "to_name": "image", "value": {"format": "rle", "rle": brush(mask_HW), kind: [label]}}


def export(address="/data/local-files/?d=clips/{}") -> list[dict]:
    """A dog everywhere, a cat in frames 0 and 2 of v0, frames out of order; and a dog in v1."""
    shown = {("v0", 2): [("dog", 3, 1), ("cat", 8, 5)], ("v0", 0): [("dog", 1, 1), ("cat", 7, 5)], ("v0", 1): [("dog", 2, 1)],
             ("v1", 0): [("dog", 5, 5)], ("v1", 1): []}
    return [{"id": 10 + i, "predictions": [{"result": 1}],
             "data": {"image": address.format(f"{video}/{frame}.jpg"), "note": "x"},
             "annotations": [{"id": 20 + i, "was_cancelled": False,
                              "result": [region(name, block(x, y)) for name, x, y in regions]}]}
            for i, ((video, frame), regions) in enumerate(shown.items())]


NONE = np.zeros((HEIGHT, WIDTH), bool)
CATS, DOGS = [block(7, 5), NONE, block(8, 5)], [block(1, 1), block(2, 1), block(3, 1)]


def run(tmp_path: Path, content=None, rules=None, **options):
    for video, length in (("v0", 3), ("v1", 2)):
        (tmp_path / "images" / video).mkdir(parents=True, exist_ok=True)
        for frame in range(length):
            Image.new("RGB", (WIDTH, HEIGHT), (60 * frame, 0, 90)).save(tmp_path / "images" / video / f"{frame}.jpg")
    (tmp_path / "export.json").write_text(json.dumps(export() if content is None else content))
    if rules is not None:
        (tmp_path / "categories.yaml").write_text(yaml.safe_dump(rules))
    warnings = []
    import_label_studio(tmp_path / "images", tmp_path / "export.json", tmp_path / "set", fps=6.0, warn=warnings.append,
                        categories_file=None if rules is None else tmp_path / "categories.yaml", **options)
    return read_split(tmp_path / "set" / "train"), warnings


def refused(tmp_path: Path, content=None, rules=None, **options) -> UserError:
    with pytest.raises(UserError) as caught:
        run(tmp_path, content, rules, **options)
    assert not (tmp_path / "set").exists() and len(caught.value.remedy) > 10
    return caught.value


def tracks(index, video: int) -> list[tuple[str, list]]:
    return [(index.categories[track.label].name, [NONE if rle is None else masks.decode(rle) for rle in track.rles])
            for track in index.tracks_of(video)]


def assert_tracks(index, video: int, expected: list[tuple[str, list]]) -> None:
    found = tracks(index, video)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, found_LHW), (_, expected_LHW) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(found_LHW, expected_LHW)


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (9, 13), (40, 70), (64, 90)])
def test_brush_masks_are_decoded(size, repeats):
    for share in (0.0, 0.4, 1.0):
        mask_HW = np.random.default_rng(3).random(size) < share
        mask_HW[:size[0] // 2] = False
        np.testing.assert_array_equal(label_studio_rle.decode(brush(mask_HW, repeats=repeats), *size), mask_HW)


def test_what_was_drawn_is_imported(tmp_path):
    index, warnings = run(tmp_path)
    assert warnings == [] and [category.name for category in index.categories] == ["cat", "dog"]
    assert_tracks(index, 0, [("cat", CATS), ("dog", DOGS)])
    assert_tracks(index, 1, [("dog", [block(5, 5), NONE])])
    for frame in range(3):
        copied = index.images / index.videos[0].file_names[frame]
        assert copied.read_bytes() == (tmp_path / "images" / "v0" / f"{frame}.jpg").read_bytes()


@pytest.mark.parametrize("address", [
    "https://host/some/place/{}", "s3://bucket/clips/{}", "{}", "/data/local-files/?d=clips%2F{}",
    "C:\\\\clips\\{}", "http://localhost:8080/data/upload/3/{}?token=a/b"])
def test_images_are_found_by_the_end_of_their_address(tmp_path, address):
    index, _ = run(tmp_path, export(address.replace("C:\\\\", "/data/local-files/?d=")))
    assert_tracks(index, 0, [("cat", CATS), ("dog", DOGS)])


def test_uploads_have_a_prefix(tmp_path):
    content = export()[:3]
    for task in content:
        name = task["data"]["image"].split("/")[-1]
        task["data"]["image"] = f"/data/upload/1/0a1b2c3d-{name}"
    run(tmp_path / "a")
    for file in (tmp_path / "a" / "images" / "v0").iterdir():
        (tmp_path / "images").mkdir(exist_ok=True)
        file.rename(tmp_path / "images" / file.name)
    index, _ = run(tmp_path, content)
    assert index.videos[0].file_names[0] == "export/00000.jpg"
    assert_tracks(index, 0, [("cat", CATS), ("dog", DOGS)])


def test_labels_of_objects_have_categories(tmp_path):
    content = export()
    for task in content:
        for result in task["annotations"][0]["result"]:
            result["value"]["brushlabels"] = [{"dog": "dog 1", "cat": "dog 2"}[result["id"]]]
    index, _ = run(tmp_path, content, {"dog *": "dog"})
    assert_tracks(index, 0, [("dog", DOGS), ("dog", CATS)])
    assert refused(tmp_path / "a", content, {"dog 1": "dog"}).key == "dog 2"
    assert_tracks(run(tmp_path / "b", content, {"dog 1": None, "*": "wolf"})[0], 0, [("wolf", CATS)])


def test_polygons_and_other_tags(tmp_path):
    """Polygons are in percents; with tags Brush and Labels the kind is labels; boxes are left out."""
    content = export()
    corners = [(1, 1), (5, 1), (5, 4), (1, 4)]
    first = content[1]["annotations"][0]["result"]
    first[0]["type"] = "polygonlabels"
    first[0]["value"] = {"points": [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in corners], "closed": True,
                         "polygonlabels": ["dog"]}
    first[1] = region("cat", block(7, 5), "labels")
    box = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["a"]}
    first += [first[0] | {"type": "rectanglelabels", "value": box}, {"type": "choices", "value": {"choices": ["good"]}}]
    index, warnings = run(tmp_path, content)
    assert_tracks(index, 0, [("cat", CATS), ("dog", DOGS)])
    assert [warning.key for warning in warnings] == [f"tasks[1].annotations[0].result[{i}]" for i in (2, 3)]


def test_which_annotation_counts(tmp_path):
    content = export()
    other = {"was_cancelled": True, "result": [region("bird", block(0, 0))]}
    content[0]["annotations"].insert(0, other)
    content[1]["annotations"][0]["ground_truth"] = True
    content[1]["annotations"].append(other | {"was_cancelled": False})
    content += [{"data": {"image": "v1/0.jpg"}, "annotations": []}, {"data": {"image": "v1/0.jpg"}, "annotations": [other]}]
    content[2]["completions"] = content[2].pop("annotations")
    index, (warning,) = run(tmp_path, content)
    assert_tracks(index, 0, [("cat", CATS), ("dog", DOGS)])
    assert warning.key == "tasks[5]" and warning.problem.endswith("left out (in 2 places)")


def test_videos_are_held_out(tmp_path):
    index, _ = run(tmp_path, val=("v1",))
    assert len(index.videos) == 1
    val = read_split(tmp_path / "set" / "val")
    assert [category.name for category in val.categories] == ["cat", "dog"]
    assert_tracks(val, 0, [("dog", [block(5, 5), NONE])])


def first_region(content):
    return content[0]["annotations"][0]["result"][0]


@pytest.mark.parametrize(("change", "key", "problem"), [
    (lambda c: c[0].pop("annotations"), "tasks[0].annotations", "missing key"),
    (lambda c: c[0]["annotations"].append({"result": []}), "tasks[0].annotations", "2 annotations of one image"),
    (lambda c: first_region(c)["value"].update(brushlabels=["cat"]), "tasks[0].annotations[0].result[1]", "drawn twice"),
    (lambda c: first_region(c)["value"].update(brushlabels=["cat", "dog"]),
     "tasks[0].annotations[0].result[0].value.brushlabels", "not one label"),
    (lambda c: first_region(c).update(image_rotation=90), "tasks[0].annotations[0].result[0].image_rotation", "was turned"),
    (lambda c: first_region(c).pop("original_width"), "tasks[0].annotations[0].result[0].original_width", "missing key"),
    (lambda c: first_region(c).update(original_width=WIDTH + 1), "tasks[0].annotations[0].result[0].value.rle", "468 values"),
    (lambda c: first_region(c)["value"].update(rle=first_region(c)["value"]["rle"][:-3]),
     "tasks[0].annotations[0].result[0].value.rle", "ends in the middle"),
    (lambda c: first_region(c)["value"].update(rle=[]), "tasks[0].annotations[0].result[0].value.rle", "not a list of bytes"),
    (lambda c: first_region(c)["value"].update(rle=[256]), "tasks[0].annotations[0].result[0].value.rle", "not a list of"),
    (lambda c: c[0]["data"].update(image="v0/7.jpg"), "tasks[0].data.image", "no file in"),
    (lambda c: c[0]["data"].update(image="../v0/2.jpg"), "tasks[0].data.image", "leaves the data set folder"),
    (lambda c: c[0]["data"].update(image="v0/..%2F..%2F2.jpg"), "tasks[0].data.image", "leaves the data set folder"),
    (lambda c: c[0].update(data={"text": "x"}), "tasks[0].data", "0 images"),
    (lambda c: c[0].update(data={"a": "v0/2.jpg", "b": "v0/1.jpg"}), "tasks[0].data", "2 images"),
    (lambda c: c[0]["data"].update(image="v0/1.jpg"), "tasks[2]", "the image of tasks[0]"),
    (lambda c: c[3]["annotations"][0].update(result=[]), "tasks[3]", "video v1 has no region"),
    (lambda c: [task.update(annotations=[]) for task in c], "tasks", "no annotated task"),
    (lambda c: c[0].update(annotations=[{"result": [3]}]), "tasks[0].annotations[0].result[0]", "not a result"),
])
def test_each_wrong_thing_is_named(tmp_path, change, key, problem):
    content = export()
    change(content)
    error = refused(tmp_path, content)
    assert error.key == key and problem in error.problem


def test_frames_of_another_size(tmp_path):
    content = export()
    run(tmp_path / "a")
    content[3]["annotations"][0]["result"][0].update(original_width=HEIGHT, original_height=WIDTH)
    assert "the image is 13x9, its video 9x13" in refused(tmp_path, content).problem


def test_the_command(tmp_path):
    run(tmp_path)
    command = [sys.executable, "-m", "pipeline.import_label_studio", str(tmp_path / "images"), str(tmp_path / "export.json"),
               "--val", "v1", "--out", str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "1 videos to train on, 1 to validate on" in done.stderr
    assert_tracks(read_split(tmp_path / "other" / "train"), 0, [("cat", CATS), ("dog", DOGS)])
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 2 and again.stderr.count("\n") == 1 and "exists already" in again.stderr
