"""One pool for everything that a grid still needs: each job is a Ray task, and ``slots`` jobs run side by side.

The pool does not know about tables. A job has a key, the keys it needs and a function. The jobs it needs run first, a job
that needs a failed one is skipped, and everything else goes on. Jobs are idempotent (the store's lock per key ensures
it), so a job that runs twice, because a worker died or a second grid runs beside this one, does no harm.
"""

from __future__ import annotations

import contextlib
import heapq
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from effvis.errors import UserError
from pipeline.scheduling import cluster
from pipeline.scheduling.progress import Stop, read_progress, write_progress
from pipeline.scheduling.ray_session import WORKER_DEATHS_ALLOWED, ray_running
from pipeline.system.disk import explained

Kind = Literal["pretrain", "train", "evaluate"]

# A finished training's evaluations come first: they are short, and a finished table cell is worth more than a
# training that is further along. Pretrainings come next because everything else waits for them.
_ORDER: dict[Kind, int] = {"evaluate": 0, "pretrain": 1, "train": 2}
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """The work for one key.

    Args:
        key: unique among the jobs of a pool.
        kind: decides the order among jobs that are ready.
        label: what a person calls it, e.g. ``table1e: w/ CL, seed 0``.
        work: the function, called as ``work(report=report)`` in another process, so it must be picklable; ``report`` is a
            ``pipeline.scheduling.progress.OnProgress``.
        needs: keys of jobs that must be done first; those that are not in the pool count as done.
        cost: the job's cost in any unit; among jobs of one kind the most costly starts first.
        log: the file that receives what the job prints, and its traceback.
    """

    key: str
    kind: Kind
    label: str
    work: Callable[..., object]
    log: Path
    needs: tuple[str, ...] = ()
    cost: float = 0.0


@dataclass
class Status:
    """A job's state, for display."""

    job: Job
    state: Literal["waiting", "running", "done", "failed", "skipped"] = "waiting"
    started: float = 0.0
    seconds: float = 0.0
    message: str = ""
    progress_file: Path | None = None

    @property
    def progress(self) -> dict[str, Any]:
        """The job's latest report; empty before the first."""
        return read_progress(self.progress_file) if self.progress_file else {}


def run_pool(
    jobs: Iterable[Job],
    *,
    slots: int | Callable[[list[dict[str, Any]]], int],
    threads: int,
    gpus: int = 0,
    memory: int = 0,
    workers: int = 1,
    progress_folder: Path,
    on_change: Callable[[list[Status]], None] = lambda statuses: None,
    on_done: Callable[[Job], None] = lambda job: None,
) -> list[Status]:
    """Runs all jobs and returns their final statuses, in the order given. Without jobs, it does not start Ray.

    Args:
        slots: how many jobs run side by side; on a cluster, whose nodes come and go, it may be a function of ``ray.nodes()``.
        threads: processors that each worker of a job takes.
        gpus: GPUs that each worker takes.
        memory: memory that each worker takes, in bytes, by which Ray chooses the node; 0 means that it is not counted.
        workers: workers of each job. One is the job itself. If there are more, the job starts them and takes nothing for
            itself: a job that held what its workers wait for would wait forever.
        progress_folder: the folder of the jobs' latest reports, ``<key>.json``; it is in the run store, and grids that run at
            the same time share it.
        on_change: called with all statuses about twice a second, in this thread.
        on_done: called with each job that ended well, in this thread, before jobs that need it start.

    Ctrl-C and SIGTERM, as exceptions in this thread, pass on once the running trainings have saved their state.

    Raises:
        UserError: two jobs have one key, or jobs need each other in a circle; also for the reasons of ``ray_running``.
    """
    jobs = list(jobs)
    statuses = {job.key: Status(job, progress_file=progress_folder / f"{job.key}.json") for job in jobs}
    if len(statuses) < len(jobs):
        raise UserError("schedule", "jobs", "two jobs have one key", "Plan each key once")
    if not statuses:
        return []
    queue = Queue(statuses)
    progress_folder.mkdir(parents=True, exist_ok=True)
    fixed = slots if isinstance(slots, int) else None
    running: dict[Any, Status] = {}
    stop = Stop(progress_folder)
    with (ray_running((fixed or 0) * workers * threads, progress_folder.parent) as ray,
          stop.when_interrupted(lambda: [status.progress_file for status in running.values()])):
        own = {"num_cpus": threads, "num_gpus": gpus, "memory": memory or None} if workers == 1 else {"num_cpus": 0}
        start = ray.remote(execute).options(**own, max_retries=WORKER_DEATHS_ALLOWED)
        told = float("-inf")
        while True:
            free = (fixed or slots(ray.nodes())) - len(running)  # below 0 if a node has left
            for status in queue.next_jobs(free):
                status.state, status.started = "running", time.monotonic()
                running[start.remote(status.job, status.progress_file, stop)] = status
            if not running or time.monotonic() - told >= _POLL_SECONDS:
                on_change(list(statuses.values()))
                told = time.monotonic()
            if not running:
                break
            ray.wait(list(running), timeout=_POLL_SECONDS)
            finished, _ = ray.wait(list(running), num_returns=len(running), timeout=0)  # all that have ended in the meantime
            for reference in finished:
                status = running.pop(reference)
                status.message = _outcome(ray, reference, status.job)
                status.state = "failed" if status.message else "done"
                status.seconds = time.monotonic() - status.started
                if status.state == "done":
                    on_done(status.job)
                queue.settle(status)
    return list(statuses.values())


