"""Starts Ray or joins a cluster, until the end of a ``with`` block."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from effvis.errors import UserError
from pipeline.scheduling import cluster
from pipeline.scheduling.machine import side_by_side

if TYPE_CHECKING:
    from pipeline.settings.params import ResourceSettings

WORKER_DEATHS_ALLOWED = 2  # Ray restarts a task whose worker died; training resumes from its checkpoint
_STARTS = 4  # attempts of half a minute each
_OBJECT_STORE_BYTES = 100 * 2**20  # jobs exchange files, not objects; Ray's default takes 30 % of the memory


def slots_now(resources: ResourceSettings, runs_dir: Path) -> int:
    """How many runs go on side by side: as set, or as this machine or the cluster's present nodes can hold.

    Raises:
        UserError: for the reasons of ``ray_running``.
    """
    if resources.slots is not None or cluster.address() is None:
        return side_by_side(resources)
    with ray_running(0, runs_dir) as ray:
        return cluster.holds(resources, ray.nodes())


@contextlib.contextmanager
def ray_running(processors: int, runs_dir: Path, *, client: bool = True) -> Iterator[Any]:
    """Ray: the one that runs in this process, the cluster that ``RAY_ADDRESS`` names, or one started for the block.

    Args:
        processors: the processors of a Ray that is started here.
        runs_dir: the run store, which all nodes of a cluster have to see.
        client: as in ``cluster.address``.

    Raises:
        UserError: there is no such cluster, or one of its nodes does not see the run store or has other code.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning on machines without a GPU
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = cluster.address(client=client)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    with cluster.marked(runs_dir) if address else contextlib.nullcontext() as environment:
        try:
            if address:
                cluster.join(ray, address, runtime_env=environment, **quiet)
            else:
                _start_ray(ray, num_cpus=processors, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
            yield ray
        finally:
            ray.shutdown()


def _start_ray(ray: Any, **options: Any) -> None:
    """Starts Ray on this machine, never joining somebody else's that happens to run here ("local").

    Ray gives its processes half a minute to appear. On a busy machine that may not be enough: then it tries again. What an
    attempt in vain has started is ended first; it would take processors and memory until this process ends.

    Raises:
        UserError: the processes did not appear in any attempt.
    """
    for _ in range(_STARTS):
        before = _descendants()
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:  # Ray has no class of its own for it
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            _end(_descendants() - before)
    raise UserError("ray", "start", f"Ray's processes did not appear in {_STARTS} attempts of 30 s",
                    "Wait until the machine has less to do, and start again")


def _descendants() -> set[psutil.Process]:
    """The processes that this one has started, and those that they have."""
    return set(psutil.Process().children(recursive=True))


def _end(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
