"""benchmarks.speed runs to its end, and its JSON agrees with its table."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.models import put, resnet_model

from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import build_vistr

CHECKOUT = Path(__file__).resolve().parents[2]


def speed(*arguments):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run([sys.executable, "-m", "benchmarks.speed", "--threads", "1", *map(str, arguments)], cwd=CHECKOUT,
                          env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_clips_are_taken_in_turns_and_written_down(tmp_path):
    cases = ("efficientvis fast", "vistr", "vistr literal", "resnet50")
    said = speed("--quick", "--case", *cases, "--frames", "2", "--size", "64x96", "--video-size", "96x128", "--rounds", "2",
                 "--out", tmp_path / "speed.json")
    found = json.loads((tmp_path / "speed.json").read_text())
    assert found["precision"] == "fp32" and found["threads"] == 1
    (clip,) = found["clips"]
    assert clip["frames"] == 2 and clip["size"] == [64, 96] and min(clip["gflops_peak"].values()) > 0
    assert tuple(clip["cases"]) == cases
    for name, case in clip["cases"].items():
        assert f"| {name} |" in said
        assert len(case["rounds"]) == 2 and case["gflop"] > 0 and case["peak_gb"] > 0
        assert case["fps_model"] == pytest.approx(2 / case["seconds"]["model"])
        if name != "resnet50":
            assert case["fps_model"] > case["fps_model_post"] > case["fps_end_to_end"]
    ratio = clip["ratios"]["EfficientVIS fast against VisTR, FPS, model only"]
    rounds = [clip["cases"][name]["rounds"] for name in ("vistr", "efficientvis fast")]
    assert ratio == pytest.approx(sum(a["model"] / b["model"] for a, b in zip(*rounds, strict=True)) / 2)


@pytest.mark.slow
def test_both_paths_of_a_model_are_scored(tmp_path, drawn_index):
    folder = put(tmp_path / "model", resnet_model("tiny", num_classes=5))
    speed("--model", folder, "--data", drawn_index.images.parent, "--out", tmp_path / "ap.json")
    found = json.loads((tmp_path / "ap.json").read_text())
    assert list(found) == ["plain", "fast", "fast, pooled first"]
    for path in found.values():
        assert path["AP"] == pytest.approx(found["plain"]["AP"], abs=1e-4)
        assert path["results"] > 0 and path["masks"] > 0 and path["scores_differ_by"] < 1e-4


def test_differences_are_counted():
    speed = importlib.import_module("benchmarks.speed")
    mask, other = {"size": [2, 2], "counts": "04"}, {"size": [2, 2], "counts": "13"}
    one = [{"score": 0.5, "segmentations": [mask, None, mask]}]
    two = [{"score": 0.25, "segmentations": [other, None, mask]}]
    assert speed.apart(one, two) == {"masks": 2, "masks_differ": 1, "scores_differ_by": 0.25}


def test_vistr_in_its_authors_order_gives_the_same_numbers():
    literal_vistr = importlib.import_module("benchmarks.references.literal_vistr")
    config = VisTRConfig(backbone="tiny", hidden_dim=96, queries=3, encoder_layers=1, decoder_layers=2, attention_heads=2,
                         ffn_dim=32, num_classes=2, clip_length=4)
    torch.manual_seed(0)
    ours, literal = build_vistr(config).eval(), literal_vistr.LiteralVisTR(config).eval()
    literal.load_state_dict(ours.state_dict())
    clip = torch.rand(1, 4, 3, 48, 64) * 255
    with torch.inference_mode():
        a, b = ours(clip), literal(clip)
        for name in ("logits_DBNTK", "boxes_DBNT4", "query_BNTC"):
            torch.testing.assert_close(getattr(b, name), getattr(a, name), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(literal.mask_logits(b), ours.mask_logits(a), rtol=1e-4, atol=1e-4)
        chosen = torch.tensor([[2, 0]])
        torch.testing.assert_close(literal.mask_logits(b, chosen), ours.mask_logits(a, chosen), rtol=1e-4, atol=1e-4)
