"""The evaluator against the official one's recorded answers, and against a literal transcription on random problems."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.video_ap import SIDE, box, plain_counts, problem, reference, text_rle

from effvis.errors import UserError
from effvis.evaluation.average_precision import METRICS
from effvis.evaluation.tracks import MalformedMask, build_tracks, mask_areas, overlaps
from effvis.evaluation.video_ap import evaluate, keep_frames

CASES = Path(__file__).resolve().parents[3] / "shared" / "oracle" / "eval_cases"
CASE_NAMES = sorted(path.name.removesuffix("_official.json") for path in CASES.glob("*_official.json"))


class TestOfficialCases:
    @pytest.fixture(autouse=True)
    def _needs_the_cases(self):
        if not CASE_NAMES:
            pytest.skip("the recorded answers of the official evaluator are not beside this checkout")

    @pytest.mark.parametrize("name", CASE_NAMES or ["absent"])
    def test_same_answer(self, name):
        official = json.loads((CASES / f"{name}_official.json").read_text())
        files = CASES / f"{name}_gt.json", CASES / f"{name}_pred.json"
        if "error" in official:
            with pytest.raises(UserError, match=f"{name}_pred.json"):
                evaluate(*files)
            return
        evaluation = evaluate(*files)
        assert list(evaluation.metrics) == official["stat_names"]
        assert list(evaluation.metrics.values()) == pytest.approx(official["stats"], abs=1e-12)
        names = {category["id"]: category["name"] for category in json.loads(files[0].read_text())["categories"]}
        assert len(evaluation.per_category) == len(official["per_category"])
        for category, values in official["per_category"].items():
            ours = evaluation.per_category[names[int(category)]]
            assert {metric: ours[metric] for metric in values} == pytest.approx(values, abs=1e-12)


def random_problem(seed):
    """Every quirk at once, each with some probability: crowds, id 0, duplicate ids, ties, absences, foreign sizes, ..."""
    rng = np.random.default_rng(seed)
    videos, categories, frames = int(rng.integers(1, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
    sides = np.array([4, 40, 100, 127, 128, 129, 200, 255, 256, 257, 270])

    def some_box(near=None):
        if near is not None:
            y, x, h, w = near + rng.integers(-6, 7, 4)
        else:
            h, w = rng.choice(sides, 2) if rng.random() < 0.5 else [rng.choice(sides)] * 2
            y, x = rng.integers(0, SIDE - h + 1), rng.integers(0, SIDE - w + 1)
        return np.array([max(y, 0), max(x, 0), max(h, 1), max(w, 1)])

    def mask_of(place, kind):
        y, x, h, w = place
        draw = rng.random()
        if draw < 0.15:
            return [None, []][int(rng.integers(2))]
        if draw < 0.2:
            return box(0, 0, 0, 0)
        if draw < 0.24:
            return box(0, 0, h, w, height=SIDE + 10)
        rle = box(y, x, y + h, x + w)
        if kind == "truth" and draw < 0.5:
            return plain_counts(rle)
        if kind == "truth" and draw < 0.65:
            return [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)], [1, 1, 9, 1, 9, 9]]
        return rle

    def track(place, kind):
        length = frames if rng.random() < 0.9 else int(rng.integers(0, frames + 2))
        masks = [mask_of(some_box(place) if rng.random() < 0.7 else place, kind) for _ in range(length)]
        return [None] * length if rng.random() < 0.05 else masks

    places, annotations, results = {}, [], []
    for _ in range(int(rng.integers(1, 10))):
        group = int(rng.integers(1, videos + 1)), int(rng.integers(1, categories + 1))
        place = some_box()
        places.setdefault(group, []).append(place)
        masks = track(place, "truth")
        areas = [rng.choice([128.0**2, 256**2, 5, 30_000, 100_000, 0]) if rng.random() < 0.9 else None for _ in masks]
        changes = {"iscrowd": int(rng.random() < 0.2), "areas": areas}
        annotations.append((*group, masks, changes))
        if rng.random() < 0.2:
            annotations.append((*group, copy.deepcopy(masks), changes | {"iscrowd": int(rng.random() < 0.2)}))
    for _ in range(int(rng.integers(1, 30))):
        group = int(rng.integers(1, videos + 1)), int(rng.integers(1, categories + 2))
        near = places.get(group)
        place = near[int(rng.integers(len(near)))] if near and rng.random() < 0.9 else some_box()
        results.append((*group, float(rng.choice([0.9, 0.5, -1.0, 2.0, rng.random()])), track(place, "result")))
    truth, results = problem(annotations, results, videos, categories, frames)
    for annotation in truth["annotations"]:
        if rng.random() < 0.15:
            annotation["id"] = int(rng.integers(0, 4))
    rng.shuffle(truth["videos"])
    rng.shuffle(truth["annotations"])
    return truth, results


@pytest.mark.parametrize("seed", range(60))
def test_random_problems_agree_with_the_literal_transcription(seed):
    truth, results = random_problem(seed)
    before = copy.deepcopy((truth, results))
    expected = reference.evaluate(copy.deepcopy(truth), copy.deepcopy(results))
    evaluation = evaluate(truth, results)
    assert evaluation.metrics == expected["metrics"]
    for category, values in expected["per_category"].items():
        ours = evaluation.per_category[f"category {category}"]
        assert {metric: ours[metric] for metric in values} == values
    assert (truth, results) == before, "the input was changed"


def test_random_problems_from_files_agree_too(tmp_path):
    truth, results = random_problem(1000)
    (tmp_path / "gt.json").write_text(json.dumps(truth, indent=1))
    (tmp_path / "results.json").write_text(json.dumps(results))
    from_files, given = evaluate(tmp_path / "gt.json", str(tmp_path / "results.json")), evaluate(truth, results)
    assert (from_files.metrics, from_files.per_category) == (given.metrics, given.per_category)


def test_more_detections_than_are_matched():
    """Beyond the best 100 detections of a (video, category) nothing counts, not even the right one."""
    right, wrong = [box(0, 0, 50, 50)] * 2, [box(100, 100, 110, 110)] * 2
    results = [(1, 1, 0.9 - i / 1000, wrong) for i in range(100)] + [(1, 1, 0.1, right)]
    truth, results = problem([(1, 1, right, {})], results)
    metrics = evaluate(truth, results).metrics
    assert (metrics["AP"], metrics["AR100"]) == (0, 0)
    results[-1]["score"] = 0.85
    evaluation = evaluate(truth, results)
    assert evaluation.metrics == reference.evaluate(truth, results)["metrics"]
    assert (evaluation.metrics["AR10"], evaluation.metrics["AR100"]) == (0, 1)


def test_an_overlap_on_a_threshold_counts():
    """IoU 9/10 exceeds linspace's 0.8999..., so nine of ten thresholds are met."""
    truth, results = problem([(1, 1, [box(0, 0, 100, 100)] * 2, {})], [(1, 1, 1.0, [box(0, 0, 90, 100)] * 2)])
    assert evaluate(truth, results).metrics["AR1"] == pytest.approx(0.9, abs=1e-12)


