"""MLflow as a view of the run store: brings what is new in runs/ into a tracking server, each step exactly once.

A training is one MLflow run below that of the first table that shows it, an evaluation a child of its training.
Nothing waits for a server: trainings append to history.jsonl, and this catches up, during the runs or later.
MLFLOW_TRACKING_URI names the server (default: the file mlflow.db of the project).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline.cli import parser
from pipeline.keys import key
from pipeline.mirror import Mirror, Record, Step, flat

if TYPE_CHECKING:
    from pipeline.config import Params

EXPERIMENT = "effvis"
_EVERY_SECONDS = 5.0
_LAST_SYNC_SECONDS = 60.0
_CATCH_UP = "python -m pipeline.track --sync"


class Tracker:
    """``with Tracker(params): …`` syncs every few seconds in a thread, and once more at the end, for a bounded time.

    A server that is slow, down or wrong is mentioned once; what it lacks then comes with a later sync.
    """

    def __init__(self, params: Params, *, every: float = _EVERY_SECONDS, last: float = _LAST_SYNC_SECONDS):
        self._params, self._every, self._last = params, every, last
        self._stop = threading.Event()
        self._deadline = float("inf")
        self._mentioned = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def __enter__(self) -> Tracker:
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._deadline = time.monotonic() + self._last
        self._stop.set()
        self._thread.join(self._last)
        if not self._complete:
            print(f"MLflow lacks the latest results; bring them with: {_CATCH_UP}", file=sys.stderr)

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            self._try_sync()
        self._complete = self._try_sync()

    def _try_sync(self) -> bool:
        try:
            sync(self._params, stop=lambda: time.monotonic() > self._deadline)
        except Exception as error:  # whatever a tracking server does, the runs go on
            if not self._mentioned:
                print(f"MLflow cannot be used now, the runs go on: {_first_line(error)}", file=sys.stderr)
                self._mentioned = True
            return False
        return time.monotonic() <= self._deadline


def sync(params: Params, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Brings every training, step, evaluation and table that the server lacks; returns how many had news.

    Interrupted at any point it may simply be called again. ``stop`` is asked before each record.

    Raises:
        Exception: whatever MLflow raises when the server cannot be used.
    """
    from filelock import FileLock

    uri = tracking_uri(params)
    state = Path(params.runs_dir) / ".mlflow" / hashlib.sha256(uri.encode()).hexdigest()[:12]
    state.mkdir(parents=True, exist_ok=True)
    with FileLock(state / "lock"):  # two grids at once would both create a run that neither finds yet
        mirror = Mirror(uri, EXPERIMENT, state)
        news = 0
        for record in records(params):
            if stop():
                break
            news += mirror.bring(record)
        return news


