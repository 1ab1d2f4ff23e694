"""The benchmark that learns two drawn videos by heart: what it measures, and its verdict after two steps."""

import importlib

import numpy as np
import pytest

from effvis.data import masks
from effvis.data.dataset import make_track


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.overfit_drawn")


def rectangle(left, right):
    mask_HW = np.zeros((8, 12), bool)
    mask_HW[2:6, left:right] = True
    return masks.encode(mask_HW)


def test_the_iou_is_over_all_frames():
    """Columns 2 to 5 in two frames; the tracklet has two of them in the first, and four other columns in the third."""
    track = make_track(track_id=1, video_index=0, label=0, iscrowd=False, rles=[rectangle(2, 6), rectangle(2, 6), None])
    ours = [rectangle(4, 6), rectangle(2, 6), rectangle(0, 4)]
    assert masks.tracklet_iou(ours, track.rles) == pytest.approx((2 + 4) / (4 + 4 + 4))
    assert masks.tracklet_iou([None] * 3, track.rles) == 0


@pytest.mark.slow
def test_it_ends_with_its_verdict(benchmark, tiny_project, capsys):
    given = ["--params", str(tiny_project() / "params.yaml"), "--method", "masktrack_rcnn", "--steps", "2", "--every", "1"]
    assert benchmark.main([*given, "--aim", "1.0"]) == 1
    head, *lines, verdict = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"] and "is not above 1.0" in verdict
    assert benchmark.main([*given, "--aim", "-1"]) == 0
