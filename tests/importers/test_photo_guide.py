"""docs/own-data.md on photographs: its commands, exactly as printed, lead from frames and masks to predicted tracklets."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.grid.imagenet import PACKAGES

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = PACKAGES["efficientnet-lite0"].module


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"{PACKAGE} (the extra photo) is not installed")
def test_the_commands_for_photographs(tiny_project):
    project = tiny_project()
    rng = np.random.default_rng(0)
    for video in ("street-1", "street-2"):
        for kind in ("JPEGImages", "Annotations"):
            (project / "videos" / kind / video).mkdir(parents=True)
        for frame in range(5):
            mask_HW = np.zeros((32, 48), np.uint8)
            mask_HW[8:20, 4 + 4 * frame:18 + 4 * frame] = 1
            pixels = rng.integers(0, 90, (32, 48, 3), dtype=np.uint8) + 120 * mask_HW[..., None]
            Image.fromarray(pixels).save(project / "videos" / "JPEGImages" / video / f"{frame}.jpg")
            Image.fromarray(mask_HW).save(project / "videos" / "Annotations" / video / f"{frame}.png")
    (project / "categories.yaml").write_text(yaml.safe_dump({"*": "object"}))
    guide = (CHECKOUT / "docs" / "own-data.md").read_text()
    (imported,) = re.findall(r"^python -m pipeline.import_masks .*$", guide, re.MULTILINE)[:1]
    (commands,) = re.findall(r"```shell\n(.*?)```", guide, re.DOTALL)
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", f"{imported}\n{commands}"], cwd=project, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    trained = json.loads((project / "results-photo" / "train.json").read_text())
    runs = {file.parent.name: yaml.safe_load(file.read_text()) for file in project.glob("runs/*/config.yaml")}
    clips = runs[trained["run"]]
    frames = runs[clips["init"].removeprefix("run:")]
    assert frames["init"] == f"imagenet:efficientnet-lite0@{PACKAGES['efficientnet-lite0'].sha256}"
    assert [run["model"]["backbone"] for run in (frames, clips)] == ["efficientnet-lite0"] * 2
    assert [run["train"]["colour"] for run in (frames, clips)] == [0.3] * 2
    assert [run["model"]["clip_length"] for run in (frames, clips)] == [1, 3]
    assert 0 <= json.loads((project / "results-photo" / "headline.json").read_text())["percent"]["AP"] <= 100
    assert [file.suffix for file in (project / "pictures-photo").iterdir()] == [".png"]
    assert list((project / "predicted").glob("*.csv"))
