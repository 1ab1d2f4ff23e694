"""A clone of this checkout as a project of its own, with dvc and git called in it as a person would."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
# These would lead to other stores, clusters or code than the clone's own.
FOREIGN = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")


def clone_without_results(folder: Path) -> None:
    """Clones this checkout with the files as they are now, but without its results, which would count as done."""
    _needs_git()
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(CHECKOUT), str(folder)], check=True)
    _copy_files(folder)
    shutil.rmtree(folder / "results")
    (folder / "dvc.lock").unlink()


def unpack(folder: Path) -> None:
    """Copies this checkout as if an archive of it were unpacked: its files as they are now, and no .git."""
    _needs_git()
    _copy_files(folder)


def _needs_git() -> None:
    if not (CHECKOUT / ".git").exists():
        pytest.skip("this checkout is no git clone")


def _copy_files(folder: Path) -> None:
    for name in git(CHECKOUT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, folder / name)
        elif name:
            (folder / name).unlink(missing_ok=True)


def git(folder: Path, *words: str) -> str:
    """Runs git and returns what it prints."""
    return _run(folder, ["git", *words]).stdout


def commit(folder: Path) -> None:
    """Commits everything that git does not ignore."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    _run(folder, ["git", "add", "--all"])
    _run(folder, ["git", *identity, "commit", "-q", "-m", "As it is now"])


def dvc(folder: Path, *words: str) -> str:
    """Runs dvc and returns what it and its stages print; the stages run with this test's Python."""
    ended = _run(folder, ["dvc", *words])
    return ended.stdout + ended.stderr


def _run(folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def jobs_run(output: str) -> list[str]:
    """The sorted kinds of the jobs that Ray ran: pretrain, train, evaluate. Each job is reported as done only once."""
    return sorted(re.findall(r"^\[\d+/\d+\] (\w+) .*  done  ", output, re.MULTILINE))


def contents(folder: Path, pattern: str = "**/*") -> dict[str, tuple[int, bytes]]:
    """Files with their times, so that a file that was written again differs, even with the same bytes."""
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob(pattern) if file.is_file()}
