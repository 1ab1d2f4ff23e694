"""Converts published weights to this network's, and says what became of each.

    python -m pipeline.import_weights resnet50.pth --out start.safetensors
    python -m pipeline.import_weights queryinst_r50.pth --out start.safetensors -S model.queries=20

Reads torchvision's ResNets, Sparse R-CNN and QueryInst of mmdetection, and Sparse R-CNN of detectron2, as .pth (only
weights are unpickled, never code) or .safetensors. The output holds every weight of the network at T=1: those that nothing
was published for are drawn anew (seed 0).
"""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError

if TYPE_CHECKING:
    from effvis.model.conversion import Fate

# YouTube-VIS's, 2019 and 2021. Class layers of another number are learned anew.
CLASSES = 40


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import parser

    arguments = parser(__doc__, "pipeline.import_weights")
    arguments.add_argument("file", metavar="FILE", type=Path, help="the published weights")
    arguments.add_argument("--out", metavar="FILE.safetensors", type=Path, required=True, help="where the converted ones go")
    arguments.add_argument("--profile", default="paper", help="whose model they are for (default: paper)")
    arguments.add_argument("--classes", type=int, default=CLASSES, metavar="K",
                           help=f"classes of the data set to be trained on (default: {CLASSES})")
    args = arguments.parse_args(argv)
    if args.classes < 1:
        raise UserError("--classes", str(args.classes), "is no number of classes", "Give 1 or more")
    if args.out.suffix != ".safetensors" or not args.out.parent.is_dir():
        raise UserError(args.out, "--out", "is not a .safetensors file in a folder that exists", "Give such a file")

    import torch
    from safetensors.torch import save

    from effvis.model.convert import convert
    from effvis.model.efficientvis import EfficientVIS
    from pipeline.config import load_params
    from pipeline.store import write_atomically

    params = load_params(args.params, [f"profile={args.profile}", *args.set])
    published = read(args.file)
    torch.manual_seed(0)
    model = EfficientVIS(params.model.resolve(args.classes, 1))
    conversion = convert(published, model, where=args.file)
    write_atomically(args.out, save(conversion.weights))
    _print(args.file, conversion.source, conversion.fates)
    return 0


def read(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file or of a checkpoint saved by PyTorch, by name.

    Of a checkpoint it takes the part that holds the weights: ``state_dict`` (mmdetection), ``model`` (detectron2), or the
    whole.

    Raises:
        UserError: the file is missing, is of another kind, or holds more than plain weights.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "Give the file as it was published, or its weights saved as .safetensors"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(path, "(file)", f"cannot be read: {error.strerror or error}", remedy) from None
    except SafetensorError as error:
        raise UserError(path, "(file)", f"is not a safetensors file: {error}", remedy) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        # PyTorch's message is a page long; its first line says what is wrong.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(path, "(file)", f"holds no plain weights: {reason}", remedy) from None
    for part in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)} \
        if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(path, "(file)", "holds no tensors by name", remedy)
    return tensors


def _print(path: Path, source: str, fates: Iterable[Fate]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("what", "tensors", "part (* is any number)", "why", box=box.SIMPLE_HEAD,
                  title=f"{escape(path.name)}: {escape(source)}")
    table.columns[1].justify = "right"
    groups = Counter((fate.outcome, _part(fate.name), fate.reason) for fate in fates)
    for (outcome, part, reason), count in sorted(groups.items(), key=lambda group: (_ORDER.index(group[0][0]), group[0])):
        table.add_row(outcome, str(count), escape(part), escape(reason))
    Console().print(table)
    totals = Counter(fate.outcome for fate in fates)
    print(", ".join(f"{totals[outcome]} {outcome}" for outcome in _ORDER))


_ORDER = ("loaded", "cut", "dropped", "left at init")


def _part(name: str) -> str:
    """The module that a tensor belongs to, over all stages; of a backbone its first two names."""
    if name.endswith(".num_batches_tracked"):
        return "num_batches_tracked"
    numbered = re.sub(r"(?<=\.)\d+(?=\.)", "*", name)
    module = numbered.rpartition(".")[0] or numbered
    return ".".join(module.split(".")[:2]) if module.startswith("backbone.") else module


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
