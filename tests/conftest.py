"""Fixtures that several test modules share: a project of its own in a temporary folder, of a size that trains in seconds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

# One thread per process, as runs have it: tiny tensors gain nothing from two, and on a busy machine lose tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

CHECKOUT = Path(__file__).resolve().parents[1]

# What the fixture `reproduced` runs: tables, and the rows that they have.
REPRODUCED_ROWS = {"table1e": ("w/o CL", "w/ CL"), "table1h": ("Original FPS", "1.5 FPS")}

# Over the project's own params.yaml. Everything is as in the real thing but small: two trainings of seconds a row.
TINY = {
    "shapes": {"train_videos": 6, "val_videos": 3, "frames": 8, "height": 32, "width": 48, "min_radius": 5, "max_radius": 8},
    "input_size": [32, 48],
    "model": {"hidden_dim": 16, "attention_heads": 2, "ffn_dim": 32, "dynamic_dim": 4, "queries": 4, "iterations": 2,
              "roi_size": 4, "mask_roi_size": 4, "mask_convs": 1},
    "pretrain": {"source": "scratch", "train": {"epochs": 2, "batch_size": 3, "lr_drop_epoch": 1.5, "warmup_steps": 1}},
    "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    "vistr": {
        "model": {"queries": 4, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2, "ffn_dim": 32},
        "pretrain": {"source": "scratch", "train": {"epochs": 2, "batch_size": 3, "lr_drop_epoch": 1.5, "warmup_steps": 1}},
        "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    },
}


# Modules that make test does not run side by side: they start Ray with workers for both cores, and two at once would mostly
# wait for each other. (So do a few tests of other modules, which are left to the second process for balance.)
ONE_AFTER_THE_OTHER = {"test_ablate", "test_clock", "test_cluster", "test_dag", "test_distributed", "test_dvc_changes",
                       "test_dvc_sharing", "test_tune"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals out whole modules. (Groups by mark, pytest-xdist's own way, are not seen by 3.8.0 under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Modules(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = Path(nodeid.partition("::")[0]).stem
            return "one after the other" if module in ONE_AFTER_THE_OTHER else module

    return Modules(config, log)


@pytest.fixture(autouse=True)
def _processor_as_it_was() -> Iterator[None]:
    """A run that a test starts in this very process sets up torch for itself; the next test has its subnormal numbers back."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(False)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section."""
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def write_params(folder: Path, **changes: Any) -> None:
    """Merges changes into a project's params.yaml."""
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(merged(yaml.safe_load(file.read_text()), changes)))


def put_evaluation(params, spec, ap, seconds=1.5):
    """A finished evaluation in the store, with numbers that are easy to recognise."""
    from effvis.evaluation.video_ap import METRICS
    from pipeline.store import RunStore

    metrics = {name: ap for name in METRICS} | {"APl": -1.0}
    report = {"metrics": metrics, "per_category": {}, "seconds": seconds, "frames_per_second": 10.0,
              "videos_seen": 24}
    RunStore(params.runs_dir).write_evaluation(spec.train.key, spec.key, [], report)


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory) -> Path:
    """Drawn and indexed once per test run."""
    from pipeline import download, index
    from pipeline.config import load_params
    from pipeline.prepare import prepare

    folder = tmp_path_factory.mktemp("template")
    shutil.copytree(CHECKOUT / "experiments", folder / "experiments")
    shutil.copy(CHECKOUT / "params.yaml", folder)
    write_params(folder, **TINY)
    params = load_params(folder / "params.yaml")
    download.take(params)
    index.build(params)
    prepare(params, ["table3"])
    return folder


@pytest.fixture
def tiny_project(_tiny_template, tmp_path) -> Callable[..., Path]:
    """``tiny_project(seeds=1)`` is the folder of a fresh project with its data in place: params.yaml, experiments/, data/."""

    def make(**changes: Any) -> Path:
        folder = tmp_path / "project"
        shutil.copytree(_tiny_template, folder)
        write_params(folder, **changes)
        return folder

    return make


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory) -> tuple[Path, str]:
    """A tiny clone of this checkout in which dvc repro has run and all is committed, and what it said. Leave it as it is."""
    from dvc_project import clone_without_results, commit, dvc

    folder = tmp_path_factory.mktemp("reproduced") / "project"
    clone_without_results(folder)
    write_params(folder, **TINY, seeds=1, tables=list(REPRODUCED_ROWS))
    output = dvc(folder, "repro")
    commit(folder)
    return folder, output


@pytest.fixture
def dvc_project(reproduced, tmp_path) -> Path:
    """A copy of ``reproduced`` to change, without its MLflow store, which knows the paths of the original."""
    folder = tmp_path / "project"
    shutil.copytree(reproduced[0], folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns", ".mlflow"))
    return folder


@pytest.fixture(scope="session")
def drawn_index(tmp_path_factory):
    """The training split of five drawn videos of seven frames, 32x48, in which every shape leaves for a while."""
    from effvis.data.shapes import ShapesConfig, write
    from effvis.data.youtube_vis import read_split

    folder = tmp_path_factory.mktemp("drawn")
    write(ShapesConfig(train_videos=5, val_videos=1, frames=7, height=32, width=48, min_radius=5, max_radius=8, exits=1.0),
          folder, workers=1)
    return read_split(folder / "train")


def free_port() -> int:
    """On the loopback, free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory) -> Iterator[str]:
    """The address of a tracking server in a process of its own, as a team would run one."""
    with serve_mlflow(tmp_path_factory.mktemp("server"), "sqlite:///tracking.db") as address:
        yield address


@contextlib.contextmanager
def serve_mlflow(folder: Path, store: str, port: int | None = None) -> Iterator[str]:
    """MLflow's server in a process of its own that works in ``folder``, until the block ends; its address."""
    port = port or free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "-w", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                                "MLFLOW_BACKEND_STORE_URI": store}
    with open(folder / "log.txt", "w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "log.txt").read_text()
                time.sleep(0.25)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
