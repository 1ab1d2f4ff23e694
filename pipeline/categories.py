"""Maps the categories of one data set to those of another by their names, and renumbers results by it.

    python -m pipeline.categories youtube-vis-2019 youtube-vis-2021 --same sedan=car
    python -m pipeline.categories OLD.json NEW.json --results RESULTS.json --out NEW_RESULTS.json

FROM and TO are data sets as in params.yaml, or JSON files that have categories. YouTube-VIS 2019 and 2021 have 40 categories
each, not all the same ones, and in other orders. Names are compared without case, spaces, hyphens and underscores. Results of
a category that TO has not are left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError

if TYPE_CHECKING:
    from effvis.data.dataset import Category
    from pipeline.settings import Params


def mapping(source: Iterable[Category], target: Iterable[Category], same: Mapping[str, str]) -> dict[int, int]:
    """Ids of ``target`` by those of ``source``, for the categories that both have.

    Args:
        same: names of ``source``, each with the name of ``target`` that stands for the same thing.

    Raises:
        UserError: a name of ``same`` is not there, or two categories would become one.
    """
    source, target = tuple(source), tuple(target)
    ids = {_plain(category.name): category.id for category in target}
    renamed = {_plain(old): _plain(new) for old, new in same.items()}
    for names, known in ((renamed, {_plain(category.name) for category in source}), (renamed.values(), ids)):
        for name in names:
            if name not in known:
                raise UserError("--same", name, "is no category of this data set", f"There are {', '.join(sorted(known))}")
    found: dict[int, int] = {}
    for category in source:
        number = ids.get(renamed.get(_plain(category.name), _plain(category.name)))
        if number in found.values():
            raise UserError("--same", category.name, "another category is mapped to the same one", "Leave one of them out")
        if number is not None:
            found[category.id] = number
    return found


def renumber(
    results: Iterable[Any], numbers: Mapping[int, int], source: Iterable[Category], file: Path
) -> list[dict[str, Any]]:
    """Results with the categories' new ids, without those of categories that have none.

    Raises:
        UserError: a result is of no category of ``source``.
    """
    known = {category.id for category in source}
    renumbered = []
    for i, result in enumerate(results):
        number = result.get("category_id") if isinstance(result, dict) else None
        if type(number) is not int or number not in known:
            raise UserError(file, f"[{i}].category_id", f"{number!r} is no category of FROM",
                            "Give the data set that the results are of as FROM")
        if number in numbers:
            renumbered.append({**result, "category_id": numbers[number]})
    return renumbered


def read_categories(params: Params, given: str) -> tuple[Category, ...]:
    """The categories of a JSON file, or of the training split of a data set.

    Raises:
        UserError: there are none, or something is wrong with them.
    """
    from effvis.data.dataset import Category
    from effvis.data.parsing import annotation_file

    folder = params.model_copy(update={"dataset": given}).dataset_folder / "train"
    file = Path(given) if given.endswith(".json") else annotation_file(folder)
    if file is None:
        raise UserError(folder, given, "there are no annotations of train", "Take the data set in, or give a JSON file")
    content = _read_json(file)
    listed = content.get("categories") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not listed:
        raise UserError(file, "categories", "there is no list of categories", "Give annotations in the YouTube-VIS format")
    categories: dict[str, Category] = {}
    for i, entry in enumerate(listed):
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if type(number) is not int or not isinstance(name, str):
            raise UserError(file, f"categories[{i}]", "has no id and name", "Write {\"id\": 1, \"name\": \"person\"}")
        if _plain(name) in categories or number in {category.id for category in categories.values()}:
            raise UserError(file, f"categories[{i}]", f"{name} ({number}) is listed twice",
                            "Give each category its own id and name")
        categories[_plain(name)] = Category(number, name)
    return tuple(categories.values())


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", "Correct the path") from None
    except (ValueError, RecursionError) as error:
        raise UserError(file, "(top)", f"unreadable JSON ({error})", "Write the file anew") from None


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise UserError("command line", f"--same {text}", "is no pair of names", "Write --same sedan=car")
    return old, new


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    arguments = parser(__doc__, "pipeline.categories")
    arguments.add_argument("source", metavar="FROM")
    arguments.add_argument("target", metavar="TO")
    arguments.add_argument("--same", action="append", default=[], metavar="OLD=NEW",
                           help="two names of the same thing, e.g. sedan=car (may be repeated)")
    arguments.add_argument("--results", type=Path, metavar="RESULTS.json", help="results with the categories of FROM")
    arguments.add_argument("--out", type=Path, metavar="FILE", help="where they go with those of TO")
    args = arguments.parse_args(argv)
    if (args.results is None) != (args.out is None):
        raise UserError("command line", "--results", "goes with --out", "Give both, or none")
    if args.out is not None and not args.out.resolve().parent.is_dir():
        raise UserError(args.out, "--out", "is in no folder", "Give a file in a folder that exists")

    from pipeline.config import load_params
    from pipeline.store import write_atomically

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
        results = _read_json(args.results)
        if not isinstance(results, list):
            raise UserError(args.results, "(top)", "is no list of results", "Give results in the YouTube-VIS format")
        renumbered = renumber(results, numbers, source, args.results)
        write_atomically(args.out, json.dumps(renumbered, separators=(",", ":")).encode())
        print(f"{args.out}: {len(renumbered)} of {len(results)} results", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
