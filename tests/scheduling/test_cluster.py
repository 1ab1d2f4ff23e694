"""A grid on several nodes: real raylets on one machine, one of which is removed in mid-run; and what a node must see."""

import contextlib
import functools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from support.project import CHECKOUT
from support.servers import free_port

from effvis.errors import UserError
from pipeline.engine.run import evaluate_run, train_run
from pipeline.grid.rows import load_table
from pipeline.runs.store import RunStore
from pipeline.scheduling import cluster
from pipeline.settings.loading import load_params
from pipeline.settings.params import ResourceSettings


@pytest.fixture
def environment(monkeypatch):
    """The commands' environment, without another cluster or a tracking server."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return os.environ | {"PYTHONPATH": str(CHECKOUT)}


@pytest.fixture(scope="module")
def client():
    """The address at which Ray's client finds the cluster."""
    return f"ray://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def nodes(client):
    """A cluster whose head runs nothing, and its two other nodes, of two processors each."""
    from ray.cluster_utils import Cluster

    port = int(client.rpartition(":")[2])
    started = Cluster(initialize_head=True,
                      head_node_args={"num_cpus": 0, "include_dashboard": False, "ray_client_server_port": port})
    try:
        yield started, [started.add_node(num_cpus=2) for _ in range(2)]
    finally:
        started.shutdown()


def on_cluster(address, folder, environment, *words):
    """A grid that runs on the nodes, and the file of its output; words are further arguments."""
    said = folder / "said.txt"
    with said.open("w") as file:
        command = [sys.executable, "-m", "pipeline.ablate", "--grid", "table1e", *words]
        environment = environment | {"RAY_ADDRESS": address}
        return subprocess.Popen(command, cwd=folder, stdout=file, stderr=file, env=environment), said


def writes_in(node, run):
    """Whether a process of the node has a file of the run open; all nodes are on this machine."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(file.path == str(run / "history.jsonl") for file in process.open_files()):
                return True
    return False


@pytest.mark.slow
def test_a_node_that_does_not_see_the_run_store_is_told_before_anything_runs(tiny_project, environment, nodes):
    """The path leads the nodes' processes to another place than the driver, as if a file system were not mounted."""
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, tables=["table1e"], runs_dir="/proc/self/cwd/runs")
    grid, said = on_cluster(nodes[0].address, folder, environment)
    assert grid.wait(900) == 2
    assert said.read_text() == (
        f"error: /proc/self/cwd/runs: runs_dir: node {platform.node()} does not see this run store. Put it on a file system "
        "that all nodes mount under the same path and that has file locks, as NFS 4, Lustre with -o flock or CephFS, and start "
        "again\n")
    assert not list((folder / "runs").glob("[!.]*")), "nothing was run"


@pytest.mark.slow
def test_a_grid_through_rays_client_leaves_its_runs_where_it_reads_them(tiny_project, empty_mlflow, environment, nodes, client):
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, tables=["table1e"])
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    grid, said = on_cluster(client, folder, environment, "--rows", "w/ CL")
    assert grid.wait(900) == 0, said.read_text()
    params = load_params(folder / "params.yaml")
    (spec,) = load_table(params, "table1e").rows[1].evaluations
    assert RunStore(params.runs_dir).evaluation(spec.train.key, spec.key) is not None
    rows = json.loads((folder / "results" / "table1e.json").read_text())["rows"]
    assert "AP" not in rows[0]["measured"] and rows[1]["measured"]["AP"]["n"] == 1


@pytest.mark.slow
def test_a_grid_on_a_cluster_is_that_at_home_though_a_node_goes(tiny_project, empty_mlflow, environment, nodes):
    folder = tiny_project(seeds=1, pretrain={"source": "none"}, train={"epochs": 30}, tables=["table1e"],
                          resources={"checkpoint_seconds": 0.3, "memory_gib": 0.5})
    shutil.copy(empty_mlflow, folder / "mlflow.db")
    started, workers = nodes
    grid, said = on_cluster(nodes[0].address, folder, environment)
    gone = []
    while not gone and grid.poll() is None:
        time.sleep(0.05)
        gone = [(node, file.parents[1]) for file in (folder / "runs").glob("*/checkpoint/*.sha256") for node in workers
                if writes_in(node, file.parents[1])]
    assert gone, said.read_text()
    node, run = gone[0]
    started.remove_node(node, allow_graceful=False)
    assert not (run / "done.json").exists(), "the node went too late for this test"

    home = load_params(folder / "params.yaml", ["runs_dir=at-home"])
    specs = [row.evaluations[0] for row in load_table(home, "table1e").rows]
    expected = {spec.key: (train_run(home, spec.train), evaluate_run(home, spec)["results_sha256"])[1] for spec in specs}
    assert grid.wait(900) == 0, said.read_text()
    there, here = RunStore(folder / "runs"), RunStore(home.runs_dir)
    for spec in specs:
        run = spec.train.key
        assert there.done(run)["sha256"] == here.done(run)["sha256"]
        assert there.evaluation(run, spec.key)["results_sha256"] == expected[spec.key]
        steps = [json.loads(line)["step"] for line in (there.folder(run) / "history.jsonl").read_text().splitlines()]
        assert steps == list(range(1, 91)), "each step once"
    assert not list((folder / "runs" / ".cluster").iterdir())


