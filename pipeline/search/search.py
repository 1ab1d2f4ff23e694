"""The record of a search: results/search/<name>/search.json, written anew at every event.

It holds the proposed trials and the value of each at its rungs; everything else follows from the run store. A search whose
process was killed goes on from this file, and trials.csv, best.yaml and the page are made from it alone.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import ConfigDict

from effvis.config import Config
from effvis.errors import UserError
from pipeline.identity.digests import key
from pipeline.search.space import Base, SpaceFile
from pipeline.system.files import write_atomically
from pipeline.system.models import read_model

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

Value = bool | int | float | str | None
State = Literal["running", "stopped", "done", "diverged", "failed"]
ENDED: tuple[State, ...] = ("stopped", "done", "diverged")  # trials that failed for another reason are tried again


class Report(Config):
    """The value of a trial at a rung.

    Attributes:
        halvings: the rung is after 1/2**halvings of the trial's training.
        value: the metric's value, a fraction; the mean over seeds.
        seconds: seconds of the search until then, without the time between its attempts.
    """

    halvings: int
    value: float
    seconds: float


class Trial(Config):
    """Proposed parameters and their results.

    Attributes:
        runs, evaluations: keys, one per seed; the evaluations are those of the final weights.
        state: the trial's state; it stays ``running`` if the search was interrupted.
    """

    model_config = ConfigDict(frozen=False)

    number: int
    parameters: dict[str, Value]
    runs: list[str]
    evaluations: list[str]
    state: State = "running"
    message: str = ""
    reports: list[Report] = []

    @property
    def value(self) -> float | None:
        """The value at the last rung that the trial reached."""
        return self.reports[-1].value if self.reports else None

    def at(self, halvings: int) -> float | None:
        return next((report.value for report in self.reports if report.halvings == halvings), None)

    def label(self) -> str:
        return f"trial {self.number} ({', '.join(f'{name} {text(value)}' for name, value in self.parameters.items())})"


class Search(Config):
    """A search and its trials.

    Attributes:
        key: key of everything that decides a trial's value: the space, the row, the data, the code, the number of seeds.
        seconds: how long it has run so far, all attempts together.
    """

    model_config = ConfigDict(frozen=False)

    name: str
    key: str
    space: SpaceFile
    base: str
    seeds: int
    dataset: str
    profile: str
    seconds: float = 0.0
    trials: list[Trial] = []

    @property
    def metric(self) -> str:
        return self.space.metric

    @property
    def halvings(self) -> tuple[int, ...]:
        """The halvings after which a trial is evaluated; the end of its training comes last."""
        return tuple(range(self.space.rungs, -1, -1))

    def add(self, parameters: Mapping[str, Any], specs: Sequence[EvalSpec]) -> Trial:
        trial = new_trial(len(self.trials), parameters, specs)
        self.trials.append(trial)
        return trial

    def report(self, trial: Trial, halvings: int, value: float) -> None:
        """Adds a trial's report. A trial that was interrupted repeats earlier reports; they change nothing."""
        if trial.at(halvings) is None:
            trial.reports.append(Report(halvings=halvings, value=value, seconds=round(self.seconds, 1)))

    def best(self) -> Trial | None:
        """The trial with the highest value among those that were trained to their end; the first of equal ones."""
        done = [trial for trial in self.trials if trial.state == "done"]
        return max(done, key=lambda trial: trial.value, default=None)

    def ended(self) -> int:
        return sum(trial.state in ENDED for trial in self.trials)


def new_trial(number: int, parameters: Mapping[str, Any], specs: Sequence[EvalSpec]) -> Trial:
    """A trial without results.

    Args:
        specs: its evaluations, one per seed.
    """
    return Trial(number=number, parameters=parameters, runs=[spec.train.key for spec in specs],
                 evaluations=[spec.key for spec in specs])


def folder_of(params: Params, name: str) -> Path:
    return params.results_dir / "search" / name


def work_folder(params: Params, name: str) -> Path:
    """The folder for logs, a lock and the files that Ray Tune writes while it runs."""
    return params.runs_dir / ".tune" / name


def log_of(params: Params, name: str, trial: Trial) -> Path:
    return work_folder(params, name) / f"trial-{trial.number}.txt"


def new_search(params: Params, name: str, space: SpaceFile, base: Base, seeds: int) -> Search:
    """A search without trials. The same inputs give the same key."""
    evaluations = [spec.key for spec in base.trial(params, {}, seeds)]
    return Search(name=name, key=key({"space": space.model_dump(mode="json"), "evaluations": evaluations}), space=space,
                  base=base.name, seeds=seeds, dataset=params.dataset_name, profile=params.profile)


def open_search(params: Params, new: Search) -> Search:
    """The search of this name as it was left, or the new one if there is none.

    Raises:
        UserError: the file there is another search's, or it cannot be read.
    """
    file = folder_of(params, new.name) / "search.json"
    if not file.is_file():
        return new
    found = read_search(file)
    if found.key != new.key:
        raise UserError(file, "key", "is of a search with another space, row, number of seeds, data set or code",
                        f"Give this one another --name, or move {file.parent} away")
    return found


def read_search(file: Path) -> Search:
    """Reads ``search.json``.

    Raises:
        UserError: the file is not in the form that ``write_search`` writes.
    """
    return read_model(Search, file, "Restore it from git or move its folder away; what was trained is not trained again")


def all_searches(params: Params) -> Iterator[Search]:
    """All searches in the results that can be read."""
    for file in sorted((params.results_dir / "search").glob("*/search.json")):
        try:
            yield read_search(file)
        except UserError:  # resuming this search reports the error
            continue


def write_search(params: Params, search: Search) -> None:
    folder = folder_of(params, search.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "search.json", (json.dumps(search.model_dump(mode="json"), indent=1) + "\n").encode())


def trials_csv(search: Search) -> str:
    """A line per trial: its parameters, its value in percent at each rung, and its runs."""
    names = list(search.space.space)
    values = [f"{search.metric} {after(halvings)}" for halvings in search.halvings]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["trial", "state", *names, *values, "runs", "message"])
    for trial in search.trials:
        reached = [trial.at(halvings) for halvings in search.halvings]
        writer.writerow([trial.number, trial.state, *(text(trial.parameters[name]) for name in names),
                         *("" if value is None else round(100 * value, 2) for value in reached),
                         " ".join(trial.runs), trial.message])
    return content.getvalue()


def best_row(search: Search, base: Base) -> str:
    """The best trial as an entry of ``rows`` in an experiments/<table>.yaml.

    Raises:
        LookupError: no trial was trained to its end.
    """
    best = search.best()
    if best is None:
        raise LookupError(search.name)
    given = base.set.get("params", {})
    row = {"name": f"{search.name}, best of {len(search.trials)}", "columns": dict(base.columns),
           "set": {**base.set, "params": {**given, **best.parameters}}}
    seeds = f"{search.seeds} seed{'s' * (search.seeds > 1)}"
    head = (f"# Trial {best.number} of the search {search.name} on {search.dataset}: {search.metric} "
            f"{100 * best.value:.1f} % over {seeds}; base: {search.base}.\n"
            f"# To be put below rows: of an experiments/<table>.yaml. Runs: {', '.join(best.runs)}\n")
    return head + yaml.safe_dump([row], sort_keys=False, allow_unicode=True)


def after(halvings: int) -> str:
    """The rung in words."""
    return f"after 1/{2**halvings}" if halvings else "at the end"


def text(value: Any) -> str:
    """A parameter's value as text, for people."""
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, bool | None) else str(value)
