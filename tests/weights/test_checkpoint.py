"""Checkpoints as training frameworks write them: the tensors are read, the rest is left out, and nothing of a file runs."""

import builtins
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.published_weights import command_in, published_weights

from effvis.errors import UserError
from pipeline.weights import checkpoint
from pipeline.weights.convert import read

# The parts of mmengine/logging/history_buffer.py that are pickled; the real package is not needed to write such files.
HISTORY_BUFFER = """
import numpy as np
class HistoryBuffer:
    def __init__(self, values):
        self.max_length = 1000000
        self._log_history, self._count_history = np.array(values), np.ones(len(values))
        self._statistics_methods = {"min": HistoryBuffer.min}
    def min(self):
        return self._log_history.min()
"""
# What the runner of mmengine saves, and what other frameworks add.
WRITE = """
import argparse, pathlib, sys
import numpy as np, torch
from collections import OrderedDict
from mmengine.logging.history_buffer import HistoryBuffer
weights = torch.load(sys.argv[1], weights_only=True)
torch.save({
    "meta": {"epoch": 12, "iter": np.int64(7), "seed": np.float32(0.5), "palette": np.arange(6).reshape(2, 3),
             "args": argparse.Namespace(work_dir=pathlib.Path("work"), lr=1e-4)},
    "state_dict": OrderedDict(weights),
    "message_hub": {"log_scalars": OrderedDict({"train/loss": HistoryBuffer([2.0, 1.0])}),
                    "runtime_info": OrderedDict(loss=np.float64(1.0)), "resumed_keys": {}},
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    "param_schedulers": [{"last_step": 3, "_get_lr_called_within_step": False}],
}, sys.argv[2], _use_new_zipfile_serialization=sys.argv[3] == "new")
"""


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture(scope="module")
def framework(tmp_path_factory):
    """A folder with a package mmengine of one module."""
    site = tmp_path_factory.mktemp("site")
    package = site / "mmengine" / "logging"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "history_buffer.py").write_text(HISTORY_BUFFER)
    return site


@pytest.fixture(scope="module", params=["new", "old"])
def written(request, tmp_path_factory, framework):
    """A checkpoint with a framework's objects, in PyTorch's format and in that before 1.6."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.save(published_weights("resnet18"), folder / "weights.pth")
    file = folder / "epoch_12.pth"
    subprocess.run([sys.executable, "-c", WRITE, folder / "weights.pth", file, request.param], check=True,
                   env=os.environ | {"PYTHONPATH": str(framework), "OMP_NUM_THREADS": "1"})
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)
    return file


def test_a_frameworks_checkpoint_gives_its_tensors_and_names_what_is_left_out(written, tmp_path, capsys):
    weights = read(written).tensors
    assert list(weights) == list(published_weights("resnet18"))
    assert all(torch.equal(weights[name], value) for name, value in published_weights("resnet18").items())
    said = capsys.readouterr().err
    assert str(written) in said and "left out" in said
    for name in ("mmengine.logging.history_buffer.HistoryBuffer", "argparse.Namespace", "numpy.dtype", "builtins.getattr"):
        assert name in said, name
    assert "mmengine" not in sys.modules


def test_plain_values_beside_what_is_left_out_are_kept(written):
    content = checkpoint.load(written).content
    assert content["meta"]["epoch"] == 12 and content["optimizer"]["param_groups"] == [{"lr": 1e-4, "params": [0]}]
    assert torch.equal(content["optimizer"]["state"][0]["exp_avg"], torch.ones(2))
    for value in (*content["message_hub"]["log_scalars"].values(), content["meta"]["iter"], content["meta"]["palette"]):
        assert isinstance(value, checkpoint.StandIn) and not vars(value)


def test_a_class_that_a_file_names_is_not_imported(written, framework, monkeypatch, tmp_path):
    site = shutil.copytree(framework, tmp_path / "site")
    (site / "mmengine" / "logging" / "history_buffer.py").write_text(f"open({str(tmp_path / 'harm')!r}, 'w')")
    monkeypatch.syspath_prepend(site)
    assert read(written).tensors
    assert "mmengine" not in sys.modules and not (tmp_path / "harm").exists()


def test_the_command_converts_it(written, tmp_path):
    assert command_in(tmp_path)(written, "--out", tmp_path / "start.safetensors") == 0
    converted = load_file(tmp_path / "start.safetensors")["backbone.body.conv1.weight"]
    assert torch.equal(converted, published_weights("resnet18")["conv1.weight"])


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("harmful, name", [
    (Calls(builtins.eval, "open('harm', 'w')"), "eval"),
    (Calls(builtins.exec, "open('harm', 'w')"), "exec"),
    (Calls(builtins.open, "harm", "w"), "open"),
    (Calls(os.system, "touch harm"), "posix.system"),
    (Calls(os.mkdir, "harm"), "posix.mkdir"),
    (Calls(subprocess.check_call, ["touch", "harm"]), "check_call"),
    (Calls(__import__, "harm"), "__import__"),
    (Calls(getattr, np.ndarray, "tofile"), None),
    (Calls(np.save, "harm", 1), None),
    (Calls(np.testing.runstring, "open('harm', 'w')", {}), None),
    (Calls(torch.save, 1, "harm"), "torch.serialization.save"),
    (Calls(torch.nn.Linear, 1, 1), "torch.nn.modules.linear.Linear"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_file_calls_is_not_called(tmp_path, monkeypatch, capsys, new_format, harmful, name):
    """A function of Python's library is refused by its name; any other is left out, as a framework's classes are."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "attack.pth"
    torch.save({"state_dict": published_weights("resnet18"), "meta": harmful}, file,
               _use_new_zipfile_serialization=new_format)
    if name is None:
        assert len(read(file).tensors) == len(published_weights("resnet18"))
        assert "numpy" in capsys.readouterr().err
    else:
        with pytest.raises(UserError, match="holds no plain weights") as error:
            read(file)
        assert error.value.where == str(file) and name in error.value.problem
        assert error.value.problem.isprintable() and "[1m" not in error.value.problem
    assert not (tmp_path / "harm").exists()


