"""The content of the run store as MLflow runs: a grid per table, below it trainings, below them evaluations.

A search is shown like a table, under the name search.<its name>, with its trials as rows.
Weights that were given are shown like a training.
A training is below the first table that shows it. Its tags ``table`` and ``row`` name that cell. For each table that shows
it, there is also a tag with the table's name, e.g. ``table1e``, and the row as its value: docs/mlflow.md describes queries
with them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.identity.digests import key
from pipeline.identity.specs import GivenSpec
from pipeline.mlflow_view.mirror import Record, Step, flat
from pipeline.runs.store import RunStore
from pipeline.search.search import all_searches, folder_of
from pipeline.tables import server_scores
from pipeline.tables.shown_in import Cells, existing_tables, is_plain

if TYPE_CHECKING:
    from pipeline.search.search import Search
    from pipeline.settings.params import Params

ReportsByFile = Mapping[Path, dict[str, Any]]  # the content of each metrics.json, by path
_NOTE = "mlflow.note.content"  # the tag that a run's page shows as its description
_NOTE_LENGTH = 8000  # longest value of a tag that MLflow accepts
_GIVEN = GivenSpec.kind
_TRAINING_NUMBERS = {"train_seconds": "seconds", "peak_memory_mib": "peak_memory_mib"}  # name here: name in done.json


def records(params: Params, cells: Cells) -> Iterator[Record]:
    """All records, each after its parent.

    Args:
        cells: the result of ``table_cells``, which takes longer than all else here and stays the same while a pool runs.
    """
    tables = existing_tables(params)
    locked = RunStore(params.runs_dir).locked()
    folders = [file.parent for file in sorted(Path(params.runs_dir).glob("*/config.yaml")) if file.is_file()]
    searches = {f"search.{search.name}": search for search in all_searches(params)}
    cells = _with_trials(cells, searches)
    grids = []
    for table in (*tables, *searches):
        own = [folder for folder in folders if any(name == table for name, _ in cells[folder.name])]
        files = _search_files(params, searches[table]) if table in searches else _table_files(params, table)
        if own and (table in params.tables or table in searches or files):
            grids.append(table)
            yield _grid(params, table, own, locked, files)
    for folder in folders:
        reports = {file: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("eval/*/metrics.json"))}
        parent = next((table for table, _ in cells[folder.name] if table in grids), None)
        yield _training(params, folder, parent, cells[folder.name], reports, working=folder.name in locked)
        for file, report in reports.items():
            yield _evaluation(params, folder, file, report, cells[file.parent.name])


def _with_trials(cells: Cells, searches: Mapping[str, Search]) -> Cells:
    """The cells, with the trials of searches after the tables' rows."""
    found = defaultdict(list, {name: list(pairs) for name, pairs in cells.items()})
    for name, search in searches.items():
        for trial in search.trials:
            for one in (*trial.runs, *trial.evaluations):
                found[one].append((name, f"trial {trial.number}"))
    return found


def _table_files(params: Params, table: str) -> tuple[Path, ...]:
    return tuple(sorted(Path(params.results_dir).glob(f"{table}.*")))


def _search_files(params: Params, search: Search) -> tuple[Path, ...]:
    """The result files of a search; none before its end."""
    files = (folder_of(params, search.name) / name for name in ("index.html", "best.yaml", "trials.csv"))
    return tuple(file for file in files if file.is_file())


def _grid(
    params: Params, table: str, trainings: list[Path], locked: Collection[str], files: tuple[Path, ...]
) -> Record:
    """The record of a grid, with the table as files and as the description on the run's page, and with the report."""
    text = Path(params.results_dir) / f"{table}.md"
    note = {_NOTE: text.read_text(encoding="utf-8")[:_NOTE_LENGTH]} if text in files else {}
    began = min(_milliseconds(folder / "config.yaml") for folder in trainings)
    working = {name.partition("-")[0] for name in locked}  # keys of trainings that are locked or have a locked evaluation
    return Record(
        key=_grid_key(params, table),
        name=table,
        tags={"kind": "grid", "table": table, "dataset": params.dataset_name, "profile": params.profile} | note,
        started=began,
        **_ending(
            working=not working.isdisjoint(folder.name for folder in trainings),
            finished=max([began, *map(_milliseconds, files)]) if files else None,
            last_seen=max(map(_milliseconds, trainings)),
        ),
        artifacts={"": files, "report": tuple(Path(params.results_dir).glob("report/index.html"))},
    )


def _grid_key(params: Params, table: str) -> str:
    return key({"table": table, "dataset": params.dataset_name, "profile": params.profile})


def _training(
    params: Params, folder: Path, table: str | None, cells: list[tuple[str, str]], reports: ReportsByFile, *, working: bool
) -> Record:
    config = _config(folder)
    history, done, log = folder / "history.jsonl", folder / "done.json", folder / "log.txt"
    facts = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {}
    given = config["kind"] == _GIVEN
    files = [folder / "config.yaml", *([folder / "weights.safetensors", done] if facts else [])]
    ending = _ending(
        working=working and not facts,
        finished=_milliseconds(done if facts else folder / "config.yaml") if facts or given else None,
        last_seen=_milliseconds(history if history.is_file() else folder / "config.yaml"),
    )
    if ending["status"] == "KILLED" and log.is_file():  # the log may say why
        files.append(log)
    return Record(
        key=folder.name,
        name=_name(cells, config),
        tags=_tags(config["kind"], folder, config) | _cell_tags(params, cells) | _source_tags(facts),
        default_tags=_unknown_cell_tags(params),
        started=_milliseconds(folder / "config.yaml"),
        **ending,
        parent=_grid_key(params, table) if table else None,
        params=config,
        steps=lambda: tuple(_steps(history)),
        version=str(history.stat().st_size if history.is_file() else 0),
        summary=_summary(facts, reports) if facts or given else {},
        artifacts={"": tuple(files)},
    )


