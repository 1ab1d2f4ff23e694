"""A test's own servers on the loopback interface."""

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


def free_port() -> int:
    """A port on the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve_mlflow(folder: Path, store: str, port: int | None = None) -> Iterator[str]:
    """Runs MLflow's server in a process of its own that works in ``folder``, until the block ends; yields its address."""
    port = port or free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "-w", "1"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
                                "MLFLOW_BACKEND_STORE_URI": store}
    with open(folder / "log.txt", "w") as log:
        command = [sys.executable, "-m", "mlflow", "server", *arguments]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 900
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=10)
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log.txt").read_text()
                time.sleep(0.25)
        yield uri
    finally:
        with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
