"""A full or read-only disk: the user sees one clear line, nothing unfinished counts as done, and work resumes with room."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import CHECKOUT, TINY

from effvis.errors import UserError
from pipeline.engine.run import train_run
from pipeline.grid.rows import find_evaluation
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params
from pipeline.system.disk import explained


@pytest.mark.parametrize("number, remedy", [(errno.ENOSPC, "Free space"), (errno.EROFS, "writable"), (errno.EACCES, "yours")])
def test_errors_of_the_disk_name_the_file_and_a_remedy(number, remedy):
    with pytest.raises(UserError, match=remedy) as error, explained(Path("place")):
        raise OSError(number, os.strerror(number), "temporary")
    assert (error.value.where, error.value.problem) == ("place", os.strerror(number))
    with pytest.raises(UserError) as error, explained():
        raise OSError(number, os.strerror(number), "temporary")
    assert error.value.where == "temporary"


def test_other_errors_pass():
    with pytest.raises(ConnectionResetError), explained(Path("place")):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def _on_a_disk(size: str, script: str, *words: object, options: str = "") -> subprocess.CompletedProcess:
    """Runs a shell script with a small file system of its own at $1. Skips the test if none can be mounted."""
    mount = f"mount -t tmpfs -o size={size}{options} tmpfs \"$1\""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-ec", f"{mount} || exit 77\n{script}", "sh", *map(str, words)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=words[0].parent,
                               env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if ended.returncode in (1, 77) and ("unshare:" in ended.stderr or "mount:" in ended.stderr):
        pytest.skip(f"no file system can be mounted here: {ended.stderr.strip()}")
    return ended


@pytest.fixture
def disk(tmp_path) -> Path:
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def test_a_full_disk_leaves_the_old_file_and_no_half_one(disk):
    write = f"{sys.executable} -c 'from pathlib import Path; from pipeline.runs.store import write_atomically as w; " \
        "import sys; w(Path(sys.argv[1]) / \"file\", b\"x\" * int(sys.argv[2]))' \"$1\""
    ended = _on_a_disk("256k", f"{write} 1000; {write} 1000000 || true; ls -A -s --block-size=1 $1; {write} 2000", disk)
    assert ended.returncode == 0, ended.stderr
    assert "UserError" in ended.stderr and "file: (file): No space left on device. Free space" in ended.stderr
    assert ended.stdout.split()[-1] == "file" and len(ended.stdout.splitlines()) == 2, ended.stdout


def test_a_store_that_is_read_only(disk):
    lock = f"{sys.executable} -c 'from pipeline.runs.store import RunStore; import sys; from pathlib import Path\n" \
        "with RunStore(Path(sys.argv[1]) / \"runs\").lock(\"k\"): pass' \"$1\""
    ended = _on_a_disk("256k", lock, disk, options=",ro")
    assert "runs: (file): Read-only file system. Make the file system writable" in ended.stderr, ended.stderr


@pytest.mark.slow
def test_a_training_on_a_full_disk_goes_on_when_there_is_room(tiny_project, disk):
    """Something else fills the store's file system, which is then freed. The weights equal those of an undisturbed run."""
    project = tiny_project(train={**TINY["train"], "epochs": 12, "lr_drop_epoch": 8}, pretrain={"source": "none"},
                           resources={"checkpoint_seconds": 0.01})
    spec = find_evaluation(load_params(project / "params.yaml"), None, 0).train
    train = f"{sys.executable} -m pipeline.train --params {project / 'params.yaml'}"
    ended = _on_a_disk(
        "24m", f"head -c 21M /dev/zero > $1/ballast; {train} -S runs_dir=$1/runs && exit 1\necho code $?; "
        f"test ! -e $1/runs/{spec.key}/done.json; rm $1/ballast; {train} -S runs_dir=$1/runs; "
        f"cp -r $1/runs {project / 'copied'}", disk)
    assert ended.returncode == 0, ended.stderr
    assert "code 2" in ended.stdout and "No space left on device. Free space, then start again" in ended.stderr
    assert not [line for line in ended.stderr.splitlines() if line.startswith("Traceback")]
    train_run(load_params(project / "params.yaml", [f"runs_dir={project / 'calm'}"]), spec)
    done = [RunStore(project / name).done(spec.key)["sha256"] for name in ("copied", "calm")]
    assert done[0] == done[1]