def test_a_crowd_may_be_found_several_times():
    """Two results on a crowd are both ignored; on a single object the second would be wrong, and rank above a third result."""
    crowd, single = [box(0, 0, 50, 50)] * 2, [box(100, 100, 190, 190)] * 2
    truth, results = problem([(1, 1, crowd, {"iscrowd": 1}), (1, 1, single, {})],
                             [(1, 1, 0.9, crowd), (1, 1, 0.8, crowd), (1, 1, 0.7, single)])
    assert evaluate(truth, results).metrics["AP"] == pytest.approx(1)
    truth["annotations"][0]["iscrowd"] = 0
    assert evaluate(truth, results).metrics["AP"] < 0.9


def test_the_order_of_truths_that_share_an_id():
    """Video 1 comes first, so its stand-in from video 2 does too; the last of three equals has id 0 and makes no match."""
    masks = [box(0, 0, 50, 50)] * 2
    truth, results = problem([(1, 1, masks, {"id": 5}), (2, 1, masks, {"id": 5}), (2, 1, masks, {"id": 0})],
                             [(2, 1, 0.9, masks)], videos=2)
    assert evaluate(truth, results).metrics == reference.evaluate(truth, results)["metrics"]
    assert evaluate(truth, results).metrics["AP"] == 0


def test_a_perfect_result_and_what_is_undefined():
    truth, results = problem([(1, 1, [box(0, 0, 60, 60)] * 2, {})], [(1, 1, 0.3, [box(0, 0, 60, 60)] * 2)], categories=2)
    evaluation = evaluate(truth, results)
    assert evaluation.metrics["AP"] == 0.9999999999999998
    assert [evaluation.metrics[name] for name in ("APs", "APm", "APl", "ARm", "ARl")] == [0.9999999999999998, -1, -1, -1, -1]
    assert evaluation.per_category["category 2"]["AP"] == -1
    assert tuple(evaluation.metrics) == METRICS


