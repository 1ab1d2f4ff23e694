"""docs/own-data.md: its commands, exactly as printed, lead from frames and masks to AP."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effvis.data import masks
from pipeline.indexing.read import load_index
from pipeline.settings.loading import load_params

CHECKOUT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH, LENGTH = 32, 48, 6
# Two videos with numbers in one mask, one with a folder for each instance.
VIDEOS = {"street-1": ("1",), "street-2": ("1", "2"), "park": ("1", "2", "3")}


def instance_mask(number: int, frame: int) -> np.ndarray:
    mask_HW = np.zeros((HEIGHT, WIDTH), bool)
    mask_HW[8 * number:8 * number + 7, 5 * frame:5 * frame + 12] = True
    return mask_HW


def write_video(folder: Path, name: str, instances: tuple[str, ...]) -> None:
    frames, annotations = folder / "JPEGImages" / name, folder / "Annotations" / name
    frames.mkdir(parents=True)
    for frame in range(LENGTH):
        numbers_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        for instance in instances:
            mask_HW = instance_mask(int(instance), frame)
            numbers_HW[mask_HW] = int(instance)
            if name == "park":
                (annotations / instance).mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask_HW).save(annotations / instance / f"{frame}.png")
        if name != "park":
            annotations.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers_HW).save(annotations / f"{frame}.png")
        Image.fromarray(np.stack([numbers_HW * 80] * 3, axis=-1)).save(frames / f"{frame}.jpg")


def tracks_json() -> dict:
    """The file that CVAT would export for the same videos."""
    images = [{"id": 10 * v + f, "file_name": f"{name}/{f}.jpg", "height": HEIGHT, "width": WIDTH}
              for v, name in enumerate(VIDEOS) for f in range(LENGTH)]
    annotations = [{"id": len(VIDEOS[name]) * 1000 + 10 * f + int(i), "image_id": 10 * v + f, "category_id": 1,
                    "attributes": {"track_id": int(i)}, "segmentation": masks.encode(instance_mask(int(i), f))}
                   for v, name in enumerate(VIDEOS) for f in range(LENGTH) for i in VIDEOS[name]]
    return {"images": images, "categories": [{"id": 1, "name": "thing"}], "annotations": annotations}


@pytest.mark.slow
def test_the_commands_of_the_guide(tiny_project):
    project = tiny_project()
    for name, instances in VIDEOS.items():
        write_video(project / "videos", name, instances)
    (project / "tracks.json").write_text(json.dumps(tracks_json()))
    guide = (CHECKOUT / "docs" / "own-data.md").read_text()
    (categories,) = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    (project / "categories.yaml").write_text(categories)
    commands = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-e", "-c", "\n".join(commands)], cwd=project, env=environment, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
    params = load_params(project / "params.yaml", ["dataset=data/own"])
    train, val = load_index(params, "train"), load_index(params, "val")
    assert [category.name for category in train.categories] == ["car", "dog", "person"]
    assert [train.categories[track.label].name for track in train.tracks] == ["person", "dog", "car"]
    assert len(val.tracks) == 2
    for frame in range(LENGTH):
        np.testing.assert_array_equal(masks.decode(train.tracks[1].rles[frame]), instance_mask(2, frame))
    assert len(json.loads((project / "data" / "own-coco" / "val" / "instances.json").read_text())["annotations"]) == 2
    assert "6 &gt; 3" in (project / "data" / "own.html").read_text()
    assert 0 <= json.loads((project / "results-own" / "headline.json").read_text())["percent"]["AP"] <= 100
    assert [file.suffix for file in (project / "pictures").iterdir()] == [".png"]
