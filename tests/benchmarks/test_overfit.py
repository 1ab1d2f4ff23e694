"""The benchmark that learns two clips by heart: what it measures, and its verdict, on drawn frames and a small network."""

import importlib

import numpy as np
import pytest
from PIL import Image

from effvis.data import masks
from effvis.data.dataset import make_track
from effvis.inference.clip import TrackletPredictions

SMALL = "--backbone resnet18 --queries 2 --iterations 1 --hidden-dim 16 --steps 3 --every 2 --threads 1".split()


@pytest.fixture
def benchmark():
    return importlib.import_module("benchmarks.overfit")


def rectangle(left, right, height=8, width=12):
    mask_HW = np.zeros((height, width), bool)
    mask_HW[2:6, left:right] = True
    return mask_HW


def test_an_instance_is_compared_where_it_is_visible(benchmark):
    """The masks share 2 of 6 columns; the boxes, which are wider than the masks, 4 of 8; the last frame shows no instance."""
    true, ours = masks.encode(rectangle(2, 6)), masks.encode(rectangle(4, 8))
    track = make_track(track_id=1, video_index=0, label=1, iscrowd=False, rles=[true, true, None])
    tracklets = TrackletPredictions(
        probabilities_NTK=np.array([[[0.9, 0.2], [0.9, 0.4], [0.9, 0.9]]]), present_NT=np.ones((1, 3), bool),
        boxes_NT4=np.array([[[2, 2, 10, 6], [2, 2, 10, 6], [0, 0, 1, 1]]], float), rles=[[ours, ours, ours]])
    assert benchmark._compared(tracklets, 0, track) == pytest.approx((1 / 3, 1 / 2, 0.3))


@pytest.mark.slow
@pytest.mark.parametrize(("aim", "code"), [(-1.0, 0), (1.0, 1)])
def test_it_trains_on_the_first_frames_and_says_whether_the_aim_is_reached(benchmark, tmp_path, capsys, aim, code):
    rng = np.random.default_rng(0)
    for number, sequence in enumerate(("one", "two", "another")):
        for kind in ("JPEGImages", "Annotations"):
            (tmp_path / kind / sequence).mkdir(parents=True)
        for frame in range(6):
            mask_HW = rectangle(10 + frame, 50 + 10 * number, 60, 100)
            pixels = rng.integers(0, 100, (60, 100, 3), dtype=np.uint8) + 120 * mask_HW[..., None].astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "JPEGImages" / sequence / f"{frame:05d}.jpg")
            Image.fromarray(mask_HW.astype(np.uint8)).save(tmp_path / "Annotations" / sequence / f"{frame:05d}.png")
    assert benchmark.main([str(tmp_path), "--sequence", "one", "--sequence", "two", "--aim", str(aim), *SMALL]) == code
    title, head, *lines, verdict = capsys.readouterr().out.splitlines()
    assert title == "resnet18, random weights, T=4, 192x320, N=2, M=1, C=16; one, two"
    steps = [line.split()[0] for line in lines]
    assert steps == (["0", "2"] if code == 0 else ["0", "2", "3"]), "it ends where the aim is reached"
    assert head.split() == "step loss mask IoU box IoU probability s/step of a processor".split()
    assert all(float(number) >= 0 for line in lines for number in line.split())
    assert [len(line.split()) for line in lines] == [4, *[7] * (len(lines) - 1)]
    assert f"is {'above' if code == 0 else 'not above'} {aim}" in verdict
