"""What each correction of the method is worth: one point at a time is undone, and the row is trained and scored again.

    python -m benchmarks.undone --all --out undone.json
    python -m benchmarks.undone --point 1 --point 6 --out undone.json
    python -m benchmarks.undone --all --out undone.json --split test

Points 1 to 5 and 8 are undone by a patch of effvis, one file of benchmarks/undone for each, which says what the code did
before; the row is trained with the patch and without, from the same start with the same seed, and its AP is compared. Points 6
and 7 need no training: they read from the weights that were trained without a patch.

The weights are kept in a folder beside --out, of the same name without .json. A call goes on where an earlier one with the same
settings ended, after the last training or score that was finished; with another --split, nothing is trained again. (The files
of patches are no settings: if one is changed, remove its point from --out.)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from benchmarks.undone import point6, point7
from benchmarks.undone.points import PATCHES, READ, WHAT
from benchmarks.undone.row import METRICS, RowToTrain, Split, loaded, predicted, row_to_train, scored, split_of, trained
from effvis.errors import UserError
from pipeline.grid import linking
from pipeline.settings.loading import load_params
from pipeline.system.cli import run
from pipeline.system.files import write_atomically

ROW = "table1d:T=9 Fully e2e (ours)"
UNPATCHED = "unpatched"


class Results:
    """The file of --out: settings, and for each training and each point what is done of it.

    Raises:
        UserError: the file is of other settings, or is none of ours.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]):
        if file.suffix != ".json":
            raise UserError("--out", str(file), "does not end in .json", "Name a file, e.g. undone.json")
        self.file, self.folder = file, file.with_suffix("")
        try:
            self.content = json.loads(file.read_text()) if file.is_file() else {"settings": dict(settings), "points": {}}
            before = self.content["settings"]
        except (ValueError, KeyError, TypeError):
            raise UserError(file, "(file)", "is not what this benchmark writes", "Give another --out, or remove it") from None
        if before != settings:
            name = next(name for name in settings if before.get(name) != settings[name])
            raise UserError(file, f"settings.{name}", f"is {before.get(name)!r}, and would be {settings[name]!r} now",
                            "Give another --out, or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)

    def of(self, point: str) -> dict[str, Any]:
        return self.content["points"].setdefault(point, {})

    def write(self) -> None:
        write_atomically(self.file, json.dumps(self.content, indent=1).encode())

    def weights(self, point: str) -> Path:
        return self.folder / f"{point}.safetensors"


def train_and_score(
    row: RowToTrain, split: Split, results: Results, point: str, patch: Callable[[], AbstractContextManager[None]],
    args: argparse.Namespace,
) -> None:
    """Trains and scores the row with a point undone, unless that is done."""
    done = results.of(point)
    with patch():
        if "training" not in done:
            title = point if point == UNPATCHED else f"point {point}"
            model, told = trained(row, steps=args.steps, every=args.every, title=title)
            write_atomically(results.weights(point), save({n: v.contiguous() for n, v in model.state_dict().items()}))
            done["training"] = told
            results.write()

        def scores() -> list[dict[str, Any]]:
            return [scored(split, predicted(row, loaded(row, load_file(results.weights(point))), split))]

        score(results, done, split, {}, scores)


def read(row: RowToTrain, split: Split, results: Results, number: int) -> None:
    """Scores what a point without a training compares, unless that is done."""

    def given() -> tuple:
        model = loaded(row, load_file(results.weights(UNPATCHED)))
        return model, split.index, row.spec.inference, row.spec.train.input_size

    done = results.of(str(number))
    if number == 7:
        score(results, done, split, {}, lambda: frames(split, *given()))
        return
    chosen = linking.chosen(row.params, row.spec.train.method, row.settings.T)
    if chosen is None:
        raise UserError(linking.file_of(row.params), "choices", f"none was made for T={row.settings.T}",
                        "Run python -m pipeline.linking with --row and a row of hand-crafted linking")
    score(results, done, split, {"linking": chosen.model_dump()}, lambda: linkings(split, *given(), chosen))


def linkings(split: Split, *given: Any) -> list[dict[str, Any]]:
    """Point 6's scores, each with the AP that it is compared with."""
    found = [{"what": what, **scored(split, predictions)} for what, predictions in point6.linked(*given).items()]
    return [found[0], *({**scores, "against": found[0]["AP"]} for scores in found[1:])]


def frames(split: Split, *given: Any) -> list[dict[str, Any]]:
    """Point 7's scores, each with the AP that it is compared with."""
    slow, others = point7.predicted(*given)
    scores = scored(split, slow)
    return [{"what": what, **scores, "against": scored(split, other)["AP"]} for what, other in others.items()]


def score(
    results: Results, done: dict[str, Any], split: Split, facts: Mapping[str, Any],
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    """Keeps the scores that ``lines`` computes, unless those of these videos and ``facts`` are there."""
    facts = {"videos": split.index.digest, **facts}
    scores = done.setdefault("scores", {})
    if split.name in scores and scores[split.name]["of"] == facts:
        return
    began = time.monotonic()
    found = lines()
    scores[split.name] = {"of": facts, "seconds": round(time.monotonic() - began, 1), "lines": found}
    results.write()


def table(points: Mapping[str, Any], split: str) -> str:
    """What is scored on a split, as markdown; AP in percent, seconds of training and scoring."""
    lines = [f"| point | undone | {' | '.join(METRICS)} | difference | seconds |",
             "| --- | --- | --: | --: | --: | --: | --: |"]
    unpatched = points[UNPATCHED]["scores"][split]["lines"][0]["AP"]
    for point in (UNPATCHED, *map(str, WHAT)):
        done = points.get(point, {})
        if split not in done.get("scores", {}):
            continue
        seconds = done.get("training", {}).get("seconds", 0) + done["scores"][split]["seconds"]
        for place, scores in enumerate(done["scores"][split]["lines"]):
            against = scores.get("against", None if point == UNPATCHED or "what" in scores else unpatched)
            name, what = ("–", "nothing") if point == UNPATCHED else (point, scores.get("what", WHAT[int(point)]))
            numbers = [f"{scores[metric]:.1f}" for metric in METRICS]
            difference = "–" if against is None else f"{scores['AP'] - against:+.1f}"
            lines.append(f"| {' | '.join([name, what, *numbers, difference, f'{seconds:.0f}' if place == 0 else ''])} |")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.undone", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--point", type=int, action="append", choices=WHAT, metavar="N",
                       help=f"a point, {min(WHAT)} to {max(WHAT)}; may be given again")
    which.add_argument("--all", action="store_true", help="all points")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="where the numbers go")
    parser.add_argument("--row", default=ROW, metavar="TABLE:NAME", help=f"(default: {ROW})")
    parser.add_argument("--split", default="val", help="the videos to score (default: val)")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings (default: 0)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), metavar="FILE", help="(default: params.yaml)")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter; may be given again")
    parser.add_argument("--steps", type=int, default=0, help="stop each training after so many steps, to try things")
    parser.add_argument("--every", type=int, default=50, help="steps from one line to the next (default: 50)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    row = row_to_train(load_params(args.params, args.set), args.row, args.seed)
    split = split_of(row.params, args.split)
    results = Results(args.out, {"row": args.row, "seed": args.seed, "steps": args.steps, "run": row.spec.train.key,
                                 "evaluation": row.spec.key})
    train_and_score(row, split, results, UNPATCHED, nullcontext, args)
    for number in WHAT if args.all else sorted(set(args.point)):
        if number in READ:
            read(row, split, results, number)
        else:
            train_and_score(row, split, results, str(number), PATCHES[number], args)
    print(table(results.content["points"], split.name))
    return 0


if __name__ == "__main__":
    run(main)