def test_what_a_process_of_the_cluster_looks_for(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    cluster.check_here()  # without a cluster, there is nothing to check
    with cluster.marked(runs) as environment:
        mark = Path(environment["env_vars"]["EFFVIS_CLUSTER_MARK"])
        looks = "from pipeline.scheduling.cluster import check_here; check_here()"

        def look(**changes):
            known = os.environ | environment["env_vars"] | changes
            ended = subprocess.run([sys.executable, "-c", looks], env=known, capture_output=True, text=True)
            return ended.stderr.strip().splitlines()[-1] if ended.returncode else ""

        assert look() == ""
        unseen = look(EFFVIS_CLUSTER_MARK=str(tmp_path / "elsewhere" / ".cluster" / mark.name))
        assert f"{tmp_path / 'elsewhere'}: runs_dir: node {platform.node()} does not see this run store. Put it" in unseen
        assert not (tmp_path / "elsewhere").exists(), "no second store"
        assert "has other code there" in look(EFFVIS_CLUSTER_CODE="0" * 64)
    assert not mark.exists()
    mark.touch()
    assert "file locks of other nodes do not hold" in look(), "whom nobody keeps out is not kept out of a key either"


def test_addresses_that_cannot_be_used_are_told_at_once(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(UserError, match="ray://head:10001: is for Ray's client.*RAY_ADDRESS=auto"):
        cluster.address(client=False)
    for kind in ("", "ray://"):
        monkeypatch.setenv("RAY_ADDRESS", f"{kind}127.0.0.1:{free_port()}")
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


EXAMPLES = CHECKOUT / "docs" / "examples" / "cluster"


def commands_of(text):
    """All ``ray start`` and ``python -m pipeline.…`` of a text, as words, continued lines as one."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    found = [re.search(r"ray start .*|python -m pipeline\..*", line) for line in lines]
    return [shlex.split(match[0].split(" &")[0].replace('"${@:2}"', "")) for match in found if match]


@functools.cache
def options_of(command):
    """All options that the command's help names."""
    text = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--?[a-zA-Z][a-z-]*", text))


def assert_has_options(words):
    command = (Path(sys.executable).with_name("ray"), "start") if words[0] == "ray" else (sys.executable, "-m", words[2])
    given = {word.partition("=")[0] for word in words if word.startswith("-")} - {"-m"}
    assert given <= options_of((*command, "--help")), given


@pytest.mark.slow
def test_the_cluster_launcher_takes_the_example():
    from ray.autoscaler.sdk import bootstrap_config

    config = yaml.safe_load((EXAMPLES / "ray-up.yaml").read_text())
    starts = commands_of("\n".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"]))
    assert len(starts) == 2
    for words in starts:
        assert_has_options(words)
    bootstrap_config(config, no_config_cache=True)


@pytest.mark.slow
def test_the_slurm_script_is_one_and_has_the_options_that_there_are():
    file = EXAMPLES / "grid.sbatch"
    subprocess.run(["bash", "-n", file], check=True)
    text = file.read_text()
    index, start, grid = commands_of(text)
    given = re.findall(r'^ *start "[^"]*" (.*)', text, re.MULTILINE)
    assert len(given) == 2
    for words in (index, grid, *(start + shlex.split(options) for options in given)):
        assert_has_options(words)


@pytest.mark.slow
def test_the_kuberay_job_mounts_what_it_has_and_runs_a_command_that_there_is():
    job = yaml.safe_load((EXAMPLES / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    (command,) = commands_of(job["spec"]["entrypoint"])
    assert_has_options(command)
    cluster_spec = job["spec"]["rayClusterSpec"]
    folder = re.search(r"--chdir=(\S+)", job["spec"]["entrypoint"])[1]
    for group in (cluster_spec["headGroupSpec"], *cluster_spec["workerGroupSpecs"]):
        assert_has_options(["ray", "start", *(f"--{name}={value}" for name, value in group["rayStartParams"].items())])
        pod = group["template"]["spec"]
        (container,), (volume,) = pod["containers"], pod["volumes"]
        (mount,) = container["volumeMounts"]
        assert mount["name"] == volume["name"] and folder.startswith(mount["mountPath"] + "/")
