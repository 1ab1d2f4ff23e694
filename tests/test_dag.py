"""The whole pipeline as a newcomer runs it: dvc repro in a fresh clone, with real Ray and real MLflow, at tiny sizes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, TINY, write_params

pytestmark = pytest.mark.slow

ROWS = {"table1e": ("w/o CL", "w/ CL"), "table1h": ("Original FPS", "1.5 FPS")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone of this checkout with the files as they are now, its parameters turned down; dvc repro has run in it."""
    folder = tmp_path_factory.mktemp("clone") / "project"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(CHECKOUT), str(folder)], check=True)
    bring_working_files(folder)
    for of_other_runs in ("results", "dvc.lock"):  # committed results would be taken as done
        path = folder / of_other_runs
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_params(folder, **TINY, seeds=1, tables=list(ROWS))
    return folder, repro(folder)


def bring_working_files(folder: Path) -> None:
    command = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def repro(folder: Path) -> str:
    """What dvc repro says, and what the stages say; they run with this test's Python."""
    foreign = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in foreign}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(["dvc", "repro"], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_all_stages_run_and_the_tables_have_numbers(clone):
    folder, output = clone
    assert stages_run(output) == [
        "download", "index", "plan", "ablate@table1e", "ablate@table1h", "claims", "train", "evaluate", "report"]
    for name, rows in ROWS.items():
        table = json.loads((folder / "results" / f"{name}.json").read_text())
        assert tuple(row["name"] for row in table["rows"]) == rows
        for row in table["rows"]:
            assert 0 <= row["measured"]["AP"]["mean"] <= 100 and row["measured"]["AP"]["n"] == 1
            assert len(row["runs"]) == len(row["evaluations"]) == 1
        assert all(row in (folder / "results" / f"{name}.md").read_text() for row in rows)
    report = (folder / "results" / "report.md").read_text()
    assert report.count("## Table 1") == 2 and "shapes-vis" in report
    claims = json.loads((folder / "results" / "claims.json").read_text())["claims"]
    measured = {claim["id"] for claim in claims if claim["verdict"] != "not measured"}
    assert measured == {"cl-is-key", "low-fps-robust"}, "the claims of these two tables"
    headline = json.loads((folder / "results" / "headline.json").read_text())
    table = json.loads((folder / "results" / "table1e.json").read_text())
    assert headline["run"] == table["rows"][1]["runs"][0], "the headline run is a cell of the tables"


def test_each_training_ran_once(clone):
    folder, output = clone
    done = sorted(file.parent.name for file in (folder / "runs").glob("*/done.json"))
    kinds = [line.split()[1] for line in output.splitlines() if line.endswith("  running") and line.startswith("[")]
    assert len(done) == 4, "two trainings and what each starts from"
    assert sorted(kinds) == ["evaluate"] * 3 + ["pretrain"] * 2 + ["train"] * 2


def test_mlflow_has_exactly_the_runs(clone):
    from mlflow.tracking import MlflowClient

    folder, _ = clone
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("effvis").experiment_id])
    by_kind: dict[str, set[str]] = {}
    for run in found:
        by_kind.setdefault(run.data.tags["kind"], set()).add(run.data.tags["run_key"])
        assert run.info.status == "FINISHED"
    assert {kind: len(keys) for kind, keys in by_kind.items()} == {"grid": 2, "pretrain": 2, "train": 2, "evaluate": 3}
    assert len(found) == 9
    assert by_kind["pretrain"] | by_kind["train"] == {file.parent.name for file in (folder / "runs").glob("*/done.json")}
    assert by_kind["evaluate"] == {file.stem for file in (folder / "results" / "cells").iterdir()}
    for run in found:
        if run.data.tags["kind"] in ("pretrain", "train"):
            history = (folder / "runs" / run.data.tags["run_key"] / "history.jsonl").read_text().splitlines()
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "loss")]
            assert sorted(steps) == list(range(1, len(history) + 1))


def test_what_nothing_depends_on_reruns_nothing(clone):
    """Neither a second repro, nor a comment in the model, nor how many processors train."""
    folder, _ = clone
    before = contents(folder / "runs") | contents(folder / "results", "*.*")
    assert stages_run(repro(folder)) == ["download"], "only the look at whether the data set is still there"
    with (folder / "effvis" / "model" / "efficientvis.py").open("a") as module:
        module.write("\n# Nothing but a remark.\n")
    write_params(folder, resources={"slots": 1})
    assert stages_run(repro(folder)) == ["download", "plan"]
    assert contents(folder / "runs") | contents(folder / "results", "*.*") == before


def test_a_changed_inference_setting_evaluates_again_and_trains_nothing(clone):
    folder, _ = clone
    trained = contents(folder / "runs", "*/weights.safetensors")
    write_params(folder, inference={"presence_threshold": 0.2})
    output = repro(folder)
    # So small a network may score the same again, and then there is nothing to report.
    stages = [stage for stage in stages_run(output) if stage not in ("claims", "report")]
    assert stages == ["download", "plan", "ablate@table1e", "ablate@table1h", "evaluate"]
    assert "train" not in [line.split()[1] for line in output.splitlines() if line.startswith("[")]
    assert contents(folder / "runs", "*/weights.safetensors") == trained
    assert len(list((folder / "runs").glob("*/eval/*/metrics.json"))) == 6


def contents(folder: Path, pattern: str = "**/*") -> dict[str, tuple[int, bytes]]:
    """Files with their times: what was written again, even with the same bytes, is not the same."""
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob(pattern) if file.is_file()}
