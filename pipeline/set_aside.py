"""Makes a project that has trained nothing yet measure for itself: sets aside the results that came with it, which dvc repro
would believe. Once there are runs, it leaves everything as it is. For make reproduce.

In a git clone they are deleted, for git has them. Elsewhere, as in a release's archive, they are moved to results.aside, and
DVC is told to do without git.
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
    """DVC looks for git, also in folders above, whose repository is not the project's; no clone gets this setting."""
    settings = root / ".dvc" / "config.local"
    if settings.exists() and "no_scm" in settings.read_text(encoding="utf-8"):
        return
    subprocess.run([sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"], cwd=root, check=True)


def delete_tracked(root: Path) -> None:
    """What is in no commit stays.

    Raises:
        UserError: git does not tell what is.
    """
    listed = subprocess.run(["git", "ls-files", "-z", "--", *RESULTS], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        raise UserError(root, ".git", f"git ls-files ended with: {listed.stderr.strip()}", "Mend what git says, or delete .git")
    for name in filter(None, listed.stdout.split("\0")):
        (root / name).unlink(missing_ok=True)


def move(root: Path) -> Path | None:
    """Returns the new folder that holds them; None where there is nothing to move."""
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
