"""Converts published weights to a start for training or, if --out is a folder, to a model; reports what became of each tensor.

    python -m pipeline.import_weights resnet50.pth --out start.safetensors
    python -m pipeline.import_weights queryinst_r50.pth --out start.safetensors -S model.queries=20
    python -m pipeline.import_weights --published queryinst-r50 --out start.safetensors
    python -m pipeline.import_weights queryinst_r50.pth --out models/queryinst

The command reads torchvision's ResNets for every method; Sparse R-CNN and QueryInst of mmdetection, Sparse R-CNN of detectron2,
and DETR, each for the methods whose networks are built alike (--list names them; docs/weights.md has the details). A file is a
.pth (only weights are unpickled, never code) or a .safetensors. --published first downloads one of the files of --list into
the cache folder, or takes it --from a file that you downloaded by hand, and checks it. The output holds every weight of the
network at T=1, or at the T of a file whose queries belong to frames: those for which nothing was published are drawn anew
(seed 0).

Class layers of a start are carried over by name to the categories of the data set of the parameters, where it is indexed, or to
those of --categories. With --classes alone, they are carried over if there are as many. A model has the classes of the file;
only where nothing in it says their names, they are those of --categories or of the indexed data set.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from effvis.errors import UserError
from effvis.model.categories import plain
from pipeline import methods
from pipeline.system.arguments import positive_int
from pipeline.system.cli import parser
from pipeline.system.files import check_out, write_atomically

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if args.clip_length not in (None, 1) and not methods.get(args.method).starts_have_frames:
        having = " or ".join(method.name for method in methods.everyone() if method.starts_have_frames)
        raise UserError("--clip-length", str(args.clip_length), "is no number of frames that this method's start can have",
                        f"Give 1; for --method {having}, 1 or more")
    start = args.out.suffix == ".safetensors"
    if args.out.suffix and not (start or args.out.is_dir()) or not args.out.parent.is_dir():
        raise UserError(args.out, "--out", "is neither a .safetensors file nor a folder in a folder that exists",
                        "Give a file for a start, or a new folder for a model")
    if args.classes is not None and not start:
        raise UserError("--classes", str(args.classes), "is for a start: a model has the classes of the file",
                        "Leave it out, or give an --out that ends in .safetensors")
    if args.downloaded is not None and args.published is None:
        raise UserError("--from", str(args.downloaded), "which published file this is has to be said",
                        "Add --published NAME; a file that is not in --list is given as FILE, without --from")

    from safetensors.torch import save

    from pipeline.grid import starts
    from pipeline.settings.loading import load_params
    from pipeline.weights.convert import convert_file, network_classes, published_file, read
    from pipeline.weights.converted import convert_to_model

    params = load_params(args.params, [f"profile={args.profile}", *methods.get(args.method).as_published, *args.set])
    if start:
        classes = network_classes(args, params)
    else:
        check_out(args.out)
    file = args.file if args.published is None else published_file(args, params)
    published = read(file)
    if start:
        conversion = convert_file(published, classes, args, params, file)
        write_atomically(args.out, save(conversion.weights, metadata=starts.metadata(conversion)))
    else:
        conversion = convert_to_model(published, args.out, args, params, file)
    _print(file, conversion)
    return 0


def _parser() -> argparse.ArgumentParser:
    arguments = parser(__doc__, "pipeline.import_weights")
    given = arguments.add_mutually_exclusive_group(required=True)
    given.add_argument("file", metavar="FILE", type=Path, nargs="?", help="a file of published weights")
    given.add_argument("--published", metavar="NAME", help="or the name of published weights in --list")
    arguments.add_argument("--from", dest="downloaded", metavar="FILE", type=Path,
                           help="the file of --published, if you downloaded it by hand")
    arguments.add_argument("--list", action=_List, nargs=0, help="print the published files that have a name, and exit")
    arguments.add_argument("--out", metavar="FILE.safetensors|FOLDER", type=Path, required=True,
                           help="where to write the converted weights: a file, for a start, or a new folder, for a model")
    arguments.add_argument("--method", choices=methods.names(), default=methods.DEFAULT,
                           help=f"the method whose network they are for (default: {methods.DEFAULT})")
    arguments.add_argument("--profile", default="paper", help="the profile whose model they are for (default: paper)")
    classes = arguments.add_mutually_exclusive_group()
    classes.add_argument("--categories", metavar="DATASET",
                         help="the data set to be trained on, or that of a model whose file does not name its classes, by its "
                              "name or as a JSON file that has categories (default: that of the parameters, if it is indexed)")
    classes.add_argument("--classes", type=positive_int, metavar="K",
                         help="or only how many categories it has, of a start (default: 40, if nothing is indexed)")
    arguments.add_argument("--clip-length", type=positive_int, metavar="T",
                           help="frames per clip; above 1 only for a method whose queries belong to frames (default: the "
                                "file's own, or 1)")
    return arguments


class _List(argparse.Action):
    """Prints the published files and exits, whatever the other options."""

    def __call__(self, parser, *_):
        from pipeline.weights.published import REGISTRY

        for name, file in REGISTRY.items():
            size = "" if file.mib is None else f", {file.mib} MiB"
            print(f"{name}: {file.what}{size}, SHA-256 {file.sha256}…\n"
                  f"    for {' and '.join(file.methods)}, backbone {file.backbone}\n"
                  f"    {file.url}\n"
                  f"    by {file.document}")
            if file.model is not None:
                print(f"    a whole model: --model {name} of pipeline.predict, pipeline.evaluate and pipeline.export takes it")
        parser.exit()


def _print(path: Path, conversion: Conversion) -> None:
    fates = conversion.fates
    table = Table("what", "tensors", "part (* is any number)", "why", box=box.SIMPLE_HEAD,
                  title=f"{escape(path.name)}: {escape(conversion.source)}")
    table.columns[1].justify = "right"
    groups = Counter((fate.outcome, _part(fate.name), fate.reason) for fate in fates)
    for (outcome, part, reason), count in sorted(groups.items(), key=lambda group: (_ORDER.index(group[0][0]), group[0])):
        table.add_row(outcome, str(count), escape(part), escape(reason))
    Console().print(table)
    _print_classes(conversion.by_name)
    totals = Counter(fate.outcome for fate in fates)
    print(", ".join(f"{totals[outcome]} {outcome}" for outcome in _ORDER))


def _print_classes(by_name: Mapping[str, str | None]) -> None:
    if not by_name:
        return
    taken = [name if plain(name) == plain(theirs) else f"{name} ({theirs})" for name, theirs in by_name.items() if theirs]
    left = [name for name, theirs in by_name.items() if theirs is None]
    print(f"{len(taken)} of {len(by_name)} classes carried over by name: {', '.join(taken) or 'none'}")
    print(f"{len(left)} left at init: {', '.join(left) or 'none'}")


_ORDER = ("loaded", "cut", "dropped", "left at init")


# What the report counts as one part: single layers that share one fate need no lines of their own.
_WHOLE = re.compile(r"(backbone\.\w+|body|(\w+\.)?transformer\.\w+|encoder|decoder)(?=\.)")


def _part(name: str) -> str:
    """The module that a tensor belongs to, over all stages; a backbone, an encoder or a decoder as a whole."""
    if name.endswith(".num_batches_tracked"):
        return "num_batches_tracked"
    numbered = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
    whole = _WHOLE.match(numbered)
    return whole[0] if whole else numbered.rpartition(".")[0] or numbered


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
