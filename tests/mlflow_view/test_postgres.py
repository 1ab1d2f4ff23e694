"""MLflow as a team runs it: runs of several machines are in one database of PostgreSQL or SQLite, each once."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.project import CHECKOUT
from support.servers import free_port, serve_mlflow
from support.stored import evaluate, train
from support.tracking import runs_of, steps_of

from pipeline.grid.rows import load_table
from pipeline.mlflow_view.sync import sync
from pipeline.settings.loading import load_params

pytestmark = pytest.mark.slow
TRAINED = 30  # steps


def _program(name: str) -> str:
    """The path of one of PostgreSQL's programs, which Debian does not install on the PATH."""
    found = [shutil.which(name), *sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")))]
    path = next(filter(None, found), None)
    if path is None:
        pytest.skip(f"no {name}: PostgreSQL is not installed (apt-get install postgresql)")
    return path


@pytest.fixture(scope="module")
def new_database() -> Iterator[Callable[[], str]]:
    """A function that makes a database in a PostgreSQL server on the loopback, and returns its address."""
    psycopg = pytest.importorskip("psycopg", reason="no psycopg: pip install -e '.[postgres]'")
    initdb, postgres, port = _program("initdb"), _program("postgres"), free_port()
    # PostgreSQL refuses to run as root, and another user cannot enter pytest's folders.
    user = "nobody" if os.geteuid() == 0 else None
    options = {"cwd": "/", "user": user, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, user)
        subprocess.run([initdb, "-D", f"{folder}/data", "-U", "effvis", "-A", "trust", "-N"], check=True, **options)
        command = [postgres, "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
        server = subprocess.Popen(command, **options)
        try:
            ready = next((line for line in server.stdout if b"ready to accept connections" in line), None)
            assert ready, "PostgreSQL ended before it was ready"
            numbers = itertools.count()

            def make() -> str:
                name = f"effvis{next(numbers)}"
                # A database cannot be made inside a transaction.
                where = f"host=127.0.0.1 port={port} user=effvis dbname=postgres"
                with psycopg.connect(where, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")
                return f"postgresql://effvis@127.0.0.1:{port}/{name}"

            yield make
        finally:
            server.send_signal(signal.SIGINT)  # does not wait for its clients, as it does after SIGTERM
            server.communicate(timeout=60)


@pytest.fixture(params=["server on SQLite", "server on PostgreSQL", "PostgreSQL itself"])
def tracking(request, tmp_path) -> Iterator[str]:
    """The kinds of address that MLFLOW_TRACKING_URI may name. The server on SQLite is that of other tests, too."""
    if request.param == "server on SQLite":
        yield request.getfixturevalue("mlflow_server")
        return
    postgres = request.getfixturevalue("new_database")()
    if request.param == "PostgreSQL itself":
        yield postgres
        return
    with serve_mlflow(tmp_path, postgres) as address:
        yield address


def bring(folder: Path, tracking: str, *more: str) -> subprocess.Popen:
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.Popen([sys.executable, "-m", "pipeline.track", "--sync", "--params", str(folder / "params.yaml"), *more],
                            env=environment, cwd=folder, stderr=subprocess.PIPE, text=True)


def test_stores_of_several_machines_become_one(tiny_project, tracking, monkeypatch):
    """One store has its own training, and both share another. Both sync at once, then again; nothing is there twice."""
    folder = tiny_project(seeds=1, tables=["table1e", "table1h"], train={"lr": 0.0123})  # no other test's runs on the server
    stores = [load_params(folder / "params.yaml", [f"runs_dir={machine}"]) for machine in ("one", "two")]
    rows = [load_table(stores[0], table).rows[0].evaluations[0] for table in ("table1e", "table1h")]
    with_cl = load_table(stores[0], "table1e").rows[1].evaluations[0]
    assert rows[1].train.key == with_cl.train.key != rows[0].train.key
    for params, evaluations in zip(stores, [(rows[0], with_cl), (with_cl,)], strict=True):
        for spec in evaluations:
            train(params, spec.train, TRAINED)
            evaluate(params, spec)
    both = [bring(folder, tracking, "-S", f"runs_dir={params.runs_dir}") for params in stores]
    for process in both:  # if both find no tables, one of them may fail to make them
        process.communicate(timeout=900)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    with ThreadPoolExecutor() as threads:
        list(threads.map(sync, stores))
    client, runs = runs_of(tracking)
    for spec in (rows[0], with_cl):
        assert steps_of(client, runs[spec.train.key]) == list(range(1, TRAINED + 1))
        assert len(client.get_metric_history(runs[spec.key].info.run_id, "AP")) == 1
        assert runs[spec.key].data.tags["mlflow.parentRunId"] == runs[spec.train.key].info.run_id
