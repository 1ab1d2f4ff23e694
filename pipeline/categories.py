"""Maps the categories of one data set to those of another by name, and renumbers results accordingly.

    python -m pipeline.categories youtube-vis-2019 youtube-vis-2021 --same sedan=car
    python -m pipeline.categories OLD.json NEW.json --results RESULTS.json --out NEW_RESULTS.json

FROM and TO are names of data sets, as in params.yaml, or JSON files that have categories. YouTube-VIS 2019 and 2021 have 40
categories each, but not all the same ones, and in different orders. Names are compared without case, spaces, hyphens and
underscores. Results are left out if TO does not have their category.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from effvis.errors import UserError
from pipeline.system.cli import parser
from pipeline.system.files import write_atomically


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise UserError("command line", f"--same {text}", "is no pair of names", "Write --same sedan=car")
    return old, new


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.categories")
    arguments.add_argument("source", metavar="FROM")
    arguments.add_argument("target", metavar="TO")
    arguments.add_argument("--same", action="append", default=[], metavar="OLD=NEW",
                           help="two names of the same category, e.g. sedan=car (may be repeated)")
    arguments.add_argument("--results", type=Path, metavar="RESULTS.json", help="results with the categories of FROM")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="where to write the results with the categories of TO")
    args = arguments.parse_args(argv)
    if (args.results is None) != (args.out is None):
        raise UserError("command line", "--results", "goes with --out", "Give both, or none")
    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise UserError(args.out, "--out", "is in no folder", "Give a file in a folder that exists")

    from pipeline.datasets.categories import mapping, read_categories, renumber
    from pipeline.settings.loading import load_params
    from pipeline.system.models import read_json_file

    params = load_params(args.params, args.set)
    source, target = (read_categories(params, given) for given in (args.source, args.target))
    numbers = mapping(source, target, dict(map(_pair, args.same)))
    names = {category.id: category.name for category in target}
    for category in source:
        number = numbers.get(category.id)
        print(f"{category.id:4} {category.name:20} " + ("-" if number is None else f"{number:4} {names[number]}"))
    only = [category.name for category in target if category.id not in numbers.values()]
    print(f"{len(numbers)} of {len(source)} are in both; only TO has {', '.join(only) or 'none'}", file=sys.stderr)
    if args.results is not None:
        results = read_json_file(args.results, "Give results in the YouTube-VIS format")
        if not isinstance(results, list):
            raise UserError(args.results, "(top)", "is no list of results", "Give results in the YouTube-VIS format")
        renumbered = renumber(results, numbers, source, args.results)
        write_atomically(args.out, json.dumps(renumbered, separators=(",", ":")).encode())
        print(f"{args.out}: {len(renumbered)} of {len(results)} results", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
