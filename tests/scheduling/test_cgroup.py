"""Limits of control groups: of made ones, laid out as in containers, and of a real one if it can be made."""

import contextlib
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.project import CHECKOUT

from pipeline.scheduling import cgroup


def process(folder, groups, *mounts):
    """A /proc/self whose control groups are mounted in ``folder``: (kind, root, mount point, options) each."""
    (folder / "cgroup").write_text("".join(f"{line}\n" for line in groups))
    lines = [f"{40 + number} 31 0:{number} {root} {folder / point} rw,relatime shared:{number} - {kind} {kind} {options}\n"
             for number, (kind, root, point, options) in enumerate(mounts)]
    (folder / "mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/root rw\n" + "".join(lines))
    return folder


def put(folder, **files):
    """Files of a group; ``cpu_max`` is cpu.max."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")


def second_version(folder, path="/"):
    return process(folder, [f"0::{path}"], ("cgroup2", "/", "unified", "rw"))


def first_version(folder, path="/", root="/"):
    return process(folder, [f"4:memory:{path}", f"2:cpu,cpuacct:{path}", f"1:name=systemd:{path}"],
                   ("cgroup", root, "cpu,cpuacct", "rw,cpu,cpuacct"), ("cgroup", root, "memory", "rw,memory"),
                   ("cgroup", root, "systemd", "rw,name=systemd"))


def limits(process):
    return cgroup.processors(process), cgroup.memory_bytes(process)


def test_the_limits_of_version_2(tmp_path):
    put(tmp_path / "unified", cpu_max="150000 100000", memory_max=3 * 2**30)
    assert limits(second_version(tmp_path)) == (1.5, 3 * 2**30)


def test_max_is_no_limit(tmp_path):
    put(tmp_path / "unified", cpu_max="max 100000", memory_max="max")
    assert limits(second_version(tmp_path)) == (math.inf, math.inf)


def test_the_smallest_limit_on_the_way_up_counts(tmp_path):
    put(tmp_path / "unified" / "pods", cpu_max="200000 100000", memory_max=2**30)
    put(tmp_path / "unified" / "pods" / "one", cpu_max="400000 100000", memory_max="max")
    put(tmp_path / "unified" / "pods" / "one" / "step", cpu_max="max 100000", memory_max=2**31)
    put(tmp_path / "unified" / "others", cpu_max="1000 100000", memory_max=1)  # not on the way up
    assert limits(second_version(tmp_path, "/pods/one/step")) == (2.0, 2**30)


def test_the_limits_of_version_1(tmp_path):
    process = first_version(tmp_path, "/docker/some")
    put(tmp_path / "cpu,cpuacct" / "docker" / "some", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    put(tmp_path / "cpu,cpuacct" / "docker", cpu_cfs_quota_us=25000, cpu_cfs_period_us=50000)
    put(tmp_path / "memory" / "docker" / "some", memory_limit_in_bytes=5 * 2**20)
    put(tmp_path / "memory", memory_limit_in_bytes=9223372036854771712)
    assert limits(process) == (0.5, 5 * 2**20)


def test_a_container_that_is_told_its_path_on_the_host_finds_its_group_at_the_mount_point(tmp_path):
    put(tmp_path / "cpu,cpuacct", cpu_cfs_quota_us=300000, cpu_cfs_period_us=100000)
    put(tmp_path / "memory" / "inner", memory_limit_in_bytes=7)
    put(tmp_path / "memory", memory_limit_in_bytes=9)
    assert limits(first_version(tmp_path, "/docker/some", root="/docker/some")) == (3.0, 9)
    assert limits(first_version(tmp_path, "/docker/some/inner", root="/docker/some")) == (3.0, 7)
    assert limits(first_version(tmp_path, "/elsewhere", root="/docker/some")) == (3.0, 9)


def test_a_group_outside_what_the_container_sees_is_not_looked_for(tmp_path):
    put(tmp_path / "unified", cpu_max="100000 100000")
    put(tmp_path / "outside", cpu_max="1000 100000")
    assert cgroup.processors(second_version(tmp_path, "/../outside")) == 1.0


def test_versions_side_by_side(tmp_path):
    put(tmp_path / "unified" / "mine", memory_max=11)
    put(tmp_path / "cpu", cpu_cfs_quota_us=200000, cpu_cfs_period_us=100000)
    both = process(tmp_path, ["2:cpu:/", "0::/mine"], ("cgroup", "/", "cpu", "rw,cpu"), ("cgroup2", "/", "unified", "rw"))
    assert limits(both) == (2.0, 11)


def test_missing_files_are_no_limits(tmp_path):
    assert limits(tmp_path / "nowhere") == (math.inf, math.inf)
    assert limits(second_version(tmp_path, "/a/b")) == (math.inf, math.inf), "the folders are not there either"
    put(tmp_path / "cpu,cpuacct", cpu_cfs_quota_us=100)
    assert limits(first_version(tmp_path)) == (math.inf, math.inf), "a quota without its period"


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="no Linux")
def test_this_process_has_some_limit_or_none():
    processors, memory = limits(Path("/proc/self"))
    assert processors > 0 and memory > 2**20


def _cpu_controller():
    """This process's group that limits processors, if this user may make a group below it; otherwise None."""
    group = next(iter(cgroup._groups("cpu", Path("/proc/self"))), None)
    return group if group is not None and (group / "cpu.cfs_quota_us").exists() and os.access(group, os.W_OK) else None


@pytest.mark.skipif(_cpu_controller() is None, reason="no control group can be made here")
def test_a_real_group_with_a_quota(tmp_path):
    own = _cpu_controller() / f"effvis-test-{os.getpid()}"
    try:
        own.mkdir()
    except OSError as error:  # writable by its mode, but not inside a container
        pytest.skip(str(error))
    try:
        (own / "cpu.cfs_quota_us").write_text("150000")
        program = (f"open({str(own / 'cgroup.procs')!r}, 'w').write('0')\n"
                   "from pipeline.scheduling.machine import processors\nfrom pipeline.scheduling import cgroup\n"
                   "print(cgroup.processors(), processors())\n")
        ended = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    finally:
        with contextlib.suppress(OSError):
            own.rmdir()
    assert ended.stdout.split() == ["1.5", "1"], ended.stderr
