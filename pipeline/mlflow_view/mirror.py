"""Brings records into an MLflow server so that each run is there once, with each step once, despite any interruption.

A small file per run records what was sent, but it is only a cache: it is marked unsure before anything is sent. If it is
unsure, absent or about another server, this code asks the server what it has.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from effvis.files import replacing_file, write_file

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.tracking import MlflowClient

_SETTINGS = {
    # With MLflow's own defaults (120 s, 7 retries with growing pauses), a call to a dead server hangs for over four minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print a line for each run that ends
}
_PARAM_LENGTH = 6000  # longest value of a parameter that MLflow accepts


@dataclass(frozen=True)
class Step:
    """Metrics of one step; ``milliseconds`` since 1970."""

    number: int
    milliseconds: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """One MLflow run as it should be: a training, an evaluation or a grid.

    Args:
        key: the value of its tag ``run_key``, by which it is found again.
        tags: tags to set if the run's differ. No tag is ever removed: one that is missing here was known earlier.
        default_tags: tags to set if the run has no tag of that name.
        parent: key of the record under which it is shown; the parent is brought first.
        started, ended: milliseconds since 1970; ``ended`` is None while it runs.
        status: MLflow's status; with RUNNING there is no ``ended``, with all others there is.
        params: nested parameters, which become ``a.b.c``. They never change.
        steps: reads all steps; called only when there is news.
        version: a value that changes whenever ``steps`` has more steps.
        summary: metrics of the run as a whole. Their values may still change.
        artifacts: files to copy to the server, by their folder there ("": the top).
    """

    key: str
    name: str
    tags: Mapping[str, str]
    started: int
    default_tags: Mapping[str, str] = field(default_factory=dict)
    parent: str | None = None
    ended: int | None = None
    status: Literal["RUNNING", "FINISHED", "KILLED"] = "RUNNING"
    params: Mapping[str, Any] = field(default_factory=dict)
    steps: Callable[[], Sequence[Step]] = tuple
    version: str = ""
    summary: Mapping[str, float] = field(default_factory=dict)
    artifacts: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)

    def facts(self) -> list[Any]:
        """The facts that can change, except tags, parent and files, in the form in which JSON returns them."""
        return [self.version, self.status, self.ended, dict(self.summary)]

    def files(self) -> dict[str, list[Any]]:
        """For each path, the folder on the server and values that change with the file's content."""
        return {
            str(file): [folder, file.stat().st_size, file.stat().st_mtime_ns]
            for folder, files in self.artifacts.items()
            for file in files
        }

    def is_news(self, state: Mapping[str, Any], files: Mapping[str, list[Any]]) -> bool:
        """Whether the record has anything that is not in ``state``, in which an earlier record left the server."""
        return (
            state.get("facts") != self.facts()
            or state["files"] != files
            or not self.tags.items() <= state["tags"].items()
            or (self.parent is not None and state["parent"] is None)
        )


