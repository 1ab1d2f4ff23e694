"""Searches hyperparameters: trials are rows with other parameters, which are trained side by side in the run store and stopped
early if they are worse than others.

The same command again resumes an interrupted search, and with a larger --trials it adds trials. At the end it writes
trials.csv, best.yaml (a row for a table) and index.html to results/search/<name>/.

With --choose, every family of rows (a method at one clip length on one data set) has the same small search on val: learning
rates and presence thresholds around the profile's, and for hand-crafted linking its weights and matching threshold. All of it
is written to experiments/choices/<profile>.yaml, and the rows of these tables use the best from then on (docs/search.md).
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from effvis.errors import UserError
from pipeline import methods
from pipeline.scheduling.board import Board
from pipeline.system.arguments import positive_int
from pipeline.system.cli import parser
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.search.families import ChoiceSpace, FamilySearch
    from pipeline.search.search import Search
    from pipeline.search.space import Base, SpaceFile
    from pipeline.settings.params import Params


def rows_of(params: Params, space: SpaceFile, base: Base, search: Search, trials: int) -> list[Row]:
    """The existing trials, and those that will be proposed as far as they are known, as rows of a table."""
    from pipeline.grid.table_file import Row
    from pipeline.search.search import new_trial
    from pipeline.search.space import draw

    parameters = [trial.parameters for trial in search.trials]
    if space.search != "optuna":
        parameters += [draw(space, number, 0) for number in range(len(parameters), trials)]
    rows = []
    for number, values in enumerate(parameters):
        label = new_trial(number, values, []).label()
        rows.append(Row(f"search.{search.name}", label, {}, {}, {}, None, base.trial(params, values, search.seeds)))
    return rows


def show_plan(params: Params, space: SpaceFile, base: Base, search: Search, trials: int) -> None:
    """Prints the output of --dry-run."""
    from pipeline.planning.estimate import durations
    from pipeline.planning.grids import estimate_text
    from pipeline.planning.plan import plan_rows

    states = {trial.number: trial.state for trial in search.trials}
    stopping = f"stopped at {space.rungs} rungs, one of {space.reduction} goes on" if space.stops else "none is stopped early"
    print(f"search {search.name}: {trials} trials of {base.name}, {search.seeds} seed{'s' * (search.seeds > 1)} each; "
          f"{space.search} ({stopping})")
    rows = rows_of(params, space, base, search, trials)
    plan = plan_rows(params, rows)
    for number, row in enumerate(rows):
        known = all(spec.key not in plan.missing for spec in row.evaluations)
        state = states.get(number, "found done" if known else "to be run")
        print(f"{row.name}: {state}  {' '.join(spec.train.key for spec in row.evaluations)}")
    if trials > len(rows):
        print(f"{trials - len(rows)} more, proposed as results come in")
    if plan.missing:
        print(estimate_text(params, plan, durations(params, plan)) + ", if every trial above were trained to its end")


def write_results(params: Params, search: Search, base: Base) -> list[Path]:
    """Writes the results of a search; returns the files."""
    from pipeline.reporting.search_page import page
    from pipeline.search.search import best_row, folder_of, trials_csv

    folder = folder_of(params, search.name)
    contents = {"trials.csv": trials_csv(search), "index.html": page(search, base)}
    if search.best() is not None:
        contents["best.yaml"] = best_row(search, base)
    for name, content in contents.items():
        write_atomically(folder / name, content.encode())
    return [folder / name for name in contents]


@contextlib.contextmanager
def alone(params: Params, name: str) -> Iterator[None]:
    """Ensures that only one process works on a search, because only one may write its search.json.

    Raises:
        UserError: another process works on it.
    """
    from pipeline.search.search import work_folder

    folder = work_folder(params, name)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(folder, "lock", "another process works on this search", "Wait for it, or give --name") from None
    try:
        yield
    finally:
        lock.release()


def run_search(params: Params, space: SpaceFile, base: Base, search: Search, trials: int) -> list[Path]:
    """Brings the search to this number of trials, with progress on stderr, and writes its results; returns their files.

    If nothing is missing, it starts no Ray and does not wait.
    """
    from pipeline.search.search import ENDED

    if len(search.trials) >= trials and all(trial.state in ENDED for trial in search.trials):
        return write_results(params, search, base)
    from pipeline.mlflow_view.sync import Tracker
    from pipeline.runs.storage import keeping
    from pipeline.search.trials import TrialPlan, run_trials

    with keeping(params), Tracker(params):
        with Board() as board:
            run_trials(TrialPlan(params, base, space, search.seeds, search.name), search, trials=trials, on_change=board.update)
        return write_results(params, search, base)


def tell_failed(params: Params, search: Search, wanted: int) -> int:
    """Prints on stderr what failed; returns the exit code."""
    from pipeline.search.search import log_of

    for trial in search.trials:
        if trial.state in ("failed", "diverged"):
            log = log_of(params, search.name, trial)
            print(f"{trial.state}: {trial.label()}: {trial.message}\n  log: {log}", file=sys.stderr)
    if len(search.trials) < wanted:
        print(f"The space holds no more than {len(search.trials)} trials", file=sys.stderr)
    if search.best() is None:
        print("No trial was trained to its end", file=sys.stderr)
    return int(search.best() is None or any(trial.state == "failed" for trial in search.trials))


def tell_end(params: Params, search: Search, files: list[Path], wanted: int) -> int:
    """Prints the best row and the files of a search and, on stderr, what failed; returns the exit code."""
    from pipeline.search.search import folder_of

    code = tell_failed(params, search, wanted)
    if search.best() is not None:
        print((folder_of(params, search.name) / "best.yaml").read_text(encoding="utf-8"))
    for file in files:
        print(file)
    return code


def choose(options: argparse.Namespace, command: str) -> int:
    """Makes the choices for the families of some tables, or shows what that takes; returns the exit code."""
    from pipeline.grid import choices
    from pipeline.grid.rows import known_tables
    from pipeline.planning.grids import expand_grid
    from pipeline.planning.prepare import prepare
    from pipeline.search.families import FamilySearch, families, load_choice_space

    params = _loaded(options)
    tables = expand_grid(known_tables(params), options.choose)
    space = load_choice_space(options.space or params.root / "experiments" / "search" / "choices.yaml")
    prepare(params, tables)
    found = families(params, tables, methods.named(options.methods or methods.ALL))
    for family in found:
        choices.check_free(family.of_rows(params), family.method)
    searches = [FamilySearch.of(params, family, space) for family in found]
    if options.dry_run:
        _show_choices(params, searches, space)
        return 0
    with alone(params, "choices"):
        # Every family has its turn, also after one that failed.
        return max([_choose(params, one, space, command) for one in searches], default=0)


def _choose(params: Params, one: FamilySearch, space: ChoiceSpace, command: str) -> int:
    """Runs the search of a family and writes what it chose; then chooses its hand-crafted linking. Returns the exit code."""
    from pipeline.grid.choice_file import keep
    from pipeline.planning.prepare import prepare_row
    from pipeline.search import handcraft
    from pipeline.search.families import choice_of

    with alone(params, one.search.name):
        run_search(params, one.space, one.base, one.search, len(one.space.listed))
    if tell_failed(params, one.search, len(one.space.listed)):
        return 1
    choice = choice_of(params, one.family, space, one.search, command)
    print(keep(params, choice))
    of_row = one.family.of_rows(params)
    if one.family.linked_by_hand and not of_row.gives("inference.handcraft"):
        free = handcraft.choosing(of_row)
        best = {**one.base.settings.params, **choice.chosen}
        row = one.base.settings.model_copy(update={"linking": "hand-craft", "params": best})
        prepare_row(free, row.model_copy(update={"dataset": None}), 0)
        spec = handcraft.spec_of(free, row)
        if not handcraft.is_chosen(params, one.family.T, spec):
            print(keep(params, handcraft.choose(of_row, free, one.family.T, spec, command)))
    return 0


def _show_choices(params: Params, searches: list[FamilySearch], space: ChoiceSpace) -> None:
    """Prints the output of --choose --dry-run."""
    from pipeline.planning.estimate import durations
    from pipeline.planning.grids import estimate_text
    from pipeline.planning.plan import plan_rows

    rows = {one.family.name: rows_of(params, one.space, one.base, one.search, len(one.space.listed)) for one in searches}
    plan = plan_rows(params, [row for of_family in rows.values() for row in of_family])
    for one in searches:
        runs = dict.fromkeys(row.evaluations[0].train.key for row in rows[one.family.name])
        missing = sum(row.evaluations[0].key in plan.missing for row in rows[one.family.name])
        then = "; then its linking by hand" if one.family.linked_by_hand else ""
        print(f"{one.family.name}: {len(one.space.listed)} candidates, {missing} missing; {len(runs)} trainings of "
              f"{space.share:g} of the epochs: {' '.join(runs)}{then}")
        print(f"  for {', '.join(one.family.rows)}")
    if plan.missing:
        print(estimate_text(params, plan, durations(params, plan)) + ", without the linking by hand")


def _loaded(options: argparse.Namespace) -> Params:
    """
    Raises:
        UserError: something in the parameters is wrong, or runs have several workers.
    """
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    if params.resources.workers_per_run > 1:
        raise UserError(options.params, "resources.workers_per_run", "trials of a search have one worker each",
                        "Set it to 1 (-S resources.workers_per_run=1), and resources.slots to the trials side by side")
    return params


def _refuse_mixtures(options: argparse.Namespace) -> None:
    """
    Raises:
        UserError: options of one search stand beside --choose, or --methods without it, or there is nothing to search.
    """
    if options.choose is None:
        wrong = [] if options.methods is None else ["--methods"]
        if options.space is None:
            raise UserError("command line", "--space", "is missing", "Name a space, or tables with --choose")
    else:
        wrong = [f"--{name}" for name in ("trials", "seeds", "row", "name") if getattr(options, name) is not None]
    for name in wrong:
        raise UserError("command line", name, f"goes {'only' if options.choose is None else 'not'} with --choose",
                        "Remove it (docs/search.md)")


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.tune")
    arguments.add_argument("--space", type=Path, metavar="FILE", help="the space to search, e.g. experiments/search/lr.yaml; "
                           "with --choose, its candidates (default: experiments/search/choices.yaml)")
    arguments.add_argument("--trials", type=positive_int, metavar="N", help="trials in all, with existing ones (default: 12)")
    arguments.add_argument("--seeds", type=positive_int, metavar="N", help="judge a trial by its mean over N seeds "
                           "(default: 1)")
    arguments.add_argument("--row", metavar="TABLE:NAME", help="the row that trials differ from, instead of the file's")
    arguments.add_argument("--name", metavar="NAME", help="name of the search and its folder (default: the file's)")
    arguments.add_argument("--choose", metavar="TABLES", help="choose for the families of these tables: table1, "
                           "table1d,table1e or all")
    arguments.add_argument("--methods", metavar="NAMES", help=f"with --choose: only families of these methods "
                           f"({','.join(methods.names())}; default: {methods.ALL})")
    arguments.add_argument("--dry-run", action="store_true", help="show the trials and how long they will take; run nothing")
    options = arguments.parse_args(argv)
    _refuse_mixtures(options)
    if options.choose is not None:
        return choose(options, shlex.join(["python", "-m", "pipeline.tune", *(sys.argv[1:] if argv is None else argv)]))
    name = options.name or options.space.stem
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise UserError("command line", f"--name {name}", "is no name of a folder", "Use letters, digits, - and _ alone")

    from pipeline.planning.prepare import prepare
    from pipeline.search.search import new_search, open_search
    from pipeline.search.space import check_space, find_base, load_space

    params, trials = _loaded(options), options.trials or 12
    space = load_space(options.space, row=options.row)
    base = find_base(params, options.space, space)
    prepare(params.model_copy(update={"seeds": max(params.seeds, options.seeds or 1)}),
            [space.row.partition(":")[0]] if space.row else [])
    check_space(params, options.space, space, base)
    new = new_search(params, name, space, base, options.seeds or 1)
    if options.dry_run:
        show_plan(params, space, base, open_search(params, new), trials)
        return 0
    with alone(params, name):
        search = open_search(params, new)
        return tell_end(params, search, run_search(params, space, base, search, trials), trials)


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
