"""Looks at devices, disk and tracking server."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checks.finding import Finding
from pipeline.mlflow_view.server import is_server
from pipeline.mlflow_view.sync import tracking_uri
from pipeline.scheduling import cluster
from pipeline.scheduling.machine import memory_bytes, processors
from pipeline.scheduling.ray_session import ray_running

if TYPE_CHECKING:
    from pipeline.settings.params import Params

GIB = 2**30
_ANSWER_SECONDS = 5.0


def devices(params: Params) -> Iterator[Finding]:
    """GPUs, processors and memory: of this machine, or of the cluster that RAY_ADDRESS names.

    Raises:
        UserError: the cluster cannot be joined.
    """
    if cluster.address() is not None:
        with ray_running(0, params.runs_dir) as ray:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        where = f"{len(nodes)} nodes of the cluster"
        gpus = [f"{name.partition(':')[2]} x{round(node.get('GPU', 0))}" for node in nodes for name in node
                if name.startswith("accelerator_type:")]
        count = sum(round(node.get("GPU", 0)) for node in nodes)
        cores, memory = sum(round(node.get("CPU", 0)) for node in nodes), sum(node.get("memory", 0) for node in nodes)
    else:
        import torch

        where = "this machine"
        found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        gpus = [f"{one.name} with {one.total_memory / GIB:.0f} GiB" for one in found]
        count, cores, memory = len(gpus), processors(), memory_bytes()
    resources, workers = params.resources, params.resources.workers_per_run
    text = f"{where}: {count} GPUs{' (' + ', '.join(gpus) + ')' if gpus else ''}, {cores} processors, {memory / GIB:.0f} GiB"
    wants = (f"; a run takes {workers} workers with {resources.threads} processors and {resources.memory_gib:g} GiB each, and "
             f"{'a GPU' if resources.gpus_per_worker else 'no GPU'}")
    if count < workers * resources.gpus_per_worker:
        yield Finding("device", text + wants, f"Take a machine or a cluster (docs/cluster.md) with {workers} GPUs, or set "
                      "fewer resources.workers_per_run; resources.gpus_per_worker: 0 trains on processors", missing=True)
    elif cores < workers * resources.threads or memory < workers * resources.memory_gib * GIB:
        yield Finding("device", text + wants, "Set fewer resources.threads or less resources.memory_gib, or a run will share "
                      "processors and memory that it does not have")
    else:
        yield Finding("device", text + wants)


def gpus_elsewhere(params: Params) -> list[Finding]:
    """That no step can be measured, where the runs' GPUs are the cluster's and this machine has none."""
    import torch

    if cluster.address() is None or not params.resources.gpus_per_worker or torch.cuda.is_available():
        return []
    return [Finding("step", "not measured: the GPUs are the cluster's, and this machine has none",
                    "Run this command on a node with a GPU to know how long the trainings take", unknown=True)]


def disk(params: Params, needed: float) -> Iterator[Finding]:
    """Free space where the runs go.

    Args:
        needed: bytes that the missing trainings will write.
    """
    place = next(folder for folder in (params.runs_dir, *params.runs_dir.parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    text = (f"{params.runs_dir}: {free / GIB:.1f} GiB are free; weights, snapshots and checkpoints of the missing trainings "
            f"take {needed / GIB:.1f} GiB")
    if free < needed:
        yield Finding("disk", text, "Set runs_dir to a folder on a larger disk, or fewer resources.snapshots", missing=True)
    else:
        yield Finding("disk", text)


def tracking(params: Params) -> Iterator[Finding]:
    """Whether MLflow's server answers, or the folder of its file is there."""
    uri = tracking_uri(params)
    if is_server(uri):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_ANSWER_SECONDS).close()
        except OSError as error:
            yield Finding("tracking", f"{uri} does not answer: {error}", "Start the server, or correct or unset "
                          "MLFLOW_TRACKING_URI: then runs are shown from mlflow.db", missing=True)
            return
        yield Finding("tracking", f"{uri} answers")
        return
    kind, _, file = uri.partition(":///")
    if kind == "sqlite" and not Path(file).parent.is_dir():
        yield Finding("tracking", f"{uri}: there is no folder {Path(file).parent}", "Make it, or unset MLFLOW_TRACKING_URI",
                      missing=True)
        return
    yield Finding("tracking", f"runs are shown from {uri}")
