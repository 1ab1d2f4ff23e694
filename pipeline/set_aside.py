"""Sets aside the results that came with the project, which dvc repro would take for its own, so that a project that has
trained nothing yet measures for itself. Once there are runs, the command leaves everything as it is. make reproduce calls it.

In a git clone the results are deleted, because git has them. Elsewhere, as in an unpacked release, they are moved to
results.aside, and DVC is set to work without git.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

from effvis.errors import UserError

RESULTS = ("results", "dvc.lock")


def do_without_git(root: Path) -> None:
    """Sets DVC to work without git: it also looks in folders above, whose repository is not the project's.

    A clone does not get this setting.
    """
    settings = root / ".dvc" / "config.local"
    if settings.exists() and "no_scm" in settings.read_text(encoding="utf-8"):
        return
    subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], cwd=root, check=True)


def delete_tracked(root: Path) -> None:
    """Deletes the results that git tracks; those in no commit stay.

    Raises:
        UserError: git cannot list them.
    """
    listed = subprocess.run(["git", "ls-files", "-z", "--", *RESULTS], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        raise UserError(root, ".git", f"git ls-files ended with: {listed.stderr.strip()}", "Fix this, or delete .git")
    for name in filter(None, listed.stdout.split("\0")):
        (root / name).unlink(missing_ok=True)


def move(root: Path) -> Path | None:
    """Moves the results into a new folder and returns it; None if there is nothing to move."""
    found = [root / name for name in RESULTS if (root / name).exists()]
    if not found:
        return None
    names = itertools.chain(["results.aside"], (f"results.aside-{number}" for number in itertools.count(2)))
    aside = next(root / name for name in names if not (root / name).exists())
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    return aside


def main(argv: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(prog="python -m pipeline.set_aside", description=__doc__,
                                        formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.parse_args(argv)
    root = Path.cwd()
    in_git = (root / ".git").exists()
    if not in_git:
        do_without_git(root)
    if (root / "runs").exists():
        return 0
    if in_git and shutil.which("git"):
        delete_tracked(root)
    elif aside := move(root):
        print(f"The results that came with the project are in {aside.name} now", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
