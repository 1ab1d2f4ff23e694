"""HOTA and track mAP by TrackEval: compared with answers computed by hand, and with our own AP."""

import json
import sys

import numpy as np
import pytest
from support.video_ap import box, plain_counts, problem

from effvis.errors import UserError
from effvis.evaluation.average_precision import IOU_THRESHOLDS
from effvis.evaluation.tracking_metrics import tracking_metrics
from effvis.evaluation.video_ap import evaluate
from pipeline.score import main

THRESHOLDS = [f"{threshold:.2f}" for threshold in IOU_THRESHOLDS]


class TestWithTrackEval:
    @pytest.fixture(autouse=True)
    def _installed(self):
        pytest.importorskip("trackeval", reason="TrackEval is not installed: pip install -e '.[tracking]'")

    def test_a_perfect_result(self):
        masks = [box(0, 0, 60, 60), None, box(0, 0, 70, 70)]
        truth = problem([(1, 1, masks, {})], [], categories=2, frames=3)[0]
        truth["annotations"][0]["segmentations"] = [mask and plain_counts(mask) for mask in masks]
        result = {"video_id": 1, "category_id": 1, "score": 0.5, "segmentations": masks}
        found = tracking_metrics(truth, [result])
        assert found.hota == dict.fromkeys(found.hota, pytest.approx(1))
        assert list(found.track_map) == THRESHOLDS
        assert all(one == {"AP": pytest.approx(1), "AR": 1} for one in found.track_map.values())
        assert list(found.per_category) == ["category 1"], "nothing is to be found of the other"

    def test_an_identity_that_changes_halfway(self):
        """Every mask is found, but each track has half of the object's frames: DetA is 1, AssA 1/2, HOTA the root of 1/2."""
        mask = box(0, 0, 60, 60)
        halves = [(1, 1, 0.9, [mask, mask, None, None]), (1, 1, 0.8, [None, None, mask, mask])]
        found = tracking_metrics(*problem([(1, 1, [mask] * 4, {})], halves, frames=4))
        assert (found.hota["DetA"], found.hota["AssA"]) == (pytest.approx(1), pytest.approx(0.5))
        assert found.hota["HOTA"] == pytest.approx(0.5**0.5)
        assert found.hota["LocA"] == pytest.approx(1)

    def test_masks_that_overlap_by_half_count_at_the_lower_thresholds(self):
        """IoU 0.52 meets ten of the 19 thresholds, those up to 0.50, and the first of track mAP's ten."""
        truth, results = problem([(1, 1, [box(0, 0, 100, 100)] * 2, {})], [(1, 1, 0.9, [box(0, 0, 52, 100)] * 2)])
        found = tracking_metrics(truth, results)
        assert found.hota["DetA"] == found.hota["HOTA"] == pytest.approx(10 / 19)
        assert [one["AP"] for one in found.track_map.values()] == [pytest.approx(1)] + [0] * 9

    def test_results_below_the_minimum_score_do_not_count_for_hota(self):
        mask, wrong = box(0, 0, 60, 60), box(100, 100, 160, 160)
        truth, results = problem([(1, 1, [mask] * 2, {})], [(1, 1, 0.9, [mask] * 2), (1, 1, 0.2, [wrong] * 2)])
        assert tracking_metrics(truth, results).hota["DetA"] == pytest.approx(0.5)
        assert tracking_metrics(truth, results, minimum_score=0.2).hota["DetA"] == pytest.approx(0.5)
        assert tracking_metrics(truth, results, minimum_score=0.3).hota["DetA"] == pytest.approx(1)

    @pytest.mark.parametrize("seed", range(6))
    def test_track_map_is_our_ap_at_each_threshold(self, seed):
        """There are no crowds here, because TrackEval follows another rule on them."""
        rng = np.random.default_rng(seed)

        def track(near):
            corners = near + rng.integers(-12, 13, (3, 4))
            return [box(*corner) if rng.random() < 0.8 else None for corner in np.clip(corners, 0, 270)]

        places = rng.integers(0, 120, (8, 4)) + [0, 0, 100, 100]
        groups = [tuple(map(int, group)) for group in rng.integers(1, 3, (8, 2))]
        annotations = [(*group, track(place), {}) for group, place in zip(groups, places, strict=True)]
        results = [(*groups[n], float(rng.random()), track(places[n])) for n in rng.integers(0, 8, 30)]
        truth, results = problem(annotations, results, videos=2, categories=2, frames=3)
        found = tracking_metrics(truth, results)
        assert np.mean([one["AP"] for one in found.track_map.values()]) == pytest.approx(evaluate(truth, results).metrics["AP"])
        assert found.track_map["0.50"]["AP"] == pytest.approx(evaluate(truth, results).metrics["AP50"])
        assert found.track_map["0.75"]["AP"] == pytest.approx(evaluate(truth, results).metrics["AP75"])

    def test_no_ground_truth_and_masks_of_another_size(self):
        mask = box(0, 0, 60, 60)
        truth, results = problem([(1, 1, [mask] * 2, {})], [(1, 2, 0.9, [mask] * 2)], categories=2)
        found = tracking_metrics(truth, results)
        assert found.hota["HOTA"] == 0 and found.track_map["0.50"]["AP"] == 0
        results[0] |= {"category_id": 1, "segmentations": [box(0, 0, 60, 60, height=280)] * 2}
        assert tracking_metrics(truth, results).hota["HOTA"] == 0

    def test_the_command_shows_and_writes_them(self, tmp_path, capsys):
        mask = box(0, 0, 60, 60)
        files = tmp_path / "gt.json", tmp_path / "results.json"
        for file, content in zip(files, problem([(1, 1, [mask] * 2, {})], [(1, 1, 0.9, [mask] * 2)]), strict=True):
            file.write_text(json.dumps(content))
        assert main([*map(str, files), "--hota", "--minimum-score", "0.5", "--json", str(tmp_path / "out.json")]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["HOTA", "100.00"] in rows and ["0.95", "100.00", "100.00"] in rows
        written = json.loads((tmp_path / "out.json").read_text())["tracking"]
        assert set(written) == {"minimum_score", "hota", "track_map", "per_category"} and written["minimum_score"] == 0.5
        assert written["track_map"]["0.50"] == {"AP": pytest.approx(1), "AR": 1}


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackeval", None)
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    with pytest.raises(UserError, match="pip install") as error:
        tracking_metrics({}, [])
    assert error.value.where == "--hota"
