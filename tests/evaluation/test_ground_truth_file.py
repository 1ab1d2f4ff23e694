"""What exporters write in a ground truth in place of the format scores as the plain form does; the kinds are those of
docs/own-data.md."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
from support.video_ap import SIDE, box, plain_counts, problem, text_rle

from effvis.data import masks
from effvis.errors import UserError
from effvis.evaluation import rle_json
from effvis.evaluation.ground_truth_file import read_ground_truth_file
from effvis.evaluation.video_ap import evaluate
from pipeline import score

CASES = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "eval_cases"
CASE_NAMES = [path.name.removesuffix("_gt.json") for path in sorted(CASES.glob("*_gt.json"))]
SQUARE = box(0, 0, 150, 150)
NOTHING = [[], {}, "", [[]], [None], [0, 0, 0, 0], [[0, 0, 0, 0]], {"size": [SIDE, SIDE], "counts": ""},
           {"size": [SIDE, SIDE], "counts": []}, {"size": [], "counts": None}]


def plain() -> tuple[dict, list]:
    """A square of 150^2 pixels, of medium size, that is absent in frame 1, and a group.

    122/150 of the square are found, which is enough at seven of ten thresholds. The group's category counts for nothing,
    unless it is taken for an object, which is missed.
    """
    return problem([(1, 1, [SQUARE, None], {}), (1, 2, [box(0, 0, 9, 9)] * 2, {"iscrowd": 1})],
                   [(1, 1, 0.9, [box(0, 0, 150, 122), None])], categories=2)


def scored(folder: Path, change=lambda truth, first, group: None):
    """The evaluation of the file that a change makes, and its warnings."""
    truth, results = plain()
    change(truth, *truth["annotations"])
    (folder / "gt.json").write_text(json.dumps(truth))
    read = read_ground_truth_file(folder / "gt.json")
    with read.named_in_errors():
        return evaluate(read.content, results), read.warnings


@cache
def plain_metrics() -> dict[str, float]:
    return evaluate(*plain()).metrics


def assert_as_plain(found) -> list[str]:
    evaluation, warnings = found
    assert evaluation.metrics == plain_metrics()
    assert [round(evaluation.metrics[name], 9) for name in ("AP", "APs", "APm", "APl")] == [0.7, -1, 0.7, -1]
    assert evaluation.per_category["category 2"]["AP"] == -1
    return warnings


def refused(folder: Path, change) -> UserError:
    with pytest.raises(UserError) as caught:
        scored(folder, change)
    assert caught.value.where == str(folder / "gt.json") and len(caught.value.remedy) > 9
    return caught.value


def setting(name: str, value, of: int = 0):
    """A change of a key of an annotation; "missing" removes it."""

    def change(truth, *annotations):
        annotations[of][name] = value
        if value == "missing":
            del annotations[of][name]

    return change


def showing(frame: int, mask):
    return lambda truth, first, group: first["segmentations"].__setitem__(frame, mask)


@pytest.mark.parametrize("name", CASE_NAMES or [pytest.param("", marks=pytest.mark.skip(
    reason=f"the recorded cases of the official evaluator are not here: {CASES}"))])
def test_official_files_stay_as_they_are(name):
    """The same masks, numbers, bit by bit, and warnings."""
    file = CASES / f"{name}_gt.json"
    read = read_ground_truth_file(file)
    assert repr(read.content) == repr(rle_json.loads(file.read_bytes())) and read.warnings == []
    if "error" not in json.loads((CASES / f"{name}_official.json").read_text()):
        ours, direct = (evaluate(truth, CASES / f"{name}_pred.json") for truth in (read.content, file))
        assert (ours.metrics, ours.per_category) == (direct.metrics, direct.per_category)
        assert [read.named(warning) for warning in ours.warnings] == direct.warnings


def test_the_plain_form_has_no_warnings(tmp_path):
    assert assert_as_plain(scored(tmp_path)) == []


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_nothing_where_an_instance_is_absent(tmp_path, nothing):
    (warning,) = assert_as_plain(scored(tmp_path, showing(1, nothing)))
    assert "annotations[0].segmentations[1]: an empty" in warning and str(tmp_path / "gt.json") in warning


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_no_mask_beside_a_box_or_an_area_is_refused(tmp_path, nothing):
    def boxed(truth, first, group):
        first["segmentations"][1], first["bboxes"] = nothing, [None, [0, 0, 150, 122]]

    def with_area(truth, first, group):
        first["segmentations"][1], first["areas"] = nothing, [22500, 22500]

    for change in (boxed, with_area):
        assert refused(tmp_path, change).key == "annotations[0].segmentations[1]"


def test_a_box_beside_null_is_told(tmp_path):
    (warning,) = assert_as_plain(scored(tmp_path, setting("bboxes", [[0, 0, 150, 150], [0, 0, 9, 9]])))
    assert "annotations[0].bboxes[1]: a box where there is no mask" in warning


@pytest.mark.parametrize(("segmentation", "warned"), [
    ([[0.0, 0, 150, 0, 150, 150, 0, 150]], False), ([0, 0, 150, 0, 150, 150, 0, 150], True),
    ([[0, 0], [150, 0], [150, 150], [0, 150]], True), ([[[0, 0], [150, 0], [150, 150], [0, 150]]], True),
    (plain_counts(SQUARE), False), (SQUARE | {"counts": repr(SQUARE["counts"].encode())}, True),
], ids=["polygon", "flat", "one of points", "points", "uncompressed", "bytes"])
@pytest.mark.parametrize("areas", [[22500, None], "missing"], ids=["areas", "no areas"])
def test_masks_in_other_forms(tmp_path, segmentation, warned, areas):
    def change(truth, first, group):
        showing(0, segmentation)(truth, first, group)
        setting("areas", areas)(truth, first)

    warnings = assert_as_plain(scored(tmp_path, change))
    assert len(warnings) == warned + (areas == "missing")


@pytest.mark.parametrize("areas", ["missing", None, [], {}, "", [None, None], [0, 0], [[], ""]], ids=repr)
def test_areas_are_computed(tmp_path, areas):
    (warning,) = assert_as_plain(scored(tmp_path, setting("areas", areas)))
    assert "annotations[0].areas: no areas, computed from the masks" in warning


def test_computed_areas_belong_to_their_frames(tmp_path):
    """Frames may be left out later: the area of frame 1 must not become that of frame 0."""

    def change(truth, first, group):
        first.pop("areas"), group.pop("areas")
        first["segmentations"] = [None, plain_counts(SQUARE)]

    scored(tmp_path, change)
    content = read_ground_truth_file(tmp_path / "gt.json").content
    assert [annotation["areas"] for annotation in content["annotations"]] == [[None, 22500], [81, 81]]


@pytest.mark.parametrize("value", ["missing", None, "", False, 0.0], ids=repr)
def test_iscrowd_of_one_object(tmp_path, value):
    (warning,) = assert_as_plain(scored(tmp_path, setting("iscrowd", value)))
    assert "annotations[0].iscrowd" in warning and "taken as 0" in warning


@pytest.mark.parametrize("value", [True, 1.0])
def test_iscrowd_of_a_group(tmp_path, value):
    (warning,) = assert_as_plain(scored(tmp_path, setting("iscrowd", value, of=1)))
    assert "annotations[1].iscrowd" in warning and "taken as 1" in warning


@pytest.mark.parametrize("change", [lambda name: name.replace("/", "\\"), lambda name: f"JPEGImages/{name}"])
def test_names_of_frames_do_not_matter(tmp_path, change):
    def rename(truth, first, group):
        truth["videos"][0]["file_names"] = [change(name) for name in truth["videos"][0]["file_names"]]

    assert assert_as_plain(scored(tmp_path, rename)) == []


@pytest.mark.parametrize("nothing", ["missing", None, [], {}, ""], ids=repr)
def test_no_ground_truth_leaves_every_number_undefined(tmp_path, nothing):
    def change(truth, first, group):
        truth.update(annotations=nothing)
        if nothing == "missing":
            del truth["annotations"]

    evaluation, (warning,) = scored(tmp_path, change)
    assert set(evaluation.metrics.values()) == {-1} and "annotations: no ground truth" in warning


def test_the_command_tells_how_the_file_bends_the_format(tmp_path, capsys):
    scored(tmp_path, setting("iscrowd", "missing"))
    (tmp_path / "results.json").write_text(json.dumps(plain()[1]))
    assert score.main([str(tmp_path / name) for name in ("gt.json", "results.json")] + ["--json", f"{tmp_path}/out.json"]) == 0
    printed = capsys.readouterr()
    assert ["AP", "70.00"] in [line.split() for line in printed.out.splitlines()]
    (told,) = [line.removeprefix("warning: ") for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert "annotations[0].iscrowd" in told and json.loads((tmp_path / "out.json").read_text())["warnings"] == [told]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("key", "change"), [
    ("annotations[0].areas[0]", lambda number: setting("areas", [number, None])),
    ("annotations[0].segmentations[0][0][2]", lambda number: showing(0, [[0, 0, number, 0, 150, 150]])),
    ("annotations[0].segmentations[0]", lambda number: showing(0, {"size": [SIDE, SIDE], "counts": [number, 5]})),
    ("annotations[0].segmentations[0].size", lambda number: showing(0, SQUARE | {"size": [SIDE, number]})),
    ("annotations[0].iscrowd", lambda number: setting("iscrowd", number)),
    ("annotations[0].id", lambda number: setting("id", number)),
    ("videos[0].height", lambda number: lambda truth, first, group: truth["videos"][0].update(height=number)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_numbers_that_are_not_finite(tmp_path, key, change, number):
    assert refused(tmp_path, change(number)).key == key


@pytest.mark.parametrize(("key", "change"), [
    ("annotations[0].id", setting("id", "1")),
    ("annotations[0].iscrowd", setting("iscrowd", 2)),
    ("annotations[0].segmentations", setting("segmentations", "none")),
    ("annotations[0].segmentations[0]", showing(0, [[1, 2]])),
    ("annotations[0]", lambda truth, first, group: truth["annotations"].__setitem__(0, "none")),
    ("annotations", lambda truth, first, group: truth.update(annotations=5)),
    ("videos", lambda truth, first, group: truth.update(videos=None)),
])
def test_what_is_wrong_is_named_with_the_file(tmp_path, key, change):
    assert refused(tmp_path, change).key == key


def test_the_results_of_another_ground_truth_are_named_with_both_files(tmp_path):
    scored(tmp_path)
    read = read_ground_truth_file(tmp_path / "gt.json")
    results = [{"video_id": 9, "category_id": 1, "score": 0.5, "segmentations": []}]
    with pytest.raises(UserError, match=f"9 is not a video of {tmp_path}/gt.json") as caught, read.named_in_errors():
        evaluate(read.content, results)
    assert caught.value.where == "results"


def test_masks_of_another_size_count_unless_their_area_is_needed(tmp_path):
    """The official evaluator takes them, and never lets them overlap."""
    other = text_rle(masks.decode(SQUARE)[:-1])
    assert scored(tmp_path, showing(0, other))[0].metrics["AP"] == 0

    def change(truth, first, group):
        showing(0, other)(truth, first, group)
        del first["areas"]

    assert "wrong size" in refused(tmp_path, change).problem


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa", b"[" * 100_000, b"[]", b'{"videos": ['])
def test_files_that_cannot_be_read(tmp_path, content):
    if content is not None:
        (tmp_path / "gt.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_ground_truth_file(tmp_path / "gt.json")
    assert caught.value.where == str(tmp_path / "gt.json") and caught.value.remedy
