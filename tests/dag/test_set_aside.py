"""make reproduce where nothing has been trained: in a git clone, and in an archive without git or in a foreign repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.dvc_project import FOREIGN, commit, git, stages_run, unpack
from support.project import TINY, write_params

from effvis.errors import UserError
from pipeline.runs.environment import git_state
from pipeline.set_aside import delete_tracked, main, move

VENV = Path(sys.executable).parents[1]


def results(folder):
    (folder / "results" / "cells").mkdir(parents=True)
    (folder / "results" / "table1e.md").write_text("published with the project\n")
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    return folder


def repository(folder):
    git(folder, "init", "-q")
    commit(folder)
    return folder


def test_a_clone_deletes_what_git_has(tmp_path, monkeypatch):
    monkeypatch.chdir(repository(results(tmp_path)))
    (tmp_path / "results" / "mine.md").write_text("in no commit\n")
    assert main([]) == 0
    assert [file.name for file in sorted(tmp_path.glob("results/**/*")) if file.is_file()] == ["mine.md"]
    assert not (tmp_path / "dvc.lock").exists() and not (tmp_path / ".dvc").exists(), "a clone's DVC is left as it is"


def test_what_has_runs_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(repository(results(tmp_path)))
    (tmp_path / "runs").mkdir()
    assert main([]) == 0
    assert (tmp_path / "results" / "table1e.md").exists() and (tmp_path / "dvc.lock").exists()


def test_a_repository_that_git_does_not_read_is_told(tmp_path):
    results(tmp_path)
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match=r"\.git: git ls-files ended with.*delete \.git"):
        delete_tracked(tmp_path)


def test_what_is_moved_overwrites_nothing(tmp_path):
    assert [move(results(tmp_path)).name for _ in range(3)] == ["results.aside", "results.aside-2", "results.aside-3"]
    assert all((tmp_path / f"results.aside{end}" / "results" / "table1e.md").exists() for end in ("", "-2", "-3"))
    assert move(tmp_path) is None


def test_another_s_commit_is_not_the_project_s(tmp_path):
    (tmp_path / "diary.txt").write_text("today\n")
    inner = tmp_path / "effvis"
    repository(tmp_path)
    inner.mkdir()
    (inner / "env.py").write_text("\n")
    assert git_state(inner) == {}
    commit(tmp_path)
    assert git_state(inner)["commit"] == git(tmp_path, "rev-parse", "HEAD").strip()


def make_reproduce(folder, path):
    """The output of make reproduce, with this test's Python in place of a new .venv."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN} | {"PATH": path}
    command = ["make", "reproduce", f"VENV={VENV}", "-o", f"{VENV}/.installed"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("place", ["without git", "in another's repository"])
def test_an_archive_is_reproduced(tmp_path, place):
    """It runs the stages up to the plan, which show everything that concerns git; other tests cover those that train."""
    folder = tmp_path / "home" / "effvis"
    unpack(folder)
    write_params(folder, **TINY, seeds=1, tables=["table1e"])
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    few = {name: stages[name] for name in ("download", "index", "plan")}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": few}))
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    if place == "without git":
        tools = tmp_path / "tools"
        tools.mkdir()
        for tool in ("make", "sh"):
            (tools / tool).symlink_to(shutil.which(tool))
        path = f"{VENV / 'bin'}{os.pathsep}{tools}"
        if shutil.which("git", path=path):
            pytest.skip("git is beside Python")
    else:
        (tmp_path / "home" / ".gitignore").write_text("*\n")  # like a home folder whose repository keeps few files
        git(tmp_path / "home", "init", "-q")
    came_with_it = (folder / "results" / "table1e.md").read_text()

    output = make_reproduce(folder, path)
    assert stages_run(output) == ["download@shapes-vis", "index", "plan"]
    assert "are in results.aside now" in output
    assert (folder / "results.aside" / "results" / "table1e.md").read_text() == came_with_it
    assert (folder / "results.aside" / "dvc.lock").exists()
    assert [file.name for file in (folder / "results").iterdir()] == ["plan"]
    (folder / "runs").mkdir()  # as a training leaves it
    assert stages_run(make_reproduce(folder, path)) == []
    assert (folder / ".dvc" / "config.local").read_text().count("no_scm") == 1
