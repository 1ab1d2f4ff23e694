"""The limits that control groups (cgroups) set for this process: in a container, it may have less than the whole machine.

Linux has two versions of them, which may be mounted side by side. A limit holds for all groups below its own, so the
smallest limit on the way up counts. No library is used: os.process_cpu_count (Python 3.13) and psutil do not know the limits,
and loky, which joblib counts with, reads only those of the outermost group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")


def processors(process: Path = _PROCESS) -> float:
    """Seconds of processor time per second, which may be a fraction; infinite if there is no limit."""
    return min(map(_processors, _groups("cpu", process)), default=math.inf)


def memory_bytes(process: Path = _PROCESS) -> float:
    """Main memory in bytes; infinite, or more than any machine has, if there is no limit."""
    return min(map(_memory_bytes, _groups("memory", process)), default=math.inf)


def _processors(group: Path) -> float:
    words = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(words) < 2 or words[0] in ("max", "-1"):
        return math.inf
    return int(words[0]) / int(words[1])


def _memory_bytes(group: Path) -> float:
    words = _words(group / "memory.max") or _words(group / "memory.limit_in_bytes")
    return int(words[0]) if words and words[0] != "max" else math.inf


def _groups(controller: str, process: Path) -> Iterator[Path]:
    """Folders of the process's groups, in both versions: its own group and all visible groups above it."""
    own = _own_paths(process)
    for line in _lines(process / "mountinfo"):
        mount, _, file_system = line.partition(" - ")
        root, point = mount.split()[3:5]
        kind, *_, options = file_system.split()
        if kind == "cgroup2":
            path = own.get("")
        elif kind == "cgroup" and controller in options.split(","):
            path = own.get(controller)
        else:
            continue
        if path is not None:
            below = _below(path, root)
            yield from (Path(point) / folder for folder in (below, *below.parents))


def _own_paths(process: Path) -> dict[str, PurePosixPath]:
    """The process's group by controller; that of version 2 has the empty name."""
    found = {}
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    return found


def _below(path: PurePosixPath, root: str) -> PurePosixPath:
    """The group's path below its mount point, which shows ``root`` and what is in it. A group elsewhere is not visible; a
    container's own group is the mount point itself."""
    return path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else PurePosixPath()


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux, or a group without this controller, such as the outermost one
        return []
