"""A clone of this checkout as a project of its own, and dvc and git in it, as a person calls them."""

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
# Would lead to other stores, clusters or code than the clone's own.
FOREIGN = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")


def clone_without_results(folder: Path) -> None:
    """Clones this checkout with the files as they are now, but for its results: those would be taken as done."""
    _needs_git()
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(CHECKOUT), str(folder)], check=True)
    _copy_files(folder)
    shutil.rmtree(folder / "results")
    (folder / "dvc.lock").unlink()


def unpack(folder: Path) -> None:
    """This checkout as an archive of it is unpacked: its files as they are now, and no .git."""
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
    """What git prints."""
    return _run(folder, ["git", *words]).stdout


def commit(folder: Path) -> None:
    """Everything that git does not ignore."""
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    _run(folder, ["git", "add", "--all"])
    _run(folder, ["git", *identity, "commit", "-q", "-m", "As it is now"])


def dvc(folder: Path, *words: str) -> str:
    """What dvc prints, and what its stages say; they run with this test's Python."""
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
    """The kinds of what Ray ran, sorted: pretrain, train, evaluate. Each is said to be done once, to be running often."""
    return sorted(re.findall(r"^\[\d+/\d+\] (\w+) .*  done  ", output, re.MULTILINE))


def contents(folder: Path, pattern: str = "**/*") -> dict[str, tuple[int, bytes]]:
    """Files with their times: what was written again, even with the same bytes, is not the same."""
    return {str(file): (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob(pattern) if file.is_file()}
