"""Fills tables: runs everything that their rows still need as one pool, then writes results/<table>.{json,md,csv,tex}
and results/claims.{json,md}.

Rows share trainings, and nothing that is in the run store or in results/cells is run again. A run that fails is reported
with its log and does not stop the others; the exit code is then 1.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import methods
from pipeline.system.arguments import positive_int
from pipeline.system.cli import add_split_argument, parser

if TYPE_CHECKING:
    from pipeline.settings.params import Params


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.ablate")
    arguments.add_argument("--grid", required=True, metavar="TABLES", help="e.g. table1e, or several: table1d,table1e; table1 "
                           "means 1a to 1h, all means every table")
    arguments.add_argument("--ahead", action="store_true", help="also run what the other tables of params.yaml need, in the "
                           "same pool; their files are not written and their failures are not counted")
    arguments.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="run only these rows, e.g. 'w/ CL' or "
                           "'table1e:w/ CL'")
    arguments.add_argument("--methods", metavar="NAMES", default=methods.ALL, help="run only rows of these methods "
                           f"({','.join(methods.names())}; default: {methods.ALL})")
    arguments.add_argument("--seeds", type=positive_int, metavar="N",
                           help="average over N seeds (default: as in the parameters)")
    arguments.add_argument("--profile", metavar="NAME", help="the same as -S profile=NAME")
    add_split_argument(arguments)
    arguments.add_argument("--dry-run", action="store_true", help="show the rows, the unique trainings, what is done and how "
                           "long the rest will take; run nothing")
    arguments.add_argument("--verbose", action="store_true", help="with --dry-run: also list each evaluation")
    arguments.add_argument("--from-scratch", action="store_true", help="train the weights that rows start from, shipped or not")
    options = arguments.parse_args(argv)

    from pipeline.grid import choices, linking
    from pipeline.grid.rows import known_tables, load_table
    from pipeline.mlflow_view.sync import Tracker
    from pipeline.planning.grids import choose_rows, expand_grid, of_methods, report_end, run_missing, show_plan
    from pipeline.planning.plan import plan_rows
    from pipeline.planning.prepare import prepare
    from pipeline.runs.storage import keeping, pull_runs
    from pipeline.settings.loading import load_params
    from pipeline.tables.claims import write_ledger
    from pipeline.tables.claims_file import load_ledger
    from pipeline.tables.write import write_tables

    overrides = [*options.set]
    overrides += [] if options.seeds is None else [f"seeds={options.seeds}"]
    overrides += [] if options.profile is None else [f"profile={options.profile}"]
    overrides += [f"{method.prefix}pretrain.source=scratch" for method in methods.everyone()] if options.from_scratch else []
    params = load_params(options.params, overrides)
    names = expand_grid(known_tables(params), options.grid)
    prepare(params, [*names, *(params.tables if options.ahead else ())])
    wanted = methods.named(options.methods)
    if options.dry_run:
        params = _without_starts(params, overrides, options.params, wanted)
    tables = [load_table(params, name) for name in names]
    rows = of_methods(choose_rows(tables, options.rows), wanted)
    ahead = [load_table(params, name) for name in params.tables if options.ahead and name not in names]
    everything = [*rows, *of_methods((row for table in ahead for row in table.rows), wanted)]
    chosen, warnings = choices.explain(params, everything)
    for warning in (*warnings, *linking.warnings(params, everything)):
        print(f"warning: {warning}", file=sys.stderr)
    plan = plan_rows(params, everything)
    if options.dry_run:
        show_plan(params, rows, plan, verbose=options.verbose)
        print("".join(f"{line}\n" for line in chosen), end="")
        return 0
    ledger = load_ledger(params)  # a mistake in it is reported before hours of training, not after
    if pull_runs(params, plan.unfinished_runs):
        plan = plan_rows(params, everything)
    with keeping(params), Tracker(params) if plan.missing else contextlib.nullcontext():
        ended = run_missing(params, plan)
        write_tables(params, tables)
        written = [*(params.results_dir / f"{table}.md" for table in names), write_ledger(params, ledger)]
    for file in written:
        print(file)
    return report_end(ended, plan_rows(params, rows).labels)


def _without_starts(params: Params, overrides: Sequence[str], file: str, wanted: Sequence[str]) -> Params:
    """The parameters with rows that may start from nothing: what would be refused for it is a warning on stderr."""
    from pipeline.grid.starts import refusals
    from pipeline.settings.loading import load_params

    refused = refusals(params)
    for name, error in refused.items():
        if name in wanted:
            print(f"warning: {error}", file=sys.stderr)
    return load_params(file, [*overrides, *(f"{methods.get(name).prefix}pretrain.required=false" for name in refused)])


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