class Queue:
    """The jobs that can start now, in the order to start them.

    Args:
        rank: the job with the smallest rank starts first; equal ranks keep the order given.

    Raises:
        UserError: jobs need each other in a circle.
    """

    def __init__(self, statuses: Mapping[str, Status], rank: Callable[[Job], Any] | None = None):
        self._statuses, self._rank = statuses, rank or _rank
        self._place = {key: place for place, key in enumerate(statuses)}
        self._needs = {key: [need for need in status.job.needs if need in statuses] for key, status in statuses.items()}
        self._order = TopologicalSorter(self._needs)
        try:
            self._order.prepare()
        except CycleError as error:
            circle = ", ".join(sorted(set(error.args[1])))
            raise UserError("schedule", circle, "these jobs need each other", "Break the circle") from None
        self._ready: list[tuple[Any, int, str]] = []
        self._advance()

    def next_jobs(self, most: int) -> Iterator[Status]:
        """The next jobs, ``most`` at most."""
        while self._ready and most > 0:
            most -= 1
            yield self._statuses[heapq.heappop(self._ready)[-1]]

    def settle(self, status: Status) -> None:
        """Records that a job has ended: jobs that need it can start, or are skipped together with all that need them."""
        self._order.done(status.job.key)
        self._advance()

    def _advance(self) -> None:
        """Moves jobs whose needs have all ended to those that can start, or ends them, too."""
        while free := self._order.get_ready():
            for key in free:
                status = self._statuses[key]
                lacking = next((need for need in self._needs[key] if self._statuses[need].state != "done"), None)
                if lacking is None:
                    heapq.heappush(self._ready, (self._rank(status.job), self._place[key], key))
                else:
                    status.state, status.message = "skipped", f"needs {self._statuses[lacking].job.label}"
                    self._order.done(key)


def _rank(job: Job) -> tuple[int, float]:
    return _ORDER[job.kind], -job.cost


def _outcome(ray, reference, job: Job) -> str:
    """An empty text for a job that ended well, or one line on what happened."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:  # the process died (killed, out of memory) and could not report it
        message = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        _append(job.log, f"{message}\n")
        return message


def execute(job: Job, progress_file: Path, stop: Stop) -> str:
    """Runs the job in a Ray worker, with its output in its log. Returns "" or one line on what went wrong."""
    try:
        cluster.check_here()  # before anything is written where nobody would look
        with explained(job.log):  # on a full disk there is no room for the job's output either
            return _logged(job, progress_file, stop)
    except UserError as error:
        return str(error)


def _logged(job: Job, progress_file: Path, stop: Stop) -> str:
    where = {"device": _device()}
    write_progress(progress_file, where)  # replaces the report of an earlier attempt
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        try:
            job.work(report=stop.reporting(progress_file, where))
            return ""
        except UserError as error:
            print(f"error: {error}")
            return str(error)
        except KeyboardInterrupt:  # as requested; nobody waits for the result
            print("interrupted")
            return "interrupted"
        except Exception as error:  # whatever it is, the other jobs go on
            traceback.print_exc()
            return f"{type(error).__name__}: {error}".strip().splitlines()[0]
        finally:
            progress_file.unlink(missing_ok=True)


def _device() -> str:
    """This worker's place, for people: its machine, and the GPUs that Ray gave it."""
    import ray

    gpus = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return f"{platform.node()} {'GPU ' + ', '.join(gpus) if gpus else 'CPU'}"


def _append(file: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk, only the returned message remains
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a") as log:
            log.write(text)