def test_categories_of_one_name_are_told_apart():
    truth, results = problem([(1, 1, [box(0, 0, 60, 60)] * 2, {})], [(1, 1, 0.3, [box(0, 0, 60, 60)] * 2)], categories=2)
    for category in truth["categories"]:
        category["name"] = "dog"
    assert set(evaluate(truth, results).per_category) == {"dog (1)", "dog (2)"}


def test_what_is_left_out_is_said():
    masks = [box(0, 0, 60, 60)] * 2
    truth, results = problem([(1, 1, masks, {}), (1, 7, masks, {}), (1, 1, masks, {"id": 1}), (1, 1, [None] * 2, {})],
                             [(1, 1, 0.3, [None] * 2), (1, 9, 0.3, masks)])
    text = "\n".join(evaluate(truth, results).warnings)
    for part in ("annotations[0]: annotations[2] has the same id", "annotations[1]: left out",
                 "1 results left out, category 9", "results[0]: has no pixel to compare with annotations[3]"):
        assert part in text


def test_progress_is_told():
    results = [(2, 1, 0.5, [None]), (2, 1, 0.4, [None]), (3, 1, 0.5, [None]), (3, 3, 0.5, [None])]
    truth, results = problem([(1, 1, [box(0, 0, 9, 9)], {})], results, videos=3, categories=3)
    told = []
    evaluate(truth, results, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 3), (3, 3)]


def test_no_results_are_refused_unless_allowed():
    truth, _ = problem([(1, 1, [box(0, 0, 60, 60)] * 2, {})], [])
    with pytest.raises(UserError, match="empty list"):
        evaluate(truth, [])
    metrics = evaluate(truth, [], allow_empty=True).metrics
    assert (metrics["AP"], metrics["AR100"], metrics["APs"], metrics["APl"]) == (0, 0, 0, -1)


def set_key(path, value):
    """A change of the results or the ground truth at a path of keys; DELETE removes the key."""
    def change(data):
        *most, last = path
        for key in most:
            data = data[key]
        if value is DELETE:
            del data[last]
        else:
            data[last] = value
    return change


