"""Packs an evaluation's results for a competition's server, and records the server's scores with the row.

    python -m pipeline.submit --row "table1e:w/ CL" --out submission.zip
    python -m pipeline.submit --row "table1e:w/ CL" --scores scores.txt

The first command is for a validation split whose ground truth only the server has. It checks every result and writes the zip
that the server accepts. The second reads the scores that the server returned; tables and MLflow then show them, marked as the
server's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from effvis.errors import UserError
from effvis.evaluation.submission import check_submission
from effvis.files import replacing_file
from pipeline.runs.store import RunStore
from pipeline.system.cli import add_row_arguments, add_split_argument, parser

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

RESULTS = "results.json"  # at the zip's top and under this name, or the server does not find it


def pack(params: Params, spec: EvalSpec, results: Path, out: Path, *, allow_missing: bool = False) -> int:
    """Checks results of the measured split and writes them to ``out``; the same results give the same bytes.

    Returns:
        How many results there are.

    Raises:
        UserError: the results or the data set are not in order, or the zip cannot be written.
    """
    from pipeline.indexing.read import load_index

    own = params.of_dataset(spec.train.dataset_name)
    index = load_index(own, spec.split)
    count = check_submission(results, index.videos, index.categories, where=str(own.dataset_folder / spec.split),
                             allow_missing=allow_missing)
    entry = ZipInfo(RESULTS)  # with a date that is always the same
    entry.compress_type = ZIP_DEFLATED
    try:
        with replacing_file(out) as file, ZipFile(file, "w") as archive:
            archive.writestr(entry, results.read_bytes())
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(out, "--out", problem, "Give a file in a folder that is yours") from None
    return count


def stored_results(params: Params, spec: EvalSpec) -> Path:
    """The results of an evaluation in the run store.

    Raises:
        UserError: it is not there.
    """
    store = RunStore(params.runs_dir)
    folder = store.evaluation_folder(spec.train.key, spec.key)
    if store.evaluation(spec.train.key, spec.key) is None:
        raise UserError(folder, RESULTS, "this row is not evaluated here",
                        "Run python -m pipeline.evaluate with the same options")
    return folder / RESULTS


def take_back(params: Params, spec: EvalSpec, scores: Path) -> list[str]:
    """Stores the server's scores for an evaluation and rewrites the tables that show it; returns their names.

    Raises:
        UserError: the scores cannot be read, or there is no such evaluation.
    """
    from pipeline.grid.rows import load_table
    from pipeline.runs import cells
    from pipeline.tables import server_scores
    from pipeline.tables.shown_in import table_cells
    from pipeline.tables.summary import summary
    from pipeline.tables.write import write_table

    metrics = server_scores.read(scores)
    if cells.find_cell(params, spec) is None:
        raise UserError(scores, spec.key, "there is no evaluation that it could be the score of",
                        "Run python -m pipeline.evaluate with the same options")
    server_scores.keep(params, spec, metrics)
    shown = dict.fromkeys(table for table, _ in table_cells(params)[spec.key])
    written = [table for table in shown if (params.results_dir / f"{table}.json").is_file()]
    for table in written:
        write_table(params.results_dir, summary(params, load_table(params, table)))
    return written


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.submit")
    add_row_arguments(arguments)
    add_split_argument(arguments)
    task = arguments.add_mutually_exclusive_group(required=True)
    task.add_argument("--out", metavar="ZIP", type=Path, help="check the results and write them here")
    task.add_argument("--scores", metavar="TXT", type=Path, help="read the server's scores.txt, which has lines of name: value")
    arguments.add_argument("--results", metavar="JSON", type=Path, help="with --out: pack these results instead of the row's")
    arguments.add_argument("--allow-missing", action="store_true", help="with --out: allow videos without a result")
    args = arguments.parse_args(argv)
    if args.scores and (args.results or args.allow_missing):
        arguments.error("--results and --allow-missing go with --out")
    from pipeline.grid.rows import find_evaluation
    from pipeline.mlflow_view.sync import Tracker
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    spec = find_evaluation(params, args.row, args.seed)
    if args.out:
        results = args.results or stored_results(params, spec)
        count = pack(params, spec, results, args.out, allow_missing=args.allow_missing)
        print(f"{args.out}: {count} results, all in order")
        return 0
    with Tracker(params):
        tables = take_back(params, spec, args.scores)
    print(f"the server's scores are kept with evaluation {spec.key}; tables written anew: {', '.join(tables) or 'none'}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
