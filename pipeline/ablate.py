"""Fills tables: runs everything that their rows still miss as one pool, then writes results/<table>.{json,md,csv}.

Rows share trainings, and what the run store or results/cells has is not run again. A run that fails is reported with its
log and does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params, Row, Table
    from pipeline.plan import Plan
    from pipeline.schedule import Status


def run_missing(params: Params, plan: Plan) -> list[Status]:
    """Runs what a plan misses, shown on stderr; returns how each job ended. Nothing missing: no Ray, no wait."""
    from pipeline import cells
    from pipeline.board import Board
    from pipeline.plan import jobs
    from pipeline.schedule import run_pool

    todo = jobs(params, plan)
    if not todo:
        return []
    evaluations = {spec.key: spec for spec in plan.evaluations}
    resources = params.resources
    with Board() as board:
        return run_pool(
            todo,
            slots=resources.slots,
            threads=resources.threads,
            progress_folder=params.runs_dir / ".progress",
            on_change=board.update,
            on_done=lambda job: job.key in evaluations and cells.write(params, evaluations[job.key]),
        )


def write_tables(params: Params, tables: Iterable[Table]) -> None:
    """Writes the tables from what is there now, and the cells that they are made of."""
    from pipeline import cells
    from pipeline.tables import summary, write_table

    for table in tables:
        for row in table.rows:
            for spec in row.evaluations:
                cells.write(params, spec)
        write_table(params.results_dir, summary(params, table))


def choose_rows(tables: Sequence[Table], names: Sequence[str]) -> list[Row]:
    """The rows of these names, in any of the tables; no name: all rows.

    Raises:
        UserError: a name that no row has.
    """
    rows = [row for table in tables for row in table.rows]
    known = [row.name for row in rows]
    for name in names:
        if name not in known:
            raise UserError("--rows", name, "there is no such row", f"The rows are {', '.join(map(repr, known))}")
    return [row for row in rows if not names or row.name in names]


def show_plan(rows: Iterable[Row], plan: Plan) -> None:
    """What --dry-run prints: each row, each unique run, and the sums."""
    for row in rows:
        missing = sum(spec.key in plan.missing for spec in row.evaluations)
        state = row.not_run or f"{len(row.evaluations) - missing} of {len(row.evaluations)} evaluations done"
        print(f"{row.table}: {row.name}: {state}")
    print()
    for spec in (*plan.trainings, *plan.evaluations):
        kind = getattr(spec, "kind", "evaluate")
        print(f"{spec.key}  {kind:8}  {'missing' if spec.key in plan.missing else 'done':7}  {plan.labels[spec.key]}")
    print()
    for what, specs in (("trainings", plan.trainings), ("evaluations", plan.evaluations)):
        missing = sum(spec.key in plan.missing for spec in specs)
        print(f"{len(specs)} unique {what}: {len(specs) - missing} done, {missing} missing")


def report_end(ended: Iterable[Status], own: Container[str]) -> int:
    """Says on stderr what failed and where its log is; returns the exit code: 1 if it concerns one of the ``own`` keys."""
    code = 0
    for status in ended:
        if status.state in ("failed", "skipped"):
            log = f"\n  log: {status.job.log}" if status.state == "failed" else ""
            print(f"{status.state}: {status.job.label}: {status.message}{log}", file=sys.stderr)
            code = max(code, int(status.job.key in own))
    return code


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    arguments = parser(__doc__, "pipeline.ablate")
    arguments.add_argument("--grid", required=True, metavar="TABLES", help="table1e, or several: table1d,table1e,table1h")
    arguments.add_argument("--ahead", action="store_true", help="run what the other tables of params.yaml miss in the same "
                           "pool, too; their files are not written, their failures not counted")
    arguments.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="run only these rows, e.g. 'w/ CL'")
    arguments.add_argument("--seeds", type=int, metavar="N", help="average over N seeds instead of the parameters' number")
    arguments.add_argument("--dry-run", action="store_true", help="show rows, unique runs and what is done; run nothing")
    arguments.add_argument("--from-scratch", action="store_true", help="train what rows start from, shipped or not")
    options = arguments.parse_args(argv)

    from pipeline.config import load_params, load_table
    from pipeline.plan import plan_rows
    from pipeline.track import Tracker

    overrides = [*options.set]
    overrides += [] if options.seeds is None else [f"seeds={options.seeds}"]
    overrides += ["pretrain.source=scratch"] if options.from_scratch else []
    params = load_params(options.params, overrides)
    names = list(dict.fromkeys(name.strip() for name in options.grid.split(",")))
    tables = [load_table(params, name) for name in names]
    rows = choose_rows(tables, options.rows)
    ahead = [load_table(params, name) for name in params.tables if options.ahead and name not in names]
    plan = plan_rows(params, [*rows, *(row for table in ahead for row in table.rows)])
    if options.dry_run:
        show_plan(rows, plan)
        return 0
    with Tracker(params) if plan.missing else contextlib.nullcontext():
        ended = run_missing(params, plan)
        write_tables(params, tables)
    for table in names:
        print(params.results_dir / f"{table}.md")
    return report_end(ended, plan_rows(params, rows).labels)


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