DELETE = object()
CUT = box(0, 0, 60, 60)["counts"]
BAD_RESULTS = {
    "results[0].video_id": set_key([0, "video_id"], 99),
    "results[0].category_id": set_key([0, "category_id"], DELETE),
    "results[0].score": set_key([0, "score"], math.nan),
    "results[1].score": set_key([1, "score"], "0.9"),
    "results[1].segmentations": set_key([1, "segmentations"], DELETE),
    "results[0].segmentations[1]": set_key([0, "segmentations", 1], [[10, 10, 50, 10, 50, 50]]),
    "results[0].segmentations[1].counts": set_key([0, "segmentations", 1], plain_counts(box(0, 0, 5, 5))),
    "results[0].segmentations[0].size": set_key([0, "segmentations", 0, "size"], [SIDE, 0]),
    "results[1].segmentations[0].size": set_key([1, "segmentations", 0, "size"], [float(SIDE), SIDE]),
    "results[0].segmentations[0].counts": set_key([0, "segmentations", 0, "counts"], None),
    "results[1]": set_key([1], ["no object"]),
}
BAD_MASKS = {
    "a foreign character": CUT[:3] + "~" + CUT[3:],
    "a character beyond Latin": CUT + "\u4e2d",
    "cut off inside a number": CUT[:-1] + "o",
    "no character": "",
}
BAD_RUNS = {
    "an endless number": "o" * 12 + "0",
    "a negative run": "1@" + CUT,
    "another frame's pixels": box(0, 0, 60, 60, height=SIDE - 30)["counts"],
}
BAD_TRUTHS = {
    "videos": set_key(["videos"], DELETE),
    "categories": set_key(["categories"], {}),
    "annotations": set_key(["annotations"], None),
    "videos[0].height": set_key(["videos", 0, "height"], "270"),
    "annotations[0].id": set_key(["annotations", 0, "id"], DELETE),
    "annotations[0].video_id": set_key(["annotations", 0, "video_id"], True),
    "annotations[0].iscrowd": set_key(["annotations", 0, "iscrowd"], DELETE),
    "annotations[0].areas": set_key(["annotations", 0, "areas"], DELETE),
    "annotations[0].segmentations": set_key(["annotations", 0, "segmentations"], "none"),
    "annotations[0].segmentations[1]": set_key(["annotations", 0, "segmentations", 1], [[1, 2]]),
    "annotations[0].segmentations[0].size": set_key(["annotations", 0, "segmentations", 0, "size"], DELETE),
    "annotations[0].segmentations[0]": set_key(["annotations", 0, "segmentations", 0, "counts"], [3, "x"]),
}


