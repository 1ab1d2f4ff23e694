"""What a run uses of its machine: its device, its memory, and how many such runs fit side by side."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.scheduling import cgroup

if TYPE_CHECKING:
    import torch

    from pipeline.settings.params import ResourceSettings

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def device(resources: ResourceSettings) -> torch.device:
    """The processor, or this process's own GPU: the first that Ray lets it see, or the one that Ray Train names.

    Raises:
        UserError: the settings ask for a GPU, and there is none.
    """
    import torch

    if not resources.gpus_per_worker:
        return torch.device("cpu")
    # cuBLAS reads this at its first use; without it, PyTorch refuses deterministic algorithms.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not torch.cuda.is_available():
        raise UserError("params.yaml", "resources.gpus_per_worker", "a GPU is asked for, but PyTorch sees none on this machine",
                        "Set it to 0, or install a build of PyTorch for the GPU that is there")
    if resources.workers_per_run > 1 and torch.distributed.is_initialized():
        from ray.train.torch import get_device

        return get_device()
    return torch.device("cuda")


def side_by_side(resources: ResourceSettings) -> int:
    """How many runs can go on at once: ``resources.slots``, or as many as there are processors, memory and GPUs for."""
    if resources.slots is not None:
        return resources.slots
    holds = [processors() // resources.threads, int(memory_bytes() // (resources.memory_gib * 2**30))]
    if resources.gpus_per_worker:
        import torch

        holds.append(torch.cuda.device_count() // resources.gpus_per_worker)
    return max(1, min(holds) // resources.workers_per_run)


def processors() -> int:
    """How many processors this process may use: those of its affinity, or fewer under a container's limit; at least 1."""
    return max(1, int(min(len(os.sched_getaffinity(0)), cgroup.processors())))


def reset_peak_memory() -> None:
    """Lets ``peak_memory_mib`` count from here: a Ray worker may have run other jobs before. Only Linux can do it."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return


def peak_memory_mib() -> int:
    """The most main memory that this process held at once since the reset, in MiB."""
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(line.split()[1]) // 1024


def memory_bytes() -> int:
    """The machine's memory, or less in a container."""
    return int(min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), cgroup.memory_bytes()))