def _summary(done: Mapping[str, Any], reports: ReportsByFile) -> dict[str, float]:
    """The costs of a finished training, and the metrics of one of its evaluations, so that AP stands beside the curves.
    Given weights cost nothing.

    Of several evaluations it takes one of the final weights, not one of a learning curve's, and one of test before those of
    val: the latest that is end-to-end on all frames, or else the latest.
    """
    numbers = {name: done[there] for name, there in _TRAINING_NUMBERS.items() if there in done}
    if reports:
        def rank(file: Path) -> tuple[int, bool, bool, int]:
            report = reports[file]
            # All reports that were stored before curves existed are those of final weights.
            return report.get("videos_seen", 0), _split(report) == "test", is_plain(report["inference"]), _milliseconds(file)

        numbers |= _numbers(reports[max(reports, key=rank)])
    return numbers


def _evaluation(
    params: Params, folder: Path, file: Path, report: Mapping[str, Any], cells: list[tuple[str, str]]
) -> Record:
    config = _config(folder)
    when = _milliseconds(file)
    server = server_scores.find_scores(params, file.parent.name) or {}
    return Record(
        key=file.parent.name,
        name=f"{_name(cells, config)}, evaluation" + (f" after {seen} videos" if (seen := report.get("videos_seen")) else ""),
        tags=_tags("evaluate", folder, config) | _cell_tags(params, cells),
        default_tags=_unknown_cell_tags(params),
        started=when,
        ended=when,
        status="FINISHED",
        parent=folder.name,
        params={"inference": report["inference"], "train_key": folder.name, "split": _split(report)},
        version=str(when),
        summary=_numbers(report) | {f"server.{name}": value for name, value in server.items() if value >= 0},
        artifacts={
            "": (file, file.with_name("per_category.csv")),
            "server": server_scores.file_of(params, file.parent.name),
            "pictures": tuple(sorted(file.parent.glob("pictures/*.png"))),
        },
    )


def _split(report: Mapping[str, Any]) -> str:
    """The split that an evaluation is of. Reports that were stored before there was a choice are of val."""
    return report.get("split", "val")


def _numbers(report: Mapping[str, Any]) -> dict[str, float]:
    """An evaluation's metrics by their names in MLflow; -1 marks an undefined metric."""
    names = {"evaluate_seconds": "seconds", "frames_per_second": "frames_per_second"}
    defined = {name: value for name, value in report["metrics"].items() if value >= 0}
    return defined | {name: report[there] for name, there in names.items() if there in report}


def _ending(*, working: bool, finished: int | None, last_seen: int) -> dict[str, Any]:
    """A record's ``status`` and ``ended``.

    An unfinished run on which no process works was interrupted. When somebody asks for it, it goes on and is RUNNING again.
    """
    if working:
        return {"status": "RUNNING", "ended": None}
    if finished is None:
        return {"status": "KILLED", "ended": last_seen}
    return {"status": "FINISHED", "ended": finished}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.yaml"
    return _read_yaml(file, file.stat().st_mtime_ns)


@cache
def _read_yaml(file: Path, changed: int) -> dict[str, Any]:
    """The content of a file, read once per version: reading YAML takes far longer than looking at a file's time."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _name(cells: list[tuple[str, str]], config: Mapping[str, Any]) -> str:
    """A run's name, from the first of the cells that show it."""
    label = ": ".join(cells[0]) if cells else config["dataset"]
    if config["kind"] == "pretrain":
        label = f"pretraining on {config['dataset']} {'with' if config['train'].get('correspondence') else 'without'} CL"
    return label if config["kind"] == _GIVEN else f"{label}, seed {config['seed']}"


def _tags(kind: str, folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    seed = {"seed": str(config["seed"])} if "seed" in config else {}
    return {"kind": kind, "train_key": folder.name, **seed, "dataset": config["dataset"]}


def _cell_tags(params: Params, cells: list[tuple[str, str]]) -> dict[str, str]:
    """Tags that say where the tables of these parameters show a run. With other parameters, another table may have shown it."""
    if not cells:
        return {}
    rows: dict[str, list[str]] = defaultdict(list)
    for table, row in cells:
        rows[table].append(row)
    first_table, first_row = cells[0]
    own = {"table": first_table, "row": first_row, "profile": params.profile}
    return own | {table: ", ".join(names) for table, names in rows.items()}


def _unknown_cell_tags(params: Params) -> dict[str, str]:
    """The tags of a run that no table ever showed."""
    return {"table": "", "row": "", "profile": params.profile}


def _source_tags(done: Mapping[str, Any]) -> dict[str, str]:
    """The commit of a finished training, under the tag in which MLflow's pages look for it."""
    commit = done.get("git", {}).get("commit")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _steps(history: Path) -> Iterator[Step]:
    """The steps in the whole lines of a history; another process may be writing the last line."""
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
