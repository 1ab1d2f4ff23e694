"""Fixtures that several test modules share: a project of its own in a temporary folder, of a size that trains in seconds."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.project import CHECKOUT, REPRODUCED_ROWS, TINY, write_params
from support.servers import serve_mlflow

# One thread per process, as in runs: tiny tensors gain nothing from two, and on a busy machine they become ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# As in the Makefile, also for pytest called by hand: with it, each process that a test starts would compile all of PyTorch, Ray
# and MLflow for itself, which takes four times as long as to import them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Nobody takes these machines away with a warning; watching for one costs more than a second for every group of workers.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


# Dealt out as one, so that what is expensive to make is made once: a DVC repository in which all was run, an MLflow server.
TOGETHER = {"dag/test_dag.py": "dvc", "dag/test_dvc_changes.py": "dvc", "dag/test_dvc_sharing.py": "dvc",
            "mlflow_view/test_mirror.py": "mlflow", "mlflow_view/test_postgres.py": "mlflow",
            "mlflow_view/test_track.py": "mlflow", "mlflow_view/test_ui.py": "mlflow"}
# What takes longest begins first, or one process would still be at it when the others are done.
LONGEST_FIRST = ("mlflow", "dvc", "training/test_distributed.py", "search/test_tune.py", "scheduling/test_cluster.py",
                 "planning/test_ablate.py", "methods/test_toy_method.py", "engine/test_train_cli.py",
                 "scheduling/test_schedule.py", "system/test_clock.py", "benchmarks/test_activations.py",
                 "weights/test_queryinst.py", "weights/test_published_model.py", "system/test_security.py",
                 "weights/test_published.py", "engine/test_evaluate_model.py", "model/test_golden.py",
                 "queryinst/test_detect.py", "model/test_import_weights.py", "weights/test_classes_by_name.py",
                 "engine/test_predict.py", "reporting/test_report_page.py", "vistr/test_vistr.py", "benchmarks/test_speed.py",
                 "runs/test_storage.py", "benchmarks/test_method_speed.py", "importers/test_photo_guide.py",
                 "inference/test_inference.py", "fast/test_optimise.py", "checks/test_preflight.py", "system/test_disk.py",
                 "planning/test_plan_of_given_rows.py", "importers/test_own_data_guide.py",
                 "benchmarks/test_training_benchmark.py", "identity/test_rows.py")


def dealt_out_as(nodeid: str) -> str:
    """A module as room/test_name.py, or the group that it belongs to."""
    module = "/".join(Path(nodeid.partition("::")[0]).parts[1:])
    return TOGETHER.get(module, module)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(dealt_out_as(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals out whole modules. (pytest-xdist 3.8.0 under pytest 9.2 does not see its own groups by mark.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Modules(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return dealt_out_as(nodeid)

    return Modules(config, log)


@pytest.fixture(autouse=True)
def _processor_as_it_was() -> Iterator[None]:
    """Restores subnormal numbers for the next test: a run that a test starts in this process sets up torch for itself."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that ``make`` fills once per test run: the processes that run tests side by side share it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / name
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            unfinished = base / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def _tiny_template(tmp_path_factory) -> Path:
    """A project that is drawn and indexed once per test run."""
    return _made_once(tmp_path_factory, "template", _draw_and_index)


def _draw_and_index(folder: Path) -> None:
    from pipeline.datasets import place
    from pipeline.indexing import build
    from pipeline.planning.prepare import prepare
    from pipeline.settings.loading import load_params

    shutil.copytree(CHECKOUT / "experiments", folder / "experiments")
    shutil.copy(CHECKOUT / "params.yaml", folder)
    write_params(folder, **TINY)
    params = load_params(folder / "params.yaml")
    place.put_in_place(params)
    build.build(params)
    prepare(params, ["table3"])


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
    """A tiny clone of this checkout in which dvc repro has run and all is committed, with its output. Leave it unchanged."""
    from support.dvc_project import clone_without_results, commit, dvc

    folder = tmp_path_factory.mktemp("reproduced") / "project"
    clone_without_results(folder)
    # One run at a time: a second Ray worker would spend as long on its imports as both trainings take.
    write_params(folder, **TINY, seeds=1, tables=list(REPRODUCED_ROWS), resources={"slots": 1})
    output = dvc(folder, "repro")
    commit(folder)
    return folder, output


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory) -> Path:
    """An MLflow database without runs, for copying: making its tables takes longer than many trainings here."""
    return _made_once(tmp_path_factory, "mlflow", _make_tables) / "mlflow.db"


def _make_tables(folder: Path) -> None:
    # In a process of its own, which closes the file.
    program = ("import sys\nfrom mlflow.tracking import MlflowClient\n"
               "MlflowClient(tracking_uri=sys.argv[1]).search_experiments()")
    subprocess.run([sys.executable, "-c", program, f"sqlite:///{folder / 'mlflow.db'}"], cwd=folder, check=True,
                   capture_output=True)


@pytest.fixture
def dvc_project(reproduced, empty_mlflow, tmp_path) -> Path:
    """A copy of ``reproduced`` to change, with an empty MLflow store: the original store holds the original's paths."""
    folder = tmp_path / "project"
    shutil.copytree(reproduced[0], folder, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*", "mlruns", ".mlflow"))
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    return folder


@pytest.fixture(scope="session")
def drawn_index(tmp_path_factory):
    """The training split of five drawn videos of seven frames, 32x48, in which every shape leaves for a while."""
    from effvis.data.synthetic.shapes import ShapesConfig, write
    from effvis.data.youtube_vis import read_split

    folder = tmp_path_factory.mktemp("drawn")
    write(ShapesConfig(train_videos=5, val_videos=1, frames=7, height=32, width=48, min_radius=5, max_radius=8, exits=1.0),
          folder, workers=1)
    return read_split(folder / "train")


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory, empty_mlflow) -> Iterator[str]:
    """The address of a tracking server in its own process, as a team would run one."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_mlflow, folder / "tracking.db")
    with serve_mlflow(folder, "sqlite:///tracking.db") as address:
        yield address
