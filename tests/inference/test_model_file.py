"""A model folder: this package alone loads what was written, and errors name what is wrong with it."""

import hashlib
import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from support.builders import tiny_model
from support.models import put, tiny_vistr

import effvis
from effvis.data.sizes import KeptRatio
from effvis.errors import UserError

CHECKOUT = Path(effvis.__file__).resolve().parents[1]
FRAMES = np.random.default_rng(0).integers(0, 255, (5, 40, 50, 3), dtype=np.uint8)
# All that a machine needs to predict.
NEEDED = ("torch", "numpy", "scipy", "pycocotools", "pillow", "pyyaml", "pydantic", "safetensors")
OTHERS = ("ray", "mlflow", "dvc", "pandas", "pyarrow", "av")
TRACK = """
import sys
import numpy as np
import effvis
predictor = effvis.load(sys.argv[1])
tracked = predictor.track(np.load(sys.argv[2]), minimum_score=0.0)
for tracklet in tracked.tracklets:
    print(tracklet.id, tracklet.category.name, tracklet.score, sum(int(tracklet.mask(f).sum()) for f in tracklet.rles))
"""


def edit(folder, **changes):
    file = folder / "config.yaml"
    values = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))


@pytest.mark.parametrize("model", [tiny_model(3), tiny_vistr(3)], ids=["efficientvis", "vistr"])
def test_what_was_written_is_loaded(tmp_path, model):
    loaded = effvis.load(put(tmp_path / "model", model))
    assert loaded.model.config == model.config and not loaded.model.training
    assert [category.id for category in loaded.categories] == list(range(3, 3 + model.config.num_classes))
    assert loaded.inference.presence_threshold == 0.0 and loaded.input_size == (32, 48)
    for name, value in model.state_dict().items():
        assert loaded.model.state_dict()[name].equal(value), name
    assert loaded.track(FRAMES, minimum_score=0.0).tracklets


@pytest.mark.parametrize("fast", [False, True])
def test_a_model_that_keeps_ratios_is_written_and_loaded_as_one(tmp_path, fast):
    folder = put(tmp_path / "model", tiny_model(3), input_size={"shorter": 24, "longer": 40})
    assert yaml.safe_load((folder / "config.yaml").read_text())["input_size"] == {"shorter": 24, "longer": 40}
    loaded = effvis.load(folder, fast=fast)
    assert loaded.input_size == KeptRatio(shorter=24, longer=40)
    upright = [np.ascontiguousarray(frame.transpose(1, 0, 2)) for frame in FRAMES]
    assert loaded.track(upright, minimum_score=0.0).tracklets


def test_a_model_of_another_name_takes_the_place_of_one_as_a_whole(tmp_path):
    put(tmp_path / "model", tiny_model(3))
    put(tmp_path / "model", tiny_model(2, queries=7))
    assert effvis.load(tmp_path / "model").model.config.queries == 7
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.yaml", "weights.safetensors"]


@pytest.mark.parametrize("spoil, where, problem", [
    (lambda folder: (folder / "config.yaml").unlink(), "config.yaml", "cannot be read"),
    (lambda folder: (folder / "config.yaml").write_text("a: [b"), "config.yaml", "is not YAML"),
    (lambda folder: (folder / "config.yaml").write_text("- a"), "config.yaml", "this is no model"),
    (lambda folder: edit(folder, labels=None), "config.yaml", "labels.*pipeline.export"),
    (lambda folder: edit(folder, method="mask-rcnn"), "config.yaml", "method.*'mask-rcnn'"),
    (lambda folder: edit(folder, format=2), "config.yaml", "format"),
    (lambda folder: edit(folder, colour="red"), "config.yaml", "colour: unknown key"),
    (lambda folder: edit(folder, model={"num_classes": 3, "clip_length": 0}), "config.yaml", "model.clip_length"),
    (lambda folder: edit(folder, labels=[{"id": 1, "name": "a"}]), "config.yaml", "labels: there are 1, .* 3 classes"),
    (lambda folder: edit(folder, model={"num_classes": 3, "clip_length": 3}), "weights.safetensors", "has shape"),
    (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors", "cannot be read"),
    (lambda folder: (folder / "weights.safetensors").write_bytes(b"other"), "weights.safetensors", "sha256"),
])
def test_what_is_wrong_is_named_with_its_file(tmp_path, spoil, where, problem):
    folder = put(tmp_path / "model", tiny_model(3))
    spoil(folder)
    with pytest.raises(UserError, match=problem) as caught:
        effvis.load(folder)
    assert Path(caught.value.where) == folder / where


def test_weights_that_are_no_safetensors_are_named(tmp_path):
    folder = put(tmp_path / "model", tiny_model(3))
    (folder / "weights.safetensors").write_bytes(b"pickle")
    edit(folder, sha256=hashlib.sha256(b"pickle").hexdigest())
    with pytest.raises(UserError, match="is not a safetensors file"):
        effvis.load(folder)


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_there_is_named(tmp_path, device):
    with pytest.raises(UserError, match=f"{device}.*cannot be used"):
        effvis.load(put(tmp_path / "model", tiny_model(3)), device=device)


def test_the_package_has_no_other_attributes():
    with pytest.raises(AttributeError, match="save"):
        effvis.save  # noqa: B018


@pytest.fixture
def job(tmp_path):
    """The arguments of TRACK, and its expected output."""
    folder = put(tmp_path / "model", tiny_model(3))
    np.save(tmp_path / "frames.npy", FRAMES)
    expected = [
        f"{tracklet.id} {tracklet.category.name} {tracklet.score} {sum(tracklet.mask(f).sum() for f in tracklet.rles)}"
        for tracklet in effvis.load(folder).track(FRAMES, minimum_score=0.0).tracklets
    ]
    assert expected
    return [str(folder), str(tmp_path / "frames.npy")], expected


def track_apart(python, code, arguments):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(python), "-c", code, *arguments], env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_it_loads_where_only_what_it_needs_can_be_imported(job):
    arguments, expected = job
    forbid = f"import sys\nsys.modules.update(dict.fromkeys({(*OTHERS, 'pipeline')!r}))\n"
    assert track_apart(sys.executable, forbid + TRACK, arguments) == expected


def needed_distributions():
    """Distributions of the needed packages and of all packages that they require."""
    found, waiting = {}, list(NEEDED)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue  # for other systems, or builds of PyTorch with a GPU
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found.values()


@pytest.mark.slow
def test_it_loads_in_an_environment_that_has_nothing_else_installed(job, tmp_path):
    arguments, expected = job
    venv.create(tmp_path / "bare", symlinks=True, with_pip=False)
    (site,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    for found in needed_distributions():
        for top in {Path(file).parts[0] for file in found.files if ".." not in Path(file).parts}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    python = tmp_path / "bare" / "bin" / "python"
    look = f"import importlib.util as u\nprint([name for name in {OTHERS!r} if u.find_spec(name)])"
    assert track_apart(python, look, []) == ["[]"], "nothing of what it must do without is there"
    assert track_apart(python, TRACK, arguments) == expected
