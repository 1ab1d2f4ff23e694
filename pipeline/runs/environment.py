"""The environment of a result: package versions, the state of the checkout, and the machine.

It is recorded in a run's ``done.json`` and shown as MLflow tags. None of it is in a key: the same configuration is the same
run wherever it was trained.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "numpy", "scipy", "pycocotools", "pillow", "ray", "mlflow", "dvc")


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by package name, without packages that are not installed. It imports none of them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, object]:
    """``{"commit": hash, "dirty": bool}`` of the checkout that holds ``folder``; empty if there is none, or if it tracks
    nothing in the folder: an archive of the project may have been unpacked anywhere."""
    try:
        _git(folder, "ls-files", "--error-unmatch", ".")
        commit = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": commit, "dirty": bool(changed)}


def host() -> dict[str, object]:
    """Name, processor count, system and Python of this machine, and the vector instructions that PyTorch uses on it.

    The same run gives the same bits if these are the same: other machines may round in another order.
    """
    from torch.backends.cpu import get_cpu_capability

    return {
        "name": platform.node(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "vector_instructions": get_cpu_capability(),
    }


@cache
def environment() -> dict[str, object]:
    """All of the above, computed once per process: ``{"packages": …, "git": …, "host": …}``."""
    return {"packages": package_versions(), "git": git_state(Path(__file__).resolve().parent), "host": host()}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
