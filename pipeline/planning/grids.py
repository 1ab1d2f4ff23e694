"""A grid from its rows to its end: choosing, showing, running and reporting."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline.grid.given import check_weights
from pipeline.identity.specs import GivenSpec
from pipeline.planning.estimate import durations, elapsed
from pipeline.planning.jobs import jobs
from pipeline.runs import cells
from pipeline.scheduling import cluster
from pipeline.scheduling.board import Board
from pipeline.scheduling.machine import side_by_side
from pipeline.scheduling.pool import run_pool
from pipeline.scheduling.ray_session import slots_now
from pipeline.system.cli import seconds_text

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row, Table
    from pipeline.identity.specs import EvalSpec
    from pipeline.planning.estimate import Duration
    from pipeline.planning.plan import Plan
    from pipeline.scheduling.pool import Status
    from pipeline.settings.params import Params


def run_missing(params: Params, plan: Plan) -> list[Status]:
    """Runs what a plan misses, with progress on stderr; returns how each job ended. If nothing is missing, it starts no Ray.

    Raises:
        UserError: given weights that are to be evaluated are not there, or not those that their description means.
    """
    todo = jobs(params, plan)
    if not todo:
        return []
    for error in _unusable_weights(plan):
        raise error
    evaluations = {spec.key: spec for spec in plan.evaluations}
    resources = params.resources
    alone = resources.slots is not None or cluster.address() is None
    with Board() as board:
        return run_pool(
            todo,
            slots=side_by_side(resources) if alone else partial(cluster.holds, resources),
            threads=resources.threads,
            gpus=resources.gpus_per_worker,
            memory=cluster.memory(resources),
            workers=resources.workers_per_run,
            progress_folder=params.runs_dir / ".progress",
            on_change=board.update,
            on_done=lambda job: job.key in evaluations and cells.write(params, evaluations[job.key]),
        )


def expand_grid(known: Sequence[str], grid: str) -> list[str]:
    """The tables that ``--grid`` names, each once: ``all``, ``table1`` for 1a to 1h, single names, or several with commas.

    Any other name stays as it is, and ``load_table`` refuses it.
    """
    names: dict[str, None] = {}
    for word in map(str.strip, grid.split(",")):
        if word == "all":
            found = [name for name in known if name.startswith("table")]
        else:
            found = [word] if word in known else [name for name in known if name[:-1] == word and name[-1].isalpha()]
        names |= dict.fromkeys(found or [word])
    return list(names)


def choose_rows(tables: Sequence[Table], names: Sequence[str]) -> list[Row]:
    """The rows with these names, in any of the tables or, as ``table:name``, in one; without names, all rows.

    Raises:
        UserError: no row has one of the names.
    """
    rows = [row for table in tables for row in table.rows]
    known = {name for row in rows for name in (row.name, f"{row.table}:{row.name}")}
    for name in names:
        if name not in known:
            listed = ", ".join(dict.fromkeys(repr(row.name) for row in rows))
            raise UserError("--rows", name, "there is no such row", f"The rows are {listed}")
    return [row for row in rows if not names or {row.name, f"{row.table}:{row.name}"}.intersection(names)]


def of_methods(rows: Iterable[Row], wanted: Sequence[str]) -> list[Row]:
    """The rows of the wanted methods, and those that are not run."""
    return [row for row in rows if row.not_run or row.evaluations[0].train.method in wanted]


def show_plan(params: Params, rows: Iterable[Row], plan: Plan, *, verbose: bool = False) -> None:
    """Prints the output of --dry-run: each row with its evaluations, each unique training, totals, and the expected time.

    Args:
        verbose: whether to print each unique evaluation, too; a training and a row have several.
    """
    expected = durations(params, plan)
    for error in _unusable_weights(plan):
        print(f"warning: {error}", file=sys.stderr)
    for row in rows:
        print(f"{row.table}: {row.name}: {_row_state(row, plan, expected)}")
    print()
    for spec in (*plan.trainings, *(plan.evaluations if verbose else ())):
        kind, state = getattr(spec, "kind", "evaluate"), "missing" if spec.key in plan.missing else "done"
        time = seconds_text(expected[spec.key].seconds) if spec.key in expected else ""
        print(f"{spec.key}  {kind:8}  {state:7}  {time:>7}  {plan.labels[spec.key]}")
    print()
    for what, specs in (("trainings", plan.trainings), ("evaluations", plan.evaluations)):
        missing = sum(spec.key in plan.missing for spec in specs)
        print(f"{len(specs)} unique {what}: {len(specs) - missing} done, {missing} missing")
    if plan.missing:
        print(estimate_text(params, plan, expected))


def _unusable_weights(plan: Plan) -> Iterator[UserError]:
    """What is wrong with given weights of which an evaluation is missing."""
    needed = [spec.train for spec in plan.evaluations if spec.key in plan.missing and isinstance(spec.train, GivenSpec)]
    for spec in dict.fromkeys(needed):
        try:
            check_weights(spec)
        except UserError as error:
            yield error


def _row_state(row: Row, plan: Plan, expected: Mapping[str, Duration]) -> str:
    """How many of a row's evaluations are done, and the time that the others will take together, as far as it is known."""
    if row.not_run:
        return row.not_run
    state = f"{_done(row.evaluations, plan)} evaluations done"
    if row.curve:
        state += f", {_done(row.curve, plan)} of its learning curve"
    if starts := {spec.key: spec for specs in row.starts for spec in specs}:
        state += f", {_done(tuple(starts.values()), plan)} of its start"
    left = [expected[key].seconds for key in dict.fromkeys(spec.key for spec in row.to_run) if key in expected]
    return state + (f", the others take {seconds_text(sum(left))}" if left else "")


def _done(specs: Sequence[EvalSpec], plan: Plan) -> str:
    return f"{sum(spec.key not in plan.missing for spec in specs)} of {len(specs)}"


def estimate_text(params: Params, plan: Plan, expected: Mapping[str, Duration]) -> str:
    """The time until nothing is missing, and what the estimate is based on."""
    if not expected:
        return "estimated time: unknown, there are no past runs"
    slots = slots_now(params.resources, params.runs_dir)
    seconds = {key: expected[key].seconds if key in expected else 0.0 for key in plan.missing}
    counts = Counter(duration.basis for duration in expected.values())
    stands_on = [f"{counts['same']} runs as their configuration took before"] if counts["same"] else []
    stands_on += [f"{counts['similar']} as similar runs took"] if counts["similar"] else []
    unknown = len(plan.missing) - len(expected)
    stands_on += [f"{unknown} unknown and not counted"] if unknown else []
    time = seconds_text(elapsed(jobs(params, plan), seconds, slots))
    return f"estimated time: {time} with {slots} side by side ({', '.join(stands_on)})"


def report_end(ended: Iterable[Status], own: Container[str]) -> int:
    """Prints on stderr what failed and where its log is; returns the exit code: 1 if one of the ``own`` keys failed."""
    code = 0
    for status in ended:
        if status.state in ("failed", "skipped"):
            log = f"\n  log: {status.job.log}" if status.state == "failed" else ""
            print(f"{status.state}: {status.job.label}: {status.message}{log}", file=sys.stderr)
            code = max(code, int(status.job.key in own))
    return code
