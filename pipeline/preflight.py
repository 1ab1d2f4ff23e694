"""Looks at everything that tables need before a week of GPUs is spent on them, and prints one page.

It looks at the data sets and their ground truth, the weights that rows start from, GPUs, processors and memory, a measured
training step where the device for it is there, steps and hours, disk space, the tracking server, and what each table will be
able to report. Nothing is written. What is missing has its remedy below it, and the exit code is then 2, otherwise 0.
"""

from __future__ import annotations

from effvis.errors import UserError
from pipeline import methods
from pipeline.checks.finding import looked_at, of_error, page
from pipeline.system import cli
from pipeline.system.arguments import natural_int


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__, "pipeline.preflight")
    arguments.add_argument("--grid", metavar="TABLES", help="as for pipeline.ablate (default: the tables of the parameters)")
    arguments.add_argument("--methods", metavar="NAMES", help="look at only the rows of these methods (default: as in the "
                           f"parameters; there are {', '.join(methods.names())}, and {methods.ALL})")
    arguments.add_argument("--steps", type=natural_int, default=3, metavar="N",
                           help="training steps to measure, after one to warm up; 0: none (default: 3)")
    cli.add_split_argument(arguments)
    options = arguments.parse_args(argv)
    from pipeline.checks import data, machine, training
    from pipeline.grid.rows import datasets_of, datasets_of_row, known_tables
    from pipeline.planning.grids import expand_grid
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    names = expand_grid(known_tables(params), options.grid) if options.grid is not None else [*params.tables]
    wanted = methods.named(options.methods or params.methods)
    sets = {one.dataset_folder: one for one in (*datasets_of_row(params, params.headline), *datasets_of(params, names))}
    rows = training.rows_of(params, names, wanted)

    found = data.data(sets.values())
    found += looked_at("start", lambda: training.start_weights(params, rows))
    found += looked_at("device", lambda: machine.devices(params))
    specs, unplanned = training.trainings_of(params, rows)
    measured = {}
    try:
        elsewhere = machine.gpus_elsewhere(params)
        found += elsewhere
        measured = training.measured_steps(params, specs.values(), options.steps) if options.steps and not elsewhere else {}
    except UserError as error:
        if not any(one.topic == "device" and one.missing for one in found):
            found.append(of_error("step", error))
    found += looked_at("step", lambda: training.step(params, measured))
    found += looked_at("time", lambda: training.time_and_steps(params, specs, unplanned, measured))
    found += looked_at("disk", lambda: machine.disk(params, training.disk_needed(params, specs.values())))
    found += looked_at("tracking", lambda: machine.tracking(params))
    found += data.tables(params, names, wanted)

    print(f"Profile {params.profile}, data set {params.dataset_name}, {', '.join(names) or 'no table'}, methods "
          f"{', '.join(wanted)}, {params.seeds} seeds\n")
    print(page(found))
    missing = sum(one.missing for one in found)
    print(f"\n{missing} things are missing" if missing else "\nNothing is missing")
    return cli.EXIT_USER_ERROR if missing else 0


if __name__ == "__main__":
    cli.run(main)