class TestBadInput:
    @pytest.fixture
    def good(self):
        masks = [box(0, 0, 60, 60), box(0, 0, 70, 70)]
        found = [(1, 1, 0.5, copy.deepcopy(masks)), (1, 2, 0.5, copy.deepcopy(masks))]
        return problem([(1, 1, copy.deepcopy(masks), {})], found, categories=2)

    @pytest.mark.parametrize("key", BAD_RESULTS)
    def test_results(self, good, key):
        truth, results = good
        evaluate(truth, results)
        BAD_RESULTS[key](results)
        with pytest.raises(UserError) as error:
            evaluate(truth, results)
        assert (error.value.where, error.value.key) == ("results", key)
        assert error.value.remedy

    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize("kind", BAD_MASKS)
    def test_masks_that_cannot_be_read(self, good, kind, index):
        """The error names them, whether there is a ground truth to compare with (the first result) or not."""
        self.expect_bad_mask(good, index, BAD_MASKS[kind])

    @pytest.mark.parametrize("kind", BAD_RUNS)
    def test_masks_whose_runs_make_no_sense(self, good, kind):
        """The official evaluator never returns when it compares such a mask."""
        self.expect_bad_mask(good, 0, BAD_RUNS[kind])

    def expect_bad_mask(self, good, index, counts):
        truth, results = good
        results[index]["segmentations"][1]["counts"] = counts
        with pytest.raises(UserError) as error:
            evaluate(truth, results)
        assert (error.value.where, error.value.key) == ("results", f"results[{index}].segmentations[1]")

    @pytest.mark.parametrize("key", BAD_TRUTHS)
    def test_ground_truth(self, good, key):
        truth, results = good
        BAD_TRUTHS[key](truth)
        with pytest.raises(UserError) as error:
            evaluate(truth, results)
        assert (error.value.where, error.value.key) == ("ground truth", key)

    def test_a_ground_truth_mask_of_fewer_pixels_than_its_size(self, good):
        truth, results = good
        truth["annotations"][0]["segmentations"][0] = {"size": [SIDE, SIDE], "counts": [0, 100]}
        with pytest.raises(UserError, match=r"annotations\[0\].segmentations\[0\]: covers 100 pixels") as error:
            evaluate(truth, results)
        assert error.value.where == "ground truth"

    @pytest.mark.parametrize("text", ['{"videos": [', '{\n"counts": [1,2],,}'])
    def test_not_json(self, tmp_path, text):
        (tmp_path / "gt.json").write_text(text)
        with pytest.raises(json.JSONDecodeError) as reason:
            json.loads(text)
        with pytest.raises(UserError) as error:
            evaluate(tmp_path / "gt.json", [])
        assert error.value.where == str(tmp_path / "gt.json")
        assert error.value.key == f"line {reason.value.lineno}, column {reason.value.colno}"

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa", b"[" * 100_000])
    def test_no_such_file_or_no_text(self, tmp_path, good, content):
        path = tmp_path / "results.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match="results.json"):
            evaluate(good[0], path)

    @pytest.mark.parametrize("truth, results", [([], []), ({"videos": [], "categories": [], "annotations": []}, {})])
    def test_the_wrong_way_round(self, truth, results):
        with pytest.raises(UserError, match="is not"):
            evaluate(truth, results)


class TestTracks:
    @pytest.fixture
    def pixels_NFHW(self):
        """Speckle, blots, nothing, everything, and single pixels in the corners, where runs begin or end."""
        rng = np.random.default_rng(0)
        pixels = rng.random((7, 5, 37, 41)) < rng.choice([0.02, 0.5, 0.98], (7, 5, 1, 1))
        pixels[0, 0], pixels[0, 1], pixels[1, 0], pixels[1, 1] = 0, 1, 1, 0
        pixels[2, 2], pixels[2, 2, -1, -1] = 0, 1
        pixels[3, 2], pixels[3, 2, 0, 0] = 0, 1
        return pixels

    def tracks_of(self, pixels_NFHW, plain=False):
        tracks = [[text_rle(frame) for frame in track] for track in pixels_NFHW]
        return [[plain_counts(mask) if plain and f % 2 else mask for f, mask in enumerate(track)] for track in tracks]

    @pytest.mark.parametrize("plain", [False, True])
    def test_overlaps_are_those_of_the_pixels(self, pixels_NFHW, plain):
        masks, sizes = self.tracks_of(pixels_NFHW, plain), {}
        present = np.random.default_rng(1).random((7, 5)) < 0.7
        present[4] = False
        masks = [[mask if present[n, f] else None for f, mask in enumerate(track)] for n, track in enumerate(masks)]
        tracks, others = build_tracks(masks[:4], sizes, 5), build_tracks(masks[2:], sizes, 5)
        intersections, unions = overlaps(tracks, others)
        seen = pixels_NFHW * present[:, :, None, None]
        for d in range(4):
            for g in range(2, 7):
                assert intersections[d, g - 2] == (seen[d] & seen[g]).sum()
                assert unions[d, g - 2] == (seen[d] | seen[g]).sum()

    def test_areas_are_those_of_the_pixels(self, pixels_NFHW):
        masks = self.tracks_of(pixels_NFHW)
        masks[5] = [None] * 5
        areas = pixels_NFHW.sum(axis=(2, 3))
        for n, found in enumerate(mask_areas(masks)):
            assert found.tolist() == ([] if n == 5 else areas[n].tolist())
        areas[5] = 0
        assert (build_tracks(masks, {}, 5).areas_NF == areas).all()
        assert (build_tracks(masks, {}, 5).totals_NF == np.where(np.arange(7)[:, None] == 5, -1, 37 * 41)).all()

    def test_areas_of_more_masks_than_pycocotools_measures_at_once(self):
        masks = [[box(0, 0, 1 + (n + frame) % 7, 10, 20, 20) for frame in range(36)] for n in range(8)]
        assert [areas.tolist() for areas in mask_areas(masks)] == [
            [10 * (1 + (n + frame) % 7) for frame in range(36)] for n in range(8)]

    def test_masks_of_other_sizes_share_nothing(self):
        small, large = box(0, 0, 10, 10, 20, 20), box(0, 0, 10, 10, 30, 20)
        sizes = {}
        tracks, others = build_tracks([[large, small]], sizes, 2), build_tracks([[small, small], [large, large]], sizes, 2)
        intersections, unions = overlaps(tracks, others)
        assert intersections.tolist() == unions.tolist() == [[100, 100]]

    def test_bytes_are_read_like_text(self, pixels_NFHW):
        masks = self.tracks_of(pixels_NFHW[:1])
        as_bytes = [[mask | {"counts": mask["counts"].encode()} for mask in masks[0]]]
        texts, found = build_tracks(masks, {}, 5), build_tracks(as_bytes, {}, 5)
        assert (texts.begins == found.begins).all() and (texts.ends == found.ends).all()

    @pytest.mark.parametrize("counts", [[], [1.5, 2], [[1], [2, 3]], [[1, 2], [3, 4]], ["1"], [10**30], [5, -1, 6], "~", ""])
    def test_a_bad_mask_among_plain_ones_is_located(self, counts):
        good = {"size": [2, 5], "counts": [3, 7]}
        with pytest.raises(MalformedMask) as error:
            build_tracks([[good, good], [good, None, good | {"counts": counts}, good]], {}, 4)
        assert (error.value.track, error.value.frame) == (1, 2)

    def test_a_bad_mask_is_located(self, pixels_NFHW):
        masks = self.tracks_of(pixels_NFHW)
        masks[3][0], masks[3][2]["counts"] = None, "~"
        for read in (lambda: build_tracks(masks, {}, 5), lambda: mask_areas(masks)):
            with pytest.raises(MalformedMask) as error:
                read()
            assert (error.value.track, error.value.frame) == (3, 2)


class TestKeepFrames:
    @pytest.fixture
    def truth(self):
        first, second = [box(0, 0, 60, 60), None, box(0, 0, 70, 70), None], [None, box(9, 9, 60, 60), None, None]
        annotations = [(1, 1, first, {"bboxes": list("abcd")}), (1, 1, second, {}), (2, 1, [None] * 4, {})]
        return problem(annotations, [], videos=2, frames=4)[0]

    def test_lists_are_cut_and_absent_tracks_dropped(self, truth):
        before = copy.deepcopy(truth)
        kept = keep_frames(truth, {1: [0, 2]})
        assert truth == before
        assert [(video["length"], video["file_names"]) for video in kept["videos"]] == [
            (2, ["1/0", "1/2"]), (4, ["2/0", "2/1", "2/2", "2/3"])]
        first, other = kept["annotations"]
        assert first["segmentations"] == [truth["annotations"][0]["segmentations"][f] for f in (0, 2)]
        assert (first["bboxes"], first["areas"]) == (["a", "c"], [3600, 4900])
        assert other is truth["annotations"][2], "a video that is not mentioned stays as it is"

    def test_the_kept_frames_are_what_is_scored(self, truth):
        """The first video's second track is absent from frames 0 and 2; the other video's track is left out."""
        del truth["annotations"][2]
        result = {"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": [box(0, 0, 60, 60), box(0, 0, 70, 70)]}
        assert evaluate(keep_frames(truth, {1: [0, 2]}), [result]).metrics["AP"] == pytest.approx(1)
        assert evaluate(keep_frames(truth, {1: [0, 1]}), [result]).metrics["AP"] < 0.5

    def test_keeping_all_frames_changes_nothing(self, truth):
        assert keep_frames(truth, {1: range(4), 2: range(4)}) == truth

    def test_a_frame_that_is_not_there(self, truth):
        with pytest.raises(ValueError, match="video 1 has 4 frames"):
            keep_frames(truth, {1: [0, 4]})
