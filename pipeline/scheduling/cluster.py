"""The cluster that ``RAY_ADDRESS`` names: what its processes must share with the driver, and how many runs it can hold.

Runs are files: file locks in the store keep two processes from working on one key, and a worker imports the code whose digest
is in the keys. So every node needs the same code, and has to see the run store under one path, with locks that hold between
nodes. The driver leaves a locked file in the store; each process looks for it, and tries its lock, before anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from effvis.errors import UserError
from pipeline import methods
from pipeline.identity.digests import PROJECT, evaluation_code_digest, training_digest
from pipeline.system.disk import explained

if TYPE_CHECKING:
    from pipeline.settings.params import ResourceSettings

_ADDRESS = "RAY_ADDRESS"
_CLIENT = "ray://"
# The head forks a process for each client while threads of gRPC run; now and then this process fails at its start (Ray 2.60).
_CLIENT_STARTS = 4
_DEAD_AT_BIRTH = re.compile(r"Starting Ray client server failed|psutil\.(ZombieProcess|NoSuchProcess)")
# Environment variables of every process of the driver's job on the cluster.
_MARK, _CODE = "EFFVIS_CLUSTER_MARK", "EFFVIS_CLUSTER_CODE"
_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 120.0  # a node may have to start its first process, which may import from a network file system
_SHARED = ("Put it on a file system that all nodes mount under the same path and that has file locks, as NFS 4, Lustre with "
           "-o flock or CephFS, and start again")


def address(*, client: bool = True) -> str | None:
    """The address of the cluster that ``RAY_ADDRESS`` names; None means that Ray is started here, for this process alone.

    Args:
        client: whether Ray's client (``ray://``) will do, whose process is not part of the cluster.

    Raises:
        UserError: it is a client's address and that will not do, or nothing listens there.
    """
    given = os.environ.get(_ADDRESS, "")
    if given in ("", "local"):
        return None
    if given.startswith(_CLIENT) and not client:
        raise UserError(_ADDRESS, given, "is for Ray's client, by which Ray's Tune and Train cannot be driven",
                        "Start this command on a node of the cluster, with RAY_ADDRESS=auto or the head's host:6379 (ray job "
                        "submit does so, docs/cluster.md)")
    host, _, port = given.removeprefix(_CLIENT).rpartition(":")
    if host and port.isdigit():
        try:
            # Ray itself would keep trying for some minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise UserError(_ADDRESS, given, f"no cluster answers there: {error}", "Start it with ray start --head, correct "
                            "the address, or unset it to use this machine alone") from None
    return given


@contextlib.contextmanager
def marked(runs_dir: Path) -> Iterator[dict[str, Any]]:
    """The ``runtime_env`` of a job on the cluster: it tells ``check_here``, in the job's processes, what to look for."""
    file = Path(os.path.abspath(runs_dir)) / ".cluster" / f"{uuid.uuid4().hex}.lock"
    with explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(file)
        lock.acquire(blocking=False)
    path = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        yield {"env_vars": {_MARK: str(file), _CODE: _code(), "PYTHONPATH": os.pathsep.join(path)}}
    finally:
        lock.release()
        file.unlink(missing_ok=True)


def check_here() -> None:
    """Checks, in a process of the cluster, that it sees what the driver sees. Without a cluster there is nothing to check.

    Raises:
        UserError: it sees something else; nothing has been written.
    """
    if _MARK in os.environ:
        _check(Path(os.environ[_MARK]), os.environ[_CODE])


@cache
def _check(mark: Path, code: str) -> None:
    runs_dir, node = mark.parents[1], platform.node()
    if not mark.is_file():
        raise UserError(runs_dir, "runs_dir", f"node {node} does not see this run store", _SHARED)
    try:
        with FileLock(mark).acquire(blocking=False):
            pass
    except Timeout:
        pass  # held by the driver, as it should be
    else:
        raise UserError(runs_dir, "runs_dir", f"on node {node} file locks of other nodes do not hold", _SHARED)
    if _code() != code:
        raise UserError(PROJECT, "(folder)", f"node {node} has other code there than the process that planned this grid",
                        "Give all nodes the same checkout under the same path, and start again")


@cache
def _code() -> str:
    """Digest of the code that enters keys and that each worker imports for itself; a comment does not change it."""
    digests = [digest(method) for method in methods.names() for digest in (training_digest, evaluation_code_digest)]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def join(ray: Any, address: str, **options: Any) -> None:
    """Calls ``ray.init``, then checks every node that is there now; nodes that join later are checked when they get work.

    Raises:
        UserError: the cluster cannot be joined, or a node does not answer or does not see what the driver sees.
    """
    try:
        if address.startswith(_CLIENT):
            _join_as_client(ray, address, options["runtime_env"])  # its process on the cluster accepts no other options
        else:
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        problem = lines[-1] if lines[0].endswith(":") else lines[0]  # the client repeats the traceback of the cluster's side
        where = "have" if address.startswith(_CLIENT) else "run on a node of the cluster, with"
        raise UserError(_ADDRESS, address, f"cannot be joined: {problem}",
                        f"The command has to {where} the same Python and the same Ray") from error
    _check_nodes(ray)


def _join_as_client(ray: Any, address: str, runtime_env: Mapping[str, Any]) -> None:
    for attempt in range(1, _CLIENT_STARTS + 1):
        try:
            ray.init(address=address, runtime_env=runtime_env)
            return
        except (ConnectionError, RuntimeError) as error:
            if attempt == _CLIENT_STARTS or not _DEAD_AT_BIRTH.search(str(error)):
                raise


def _check_nodes(ray: Any) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ray.remote(check_here).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote()] = node
    _, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK_SECONDS)
    for reference, node in asked.items():
        name = node["NodeManagerHostname"]
        if reference in silent:
            raise UserError(_ADDRESS, name, f"this node has started no process within {_LOOK_SECONDS:g} s",
                            "Look at ray status and at the logs in /tmp/ray there")
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise UserError(_ADDRESS, name, f"this node cannot run the project's code: {str(error).strip().splitlines()[-1]}",
                            f"Install the project there, in the same environment, or let it see {PROJECT}") from None
        except ray.exceptions.RayError:
            continue  # the node has left in the meantime


def memory(resources: ResourceSettings) -> int:
    """Bytes that a worker asks Ray for: only on a cluster, where Ray chooses its node; a machine's slots allow for memory."""
    return int(resources.memory_gib * 2**30) if _MARK in os.environ or address() else 0


def holds(resources: ResourceSettings, nodes: Iterable[Mapping[str, Any]]) -> int:
    """How many runs the nodes (``ray.nodes()``) have processors, memory and GPUs for; at least one. A run's workers may be
    on several nodes."""
    wanted = {"CPU": resources.threads, "GPU": resources.gpus_per_worker, "memory": resources.memory_gib * 2**30}
    places = 0
    for node in nodes:
        if node["Alive"]:
            places += min(int(node["Resources"].get(name, 0) // each) for name, each in wanted.items() if each)
    return max(1, places // resources.workers_per_run)