def tracking_uri(params: Params) -> str:
    """``MLFLOW_TRACKING_URI``, or the file mlflow.db in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(params.root).resolve() / 'mlflow.db'}"


def records(params: Params) -> Iterator[Record]:
    """What the store holds, as MLflow runs; each after its parent."""
    cells = _cells(params)
    folders = [file.parent for file in sorted(Path(params.runs_dir).glob("*/config.yaml"))]
    shown = {table for folder in folders for table, _ in cells[folder.name]}
    for table in params.tables:
        if table in shown:
            yield _table_record(params, table)
    for folder in folders:
        yield _training_record(params, folder, cells[folder.name])
        for metrics in sorted(folder.glob("eval/*/metrics.json")):
            yield _evaluation_record(params, folder, metrics, cells[metrics.parent.name])


def _cells(params: Params) -> Mapping[str, list[tuple[str, str]]]:
    """Of each training's and evaluation's key, the (table, row) pairs that show it, in the order of the tables.

    Empty where the dataset is not indexed any more: what was run with it is still shown.
    """
    from pipeline.config import load_grid

    cells: dict[str, dict[tuple[str, str], None]] = defaultdict(dict)
    try:
        rows = [row for table in params.tables for row in load_grid(params, table)]
    except UserError:
        rows = []
    for row in rows:
        for spec in (*row.evaluations, *row.curve):
            training = spec.train
            cells[spec.key][row.table, row.name] = None
            while training is not None:
                cells[training.key][row.table, row.name] = None
                training = training.parent
    return defaultdict(list, {name: list(pairs) for name, pairs in cells.items()})


def _table_record(params: Params, table: str) -> Record:
    results = Path(params.results_dir)
    files = tuple(file for suffix in (".json", ".md", ".csv") if (file := results / f"{table}{suffix}").is_file())
    return Record(
        key=_table_key(params, table),
        name=table,
        tags={"kind": "grid", "table": table, "dataset": params.dataset_name, "profile": params.profile},
        started=_milliseconds(Path(params.runs_dir)),
        ended=max(map(_milliseconds, files)) if files else None,
        artifacts=files,
    )


def _table_key(params: Params, table: str) -> str:
    return key({"table": table, "dataset": params.dataset_name, "profile": params.profile})


def _training_record(params: Params, folder: Path, cells: list[tuple[str, str]]) -> Record:
    config = _config(folder)
    history, done = folder / "history.jsonl", folder / "done.json"
    facts = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    ended = _milliseconds(done) if facts else None
    return Record(
        key=folder.name,
        name=_name(cells, config),
        tags=_tags(params, config["kind"], config, cells) | _source_tags(facts),
        started=_milliseconds(folder / "config.yaml"),
        ended=ended,
        parent=_table_key(params, cells[0][0]) if cells else None,
        params=config,
        steps=lambda: tuple(_steps(history)),
        version=str(history.stat().st_size if history.is_file() else 0),
        artifacts=(folder / "config.yaml", folder / "weights.safetensors", done) if ended else (),
    )


def _evaluation_record(params: Params, folder: Path, file: Path, cells: list[tuple[str, str]]) -> Record:
    config = _config(folder)
    report = json.loads(file.read_text(encoding="utf-8"))
    when = _milliseconds(file)
    numbers = report["metrics"] | {name: report[name] for name in ("seconds", "frames_per_second") if name in report}
    return Record(
        key=file.parent.name,
        name=f"{_name(cells, config)}, evaluation",
        tags=_tags(params, "evaluate", config, cells),
        started=when,
        ended=when,
        parent=folder.name,
        params={"inference": report["inference"], "train_key": folder.name},
        steps=lambda: (Step(0, when, numbers),),
        version=str(when),
        artifacts=(file, file.with_name("per_category.csv")),
    )


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.yaml"
    return _read_yaml(file, file.stat().st_mtime_ns)


@cache
def _read_yaml(file: Path, changed: int) -> dict[str, Any]:
    """Once per version of a file: reading YAML takes far longer than looking at its time."""
    import yaml

    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _name(cells: list[tuple[str, str]], config: Mapping[str, Any]) -> str:
    """Of all cells that show a run the first gives its name."""
    label = ": ".join(cells[0]) if cells else config["dataset"]
    if config["kind"] == "pretrain":
        label = f"pretraining {'with' if config['train'].get('correspondence') else 'without'} CL"
    return f"{label}, seed {config['seed']}"


def _tags(params: Params, kind: str, config: Mapping[str, Any], cells: list[tuple[str, str]]) -> dict[str, str]:
    return {
        "kind": kind,
        "table": ", ".join(dict.fromkeys(table for table, _ in cells)),
        "row": ", ".join(dict.fromkeys(row for _, row in cells)),
        "seed": str(config["seed"]),
        "dataset": config["dataset"],
        "profile": params.profile,
    }


def _source_tags(done: Mapping[str, Any]) -> dict[str, str]:
    """The commit that a finished training ran in, under the tag where MLflow's pages look for it."""
    commit = done.get("git", {}).get("commit")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _steps(history: Path) -> Iterator[Step]:
    """The whole lines of a history; the last may be just being written."""
    if not history.is_file():
        return
    for line in history.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            return
        row = json.loads(line)
        number, seconds = row.pop("step"), row.pop("time")
        metrics = {name: float(value) for name, value in flat(row).items() if isinstance(value, int | float)}
        yield Step(number, round(1000 * seconds), metrics)


def _milliseconds(file: Path) -> int:
    return file.stat().st_mtime_ns // 10**6


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.track")
    arguments.add_argument("--sync", action="store_true", required=True, help="bring what the server lacks, and end")
    options = arguments.parse_args(argv)
    from pipeline.config import load_params

    params = load_params(options.params, options.set)
    uri = tracking_uri(params)
    try:
        news = sync(params)
    except Exception as error:
        problem = f"cannot be used: {_first_line(error)}"
        raise UserError("MLFLOW_TRACKING_URI", uri, problem, "Start the server or correct the address") from error
    print(f"{news} runs had news for {uri}")
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
