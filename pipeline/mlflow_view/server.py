"""MLflow's own server for its pages, started with few resources and ended with all its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from effvis.errors import UserError
from pipeline.mlflow_view.sync import EXPERIMENT
from pipeline.system.cli import deferred_stop

# MLflow's own defaults are four workers and a queue for jobs, which nothing here needs: they take two to four times the memory
# and the processor time until a page answers (docs/mlflow.md).
_LIGHT_ARGUMENTS = ("-w", "1")
_LIGHT_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
_START_SECONDS = 300.0  # longer than the start takes on a machine that is busy with trainings
_END_SECONDS = 5.0
_POLL_SECONDS = 0.1


def is_server(uri: str) -> bool:
    """Whether an address of runs is a server's, not a file's or a database's."""
    return uri.startswith(("http://", "https://"))


def runs_page(address: str, uri: str) -> str:
    """The address of the page with the project's runs: MLflow's front page is about language models."""
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name(EXPERIMENT)
    return f"{address.rstrip('/')}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"


def check_free(host: str, port: int) -> None:
    """Checks that a server can listen on this host and port.

    Raises:
        UserError: no server can.
    """
    if not 0 < port < 2**16:
        raise UserError("command line", "--port", f"{port} is no port", "Give a number from 1 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that ended a moment ago does not block it
            probe.bind(address)
    except OSError as error:
        problem = f"{host}:{port} cannot be listened at: {error.strerror}"
        raise UserError("command line", "--port", problem, f"Give another, as in --port {port % 65535 + 1}") from None


@contextlib.contextmanager
def serving(uri: str, host: str, port: int, log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serves MLflow's pages for a store; all of the server's processes end with the block.

    Args:
        uri: address of a database or folder, in MLflow's form.
        log: the file that receives the server's output.

    Yields:
        The pages' address, as soon as it answers, and the server's first process.

    Raises:
        UserError: the server ends, or does not answer for five minutes.
    """
    arguments = ["--host", host, "--port", str(port), *_LIGHT_ARGUMENTS]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            # The database's address may hold a password, and other users can read arguments.
            env=os.environ | _LIGHT_ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}, stdout=output, stderr=output,
            start_new_session=True,  # Ctrl-C reaches only this process, which then ends the server and its workers
        )
    try:
        address = _address(host, port)
        _wait_for_answer(process, address, log)
        yield address, process
    finally:
        _end(process)


def _address(host: str, port: int) -> str:
    """The address at which a browser on this machine finds the server."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _wait_for_answer(process: subprocess.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=1):
            return
        time.sleep(_POLL_SECONDS)
    raise ended_early(process, log)


def ended_early(process: subprocess.Popen, log: Path) -> UserError:
    code = process.poll()
    problem = "the server does not answer" if code is None else f"the server ended by itself, with code {code}"
    return UserError(log, "(log)", problem, "The log's last lines say why")


def _end(process: subprocess.Popen) -> None:
    """Asks the server and its workers to end, waits for a while, and then kills them. A second Ctrl-C changes nothing."""
    with deferred_stop(), contextlib.suppress(ProcessLookupError):  # the process group may be gone already
        deadline = time.monotonic() + _END_SECONDS
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # a process that has ended remains until its exit code is read
            os.killpg(process.pid, 0)
            time.sleep(_POLL_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
