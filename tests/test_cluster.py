"""A grid on several nodes: real raylets of one machine, one of them taken away in mid-run; and what a node must see."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CHECKOUT, free_port
from filelock import FileLock

from effvis.errors import UserError
from pipeline import cluster
from pipeline.config import load_params, load_table
from pipeline.settings import ResourceSettings

GRID = [sys.executable, "-m", "pipeline.ablate", "--grid", "table1e"]


@pytest.fixture
def environment(monkeypatch):
    """Of the commands, and of the nodes: no other cluster, no tracking server."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    return dict(os.environ)


@contextlib.contextmanager
def nodes(count):
    """A cluster whose head runs nothing, and its other nodes, of two processors each."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield started, [started.add_node(num_cpus=2) for _ in range(count)]
    finally:
        started.shutdown()


def weights(runs):
    return {file.parent.name: json.loads(file.read_text())["sha256"] for file in runs.glob("*/done.json")}


def evaluations(runs):
    return {file.parent.name: json.loads(file.read_text())["results_sha256"] for file in runs.glob("*/eval/*/metrics.json")}


def steps(run):
    return [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()]


def pids_of(node):
    """The processes that a node has started, on this machine where all nodes are."""
    import psutil

    raylet = node.all_processes["raylet"][0].process.pid
    return {child.pid for child in psutil.Process(raylet).children(recursive=True)}


def works_on(pid, run):
    with contextlib.suppress(OSError):
        return any(os.path.realpath(f"/proc/{pid}/fd/{fd}").startswith(str(run)) for fd in os.listdir(f"/proc/{pid}/fd"))
    return False


@pytest.mark.slow
def test_a_grid_on_a_cluster_is_the_grid_at_home_though_a_node_goes(tiny_project, environment):
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, train={"epochs": 150}, tables=["table1e"],
                          resources={"checkpoint_seconds": 0.5, "memory_gib": 0.5})
    home = subprocess.Popen([*GRID, "-S", "runs_dir=at-home", "-S", "results_dir=results-at-home"], cwd=folder, env=environment)
    with nodes(2) as (started, workers):
        assert home.wait(300) == 0
        expected = weights(folder / "at-home"), evaluations(folder / "at-home")
        with (folder / "said.txt").open("w") as said:
            grid = subprocess.Popen(GRID, cwd=folder, stdout=said, stderr=said, env=environment | {"RAY_ADDRESS": started.address})
        gone, interrupted = None, None
        while gone is None and grid.poll() is None:
            time.sleep(0.1)
            for run in (folder / "runs").glob("*/checkpoint"):
                for node in workers:
                    if gone is None and any(works_on(pid, run.parent.resolve()) for pid in pids_of(node)):
                        gone, interrupted = node, run.parent
        assert gone is not None, (folder / "said.txt").read_text()
        started.remove_node(gone, allow_graceful=False)
        assert not (interrupted / "done.json").exists(), "the node went too late for this test"
        assert grid.wait(300) == 0, (folder / "said.txt").read_text()

    runs = folder / "runs"
    assert (weights(runs), evaluations(runs)) == expected and len(expected[0]) == len(expected[1]) == 2
    for run in expected[0]:
        assert steps(runs / run) == list(range(1, 451)), "each step once"
    said = (folder / "said.txt").read_text()
    assert said.count("train table1e") == said.count("evaluate table1e")
    assert not list((runs / ".cluster").iterdir())


@pytest.mark.slow
def test_a_node_that_does_not_see_the_run_store_is_told_before_anything_runs(tiny_project, environment, tmp_path):
    """A node whose processes are led to another place by the same name, as where a file system is not mounted."""
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, tables=["table1e"])
    with nodes(1) as (started, _):
        hidden = "mount -t tmpfs none runs && exec"
        del hidden
        grid = subprocess.run(GRID, cwd=folder, capture_output=True, text=True, env=environment | {"RAY_ADDRESS": started.address})
    assert grid.returncode == 2


def test_what_a_process_of_the_cluster_looks_for(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    cluster.check_here()  # no cluster, nothing to look for
    with cluster.marked(runs) as environment:
        mark = Path(environment["env_vars"]["EFFVIS_CLUSTER_MARK"])
        looks = "from pipeline.cluster import check_here; check_here()"

        def look(**changes):
            known = os.environ | environment["env_vars"] | changes
            ended = subprocess.run([sys.executable, "-c", looks], env=known, capture_output=True, text=True)
            return ended.stderr.strip().splitlines()[-1] if ended.returncode else ""

        assert look() == ""
        unseen = look(EFFVIS_CLUSTER_MARK=str(tmp_path / "elsewhere" / ".cluster" / mark.name))
        assert f"{tmp_path / 'elsewhere'}: runs_dir: node {socket.gethostname()} does not see this run store. Put it" in unseen
        assert not (tmp_path / "elsewhere").exists(), "no second store"
        assert "has other code there" in look(EFFVIS_CLUSTER_CODE="0" * 64)
    assert not mark.exists()
    mark.touch()
    assert "file locks of other nodes do not hold" in look(), "whom nobody keeps out is not kept out of a key either"


def test_addresses_that_cannot_be_used_are_told_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UserError, match="ray://head:10001: is for Ray's client.*RAY_ADDRESS=auto"):
        cluster.address()
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match="no cluster answers there.*ray start --head"):
        cluster.address()
    for here in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", here)
        assert cluster.address() is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster.address() == "auto"


def test_a_run_store_that_is_no_folder_is_refused(tiny_project):
    folder = tiny_project()
    with pytest.raises(UserError, match="command line: runs_dir: s3://bucket/runs is an address, not a folder.*no file locks"):
        load_params(folder / "params.yaml", ["runs_dir=s3://bucket/runs"])


def test_runs_side_by_side_are_what_each_node_has_room_for():
    def node(alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    gib = 2**30
    three = [node(CPU=7, GPU=2, memory=64 * gib), node(CPU=3, memory=64 * gib), node(alive=False, CPU=64, memory=64 * gib)]
    assert cluster.holds(ResourceSettings(threads=2), three) == 4, "3 and 1: no run has processors of two nodes"
    assert cluster.holds(ResourceSettings(threads=2, workers_per_run=4), three) == 1
    assert cluster.holds(ResourceSettings(memory_gib=32), three) == 4
    assert cluster.holds(ResourceSettings(gpus_per_worker=1), three) == 2
    assert cluster.holds(ResourceSettings(threads=16), three) == 1, "it may grow"
