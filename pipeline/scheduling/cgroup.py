"""What the control groups (cgroups) of this process allow it: in a container, less than its machine has.

Linux has them in two versions, which may be mounted side by side. A limit holds for all groups below its own, so that the
smallest one on the way up counts. No library is used: os.process_cpu_count (Python 3.13) and psutil know of no limits, and
loky, which joblib counts with, reads the outermost group's alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")


def processors(process: Path = _PROCESS) -> float:
    """Seconds of processor time per second, which need not be whole; infinite where nothing is limited."""
    return min(map(_processors, _groups("cpu", process)), default=math.inf)


def memory_bytes(process: Path = _PROCESS) -> float:
    """Main memory; infinite, or more than any machine has, where nothing is limited."""
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
    """Folders of the groups that the process is in, of both versions: its own and all above it that are to be seen."""
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
    """The process's group by controller, version 2's by the empty name."""
    found = {}
    for line in _lines(process / "cgroup"):
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    return found


def _below(path: PurePosixPath, root: str) -> PurePosixPath:
    """Where a group is below its mount point, which shows ``root`` and what is in it; one elsewhere is not to be seen, and
    a container's own is the mount point."""
    return path.relative_to(root) if path.is_relative_to(root) and ".." not in path.parts else PurePosixPath()


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # not Linux; or a group without this controller, as the outermost one
        return []