def test_what_a_stand_in_returns_cannot_be_called(tmp_path, monkeypatch):
    # getattr(ndarray, "tofile") is left out; calling what it gave is refused, although it would do nothing.
    class Nested:
        def __reduce__(self):
            return np.ndarray.tofile, (np.zeros(2), "harm")

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": published_weights("resnet18"), "meta": Nested()}, tmp_path / "attack.pth")
    with pytest.raises(UserError, match="getattr"):
        read(tmp_path / "attack.pth")
    assert not (tmp_path / "harm").exists()


def test_names_that_are_read_once_are_not_accepted_later(written, tmp_path):
    before = torch.serialization.get_safe_globals()
    read(written)
    assert set(torch.serialization.get_safe_globals()) == set(before)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(written, weights_only=True)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:50], lambda b: b[:40] + b"\xff" * 40 + b[80:]])
def test_a_damaged_file_is_named(tmp_path, new_format, damage):
    file = tmp_path / "damaged.pth"
    torch.save({"w": torch.arange(100.0)}, file, _use_new_zipfile_serialization=new_format)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match="holds no plain weights") as error:
        read(file)
    assert error.value.where == str(file) and error.value.problem.isprintable()


def test_a_whole_network_that_was_pickled_is_told_by_its_class(tmp_path, monkeypatch):
    class Detector:
        pass

    monkeypatch.setattr(sys.modules["__main__"], "Detector", Detector, raising=False)
    Detector.__module__, Detector.__qualname__ = "__main__", "Detector"
    torch.save({"model": Detector()}, tmp_path / "whole.pth")
    with pytest.raises(UserError, match="holds no tensors by name, but __main__.Detector"):
        read(tmp_path / "whole.pth")


def test_an_object_that_collects_items_is_told_by_its_class(tmp_path, monkeypatch):
    class Settings(dict):
        pass

    monkeypatch.setattr(sys.modules["__main__"], "Settings", Settings, raising=False)
    Settings.__module__, Settings.__qualname__ = "__main__", "Settings"
    torch.save({"model": published_weights("resnet18"), "cfg": Settings(lr=1)}, tmp_path / "items.pth")
    with pytest.raises(UserError, match="holds no plain weights: .*__main__.Settings"):
        read(tmp_path / "items.pth")
