"""MLflow's pages: they start with few resources, end with all processes, and show the measured results in a real browser."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

import pytest
from support.project import CHECKOUT, write_params
from support.servers import free_port
from support.stored import evaluate, train

from effvis.errors import UserError
from pipeline.grid.rows import load_table
from pipeline.mlflow_view.server import serving
from pipeline.settings.loading import load_params
from pipeline.ui import main

AP = {"w/o CL": 0.312, "w/ CL": 0.437}


def stored(folder):
    """Puts both rows of table 1e into a project's store, trained and evaluated."""
    params = load_params(folder / "params.yaml")
    for row in load_table(params, "table1e").rows:
        train(params, row.evaluations[0].train, 3)
        evaluate(params, row.evaluations[0], AP[row.name])
    return folder


PROJECT = {"seeds": 1, "tables": ["table1e"], "pretrain": {"source": "none"}}


@pytest.fixture
def project(tiny_project, monkeypatch):
    """The folder of a project with both rows of table 1e trained and evaluated."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return stored(tiny_project(**PROJECT))


@contextlib.contextmanager
def ui(folder, *arguments):
    """Runs the command in its own process, as from a terminal; yields the process and the page, once it is named."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    with open(folder / "said.txt", "w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.ui", *arguments], cwd=folder, env=environment, stdout=said, stderr=said,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        while not (page := re.search(r"http://\S+", (folder / "said.txt").read_text())):
            assert process.poll() is None, (folder / "said.txt").read_text()
            time.sleep(0.1)
        yield process, page[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)


@pytest.fixture(scope="module")
def shown(_tiny_template, tmp_path_factory):
    """(folder, port, process, page) of a project that pipeline.ui shows. The last test that uses it ends it."""
    folder = tmp_path_factory.mktemp("shown") / "project"
    shutil.copytree(_tiny_template, folder)
    write_params(folder, **PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        stored(folder)
        port = free_port()
        with ui(folder, "--port", str(port)) as (process, page):
            yield folder, port, process, page


def pids(*arguments):
    return subprocess.run(["pgrep", *arguments], capture_output=True, text=True).stdout.split()


def test_a_port_that_cannot_be_had_is_named_before_anything_else(tiny_project, monkeypatch):
    folder = tiny_project()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port: 127\.0\.0\.1:{port} .*Address already in use.*--port \d+"):
            main(["--port", str(port)])
    with pytest.raises(UserError, match="70000 is no port"):
        main(["--port", "70000"])
    with pytest.raises(UserError, match="no.such.host:5000 cannot be listened at"):
        main(["--host", "no.such.host"])
    assert not (folder / "mlflow.db").exists()


@pytest.mark.slow
def test_a_server_shows_its_runs_itself(project, mlflow_server):
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "MLFLOW_TRACKING_URI": f"{mlflow_server}/"}
    ended = subprocess.run([sys.executable, "-m", "pipeline.ui"], cwd=project, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    brought, page = ended.stdout.splitlines()
    assert brought == f"5 runs had news for {mlflow_server}/"
    assert re.fullmatch(rf"{mlflow_server}/#/experiments/\d+/runs\?.*", page)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_reported_with_its_log(tmp_path):
    log = tmp_path / "ui.log"
    with pytest.raises(UserError, match=rf"{log}: \(log\): the server ended by itself, with code [1-9]"):
        with serving("nosuch://store", "127.0.0.1", free_port(), log):
            pytest.fail("it cannot have answered")
    assert "nosuch://store" in log.read_text()


@pytest.mark.slow
def test_the_comparison_of_two_rows_shows_their_ap_in_a_browser(shown):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    rows = quote("tags.table1e LIKE '%' AND tags.kind = 'train'")
    _, _, _, address = shown
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        outside, errors = [], []
        page.on("request", lambda request: outside.append(request.url) if "://127.0.0.1:" not in request.url else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        # Sorted by a metric the list is flat; sorted by time it shows grids, with trainings folded in.
        page.goto(f"{address}&searchFilter={rows}&orderByKey=metrics.%60AP%60&orderByAsc=false")
        page.get_by_text("2 matching runs").wait_for(timeout=300_000)
        for name in ("table1e: w/ CL, seed 0", "table1e: w/o CL, seed 0"):
            page.get_by_role("row").filter(has_text=name).get_by_role("checkbox").check()
        page.get_by_role("button", name="Compare").click()
        page.get_by_text("Comparing 2 Runs from 1 Experiment").wait_for(timeout=300_000)
        for ap in AP.values():
            page.get_by_text(str(ap), exact=True).wait_for(timeout=300_000)
        browser.close()
    assert errors == []
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == [], "it works offline"


def ended_by(how, folder, port, process, page):
    """The exit code of the command after a signal, once nothing of it is left."""
    assert page == f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning"
    assert urllib.request.urlopen(page, timeout=300).status == 200
    (server,) = pids("-P", str(process.pid))
    assert server in pids("-g", server)
    process.send_signal(how)
    code = process.wait(timeout=300)
    assert pids("-g", server) == []
    assert "Traceback" not in (folder / "said.txt").read_text()
    return code


@pytest.mark.slow
def test_it_ends_with_all_its_processes(shown):
    """Ctrl-C ends the server, and so does closing the terminal, which does what SIGTERM does; the second start finds the
    database of the first."""
    folder, port, *started = shown
    assert ended_by(signal.SIGINT, folder, port, *started) == 0
    port = free_port()
    with ui(folder, "--port", str(port)) as again:
        assert ended_by(signal.SIGHUP, folder, port, *again) == 143
    assert not {file.name for file in folder.iterdir()} - {
        "data", "experiments", "mlflow.db", "mlflow.db.lock", "mlruns", "params.yaml", "runs", "said.txt"}