class Mirror:
    """One experiment on one server. Create it under a lock: a new database must not be initialised twice at once.

    Args:
        state: folder of the records of what was sent to this server; it may be deleted at any time.
        artifacts: the place for the artifacts of a new experiment; None: the server's own place.

    Raises:
        Exception: whatever MLflow raises when the server cannot be used; the methods raise it, too.
    """

    def __init__(self, uri: str, experiment: str, state: Path, artifacts: Path | None = None):
        self._client = _client(uri)
        self._state = state
        state.mkdir(parents=True, exist_ok=True)
        self._experiment = self._find_experiment(experiment, artifacts)
        self._run_ids: dict[str, str] = {}  # ids by key, as far as they are known

    def bring(self, record: Record) -> bool:
        """Makes the server's run equal to the record; returns whether there was anything to bring."""
        state, files = self._load(record.key), record.files()
        if not record.is_news(state, files):
            return False
        run, known = self._open(record, state)
        self._run_ids[record.key] = run.info.run_id
        self._save(record.key, {"run_id": run.info.run_id})  # without facts, the state is unsure from here on
        tags, params = self._facts(run, record)
        metrics, sent = self._new_steps(run, record.steps(), state["step"] if known else None)
        self._client.log_batch(run.info.run_id, metrics=metrics + self._summary(run, record), params=params, tags=tags)
        self._bring_files(run, files, state["files"] if known else {})
        self._bring_status(run, record)
        self._save(record.key, {
            "run_id": run.info.run_id,
            "step": sent,
            "facts": record.facts(),
            "files": files,
            "tags": {**(state["tags"] if known else {}), **record.tags},
            "parent": record.parent or (state["parent"] if known else None),
        })
        return True

    def _find_experiment(self, name: str, artifacts: Path | None) -> str:
        found = self._client.get_experiment_by_name(name)
        place = artifacts.resolve().as_uri() if artifacts else None
        identity = found.experiment_id if found else self._client.create_experiment(name, place)
        created = self._client.get_experiment(identity).creation_time
        stamp = {"experiment": identity, "created": created}
        if self._load("_server") != stamp:  # another database at the same address makes the cache worthless
            for file in self._state.glob("*.json"):
                file.unlink()
            self._save("_server", stamp)
        return identity

    def _open(self, record: Record, state: Mapping[str, Any]) -> tuple[Run, bool]:
        """The server's run, made if need be, and whether the cache is right about its steps."""
        if run := self._live_run(state.get("run_id")):
            return run, "facts" in state
        if run := self._find(record.key):
            return run, False
        tags = {**record.default_tags, **record.tags, "run_key": record.key}
        self._client.create_run(self._experiment, record.started, tags, record.name)
        return self._find(record.key), False

    def _live_run(self, run_id: str | None) -> Run | None:
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return run if run.info.lifecycle_stage == "active" else None

    def _find(self, key: str) -> Run | None:
        """The run of a key. Two machines that share no lock may both have made one: both keep the first by id, and delete
        the others. A machine whose run was deleted finds the remaining run when it next brings something.
        """
        found = self._client.search_runs([self._experiment], f"tags.run_key = '{key}'")
        found.sort(key=lambda run: run.info.run_id)
        for run in found[1:]:
            self._client.delete_run(run.info.run_id)
        return found[0] if found else None

    def _facts(self, run: Run, record: Record) -> tuple[list[RunTag], list[Param]]:
        """Tags that differ, and the parent and parameters if they are missing. A run keeps its first parent."""
        from mlflow.entities import Param, RunTag

        there = run.data.tags
        wanted = {**record.default_tags, **there, **record.tags}
        tags = [RunTag(name, value) for name, value in wanted.items() if there.get(name) != value]
        if record.parent and "mlflow.parentRunId" not in there and (parent := self._run_id(record.parent)):
            tags.append(RunTag("mlflow.parentRunId", parent))
        params = [
            Param(name, str(value)[:_PARAM_LENGTH])
            for name, value in flat(record.params).items()
            if name not in run.data.params
        ]
        return tags, params

    def _run_id(self, key: str) -> str | None:
        """The id of a run that has children; the server is asked once."""
        if key not in self._run_ids and (run := self._find(key)):
            self._run_ids[key] = run.info.run_id
        return self._run_ids.get(key)

    def _new_steps(self, run: Run, steps: Sequence[Step], sent: int | None) -> tuple[list[Metric], int]:
        """The steps after ``sent`` (None: asks the server which it has), and the last step that the server then has.

        A training that resumes from a checkpoint repeats steps that were sent before: they are the same.
        """
        from mlflow.entities import Metric

        there = self._steps_there(run) if sent is None else {}
        metrics = [
            Metric(name, value, step.milliseconds, step.number)
            for step in steps
            if sent is None or step.number > sent
            for name, value in step.metrics.items()
            if math.isfinite(value) and step.number not in there.get(name, ())
        ]
        known = [-1 if sent is None else sent, *(max(numbers) for numbers in there.values() if numbers)]
        return metrics, max([*known, *(step.number for step in steps)])

    def _summary(self, run: Run, record: Record) -> list[Metric]:
        """Summary metrics at step 0, which MLflow's pages draw as bars; of several values they show the newest.

        Their times follow from what the server has, not from the present time: two machines then bring the same values at once,
        and the server keeps one.
        """
        from mlflow.entities import Metric

        metrics, there = [], run.data.metrics
        for name, value in record.summary.items():
            if there.get(name) != value:
                history = self._client.get_metric_history(run.info.run_id, name) if name in there else []
                newest = max(history, key=lambda metric: metric.timestamp, default=None)
                if newest is None or newest.value != value:
                    metrics.append(Metric(name, value, newest.timestamp + 1 if newest else run.info.start_time, 0))
        return metrics

    def _bring_files(self, run: Run, files: Mapping[str, list[Any]], sent: Mapping[str, list[Any]]) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        # The client is not used here: it would ask the server for the place again and again.
        there = get_artifact_repository(run.info.artifact_uri, tracking_uri=self._client.tracking_uri)
        for path, version in files.items():
            if sent.get(path) != version:  # copying a file again replaces it
                there.log_artifact(path, version[0] or None)

    def _bring_status(self, run: Run, record: Record) -> None:
        """Sets the run's status. A killed run that goes on is RUNNING again. No run ends before its start, even if the clock
        was set back."""
        if record.ended is not None:
            self._client.set_terminated(run.info.run_id, record.status, max(record.ended, run.info.start_time))
        elif run.info.status != record.status:
            self._client.update_run(run.info.run_id, record.status)

    def _steps_there(self, run: Run) -> dict[str, set[int]]:
        histories = {name: self._client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        return {name: {metric.step for metric in history} for name, history in histories.items()}

    def _load(self, key: str) -> dict[str, Any]:
        try:
            return json.loads((self._state / f"{key}.json").read_text())
        except (OSError, ValueError):
            return {}

    def _save(self, key: str, state: Mapping[str, Any]) -> None:
        write_file(self._state / f"{key}.json", json.dumps(state).encode(), durable=False)  # if lost, ask the server


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return result


def _client(uri: str) -> MlflowClient:
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for noisy in ("alembic", "mlflow"):  # they print a line for each migration of a new database
        logging.getLogger(noisy).setLevel(logging.WARNING)
    kind, _, file = uri.partition(":///")
    if kind == "sqlite" and not Path(file).exists():
        # Making its tables takes seconds, and MLflow refuses a database that was left halfway.
        with replacing_file(Path(file)) as new:
            MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments(max_results=1)
    return MlflowClient(tracking_uri=uri)
