"""Checks the data set and writes its index: frames, instances, clips and clip pairs as Parquet, with one digest per split.

The first problem with the data set ends the command, which names its file and key and leaves an earlier index as it was.
--check writes nothing and lists all problems, including those that indexing tolerates: boxes that do not match their masks,
which it computes anew. The exit code is 2 if there is any problem.

Files that have not changed since they were last indexed are not read again; --anew reads everything.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.system import cli

if TYPE_CHECKING:
    from effvis.data.problems import Problems
    from effvis.errors import UserError


def _print_problems(found: dict[str, Problems], as_json: bool) -> int:
    """Prints all problems, a line each or as JSON, and returns how many there are."""
    problems = [(split, severity, error) for split, of_split in found.items()
                for severity, errors in (("error", of_split.errors), ("warning", of_split.warnings)) for error in errors]
    if as_json:
        print(json.dumps({"problems": [
            {"split": split, "severity": severity, "file": error.where, "key": error.key, "problem": error.problem,
             "remedy": error.remedy} for split, severity, error in problems]}, indent=1))
    else:
        for _, severity, error in problems:
            print(cli.line(severity, error))
    return len(problems)


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__, "pipeline.index")
    parser.add_argument("--check", action="store_true", help="list all problems and write nothing")
    parser.add_argument("--json", action="store_true", help="with --check: print them as JSON")
    parser.add_argument("--anew", action="store_true", help="also read what has not changed since it was last indexed")
    parser.add_argument("--statistics", type=Path, metavar="FILE.html",
                        help="also write a page about the data set: lengths, instances, where correspondence is learned")
    args = parser.parse_args(argv)
    if args.json and not args.check:
        parser.error("--json goes with --check")
    if args.check and (args.anew or args.statistics):
        parser.error("--check reads everything and writes nothing: leave out --anew and --statistics")
    from pipeline.datasets import holdout
    from pipeline.indexing.build import build, check
    from pipeline.indexing.read import read_facts
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    warnings: list[UserError] = []
    with cli.progress_bar("checking frames") as progress:
        if args.check:
            found = check(params, progress)
        else:
            done = build(params, progress, anew=args.anew, warn=warnings.append)
    if args.check:
        count = _print_problems(found, args.json)
        print(f"{params.dataset_folder}: {count or 'no'} problem{'s' * (count != 1)}", file=sys.stderr)
        return cli.EXIT_USER_ERROR if count else 0
    cli.tell_warnings(warnings)
    splits = read_facts(params)["splits"]
    for split, entry in splits.items():
        print(f"{split}: {len(entry['videos'])} videos, {entry['frames']} frames, {entry['instances']} instances, "
              f"digest {entry['digest'][:12]}{'' if done else ', unchanged'}", file=sys.stderr)
    for remark in holdout.remarks(params, splits["val"]["instances"]):
        print(remark, file=sys.stderr)
    if args.statistics:
        from pipeline.reporting.dataset_page import write_page

        write_page(params, args.statistics)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
