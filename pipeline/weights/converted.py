"""Converted weights as the folder of a model, for ``effvis.load`` and ``pipeline.evaluate --model``."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from effvis.data.dataset import Category
from effvis.data.sizes import written
from effvis.errors import UserError
from effvis.model_file import WEIGHTS, describe, write
from pipeline import methods
from pipeline.datasets.categories import read_categories
from pipeline.grid import starts
from pipeline.indexing.read import load_index
from pipeline.system.files import file_sha256
from pipeline.weights.convert import Weights, convert_file, other_methods

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion
    from pipeline.settings.params import Params


def labels_of(published: Weights, args: argparse.Namespace, params: Params, file: Path) -> tuple[Category, ...]:
    """The classes of a file's model, in the order of its class layers' rows.

    They are named as the file says. If it does not, they are those of ``--categories`` or of the parameters' data set.

    Raises:
        UserError: ``--categories`` is given for a file whose classes are known, or nothing names them.
    """
    method = methods.get(args.method)
    names = published.classes if method.class_names is None else method.class_names(
        published.tensors, published.classes, where=file, hint=other_methods(args.method))
    if not names:
        return load_index(params, "val").categories if args.categories is None else read_categories(params, args.categories)
    if args.categories is not None:
        raise UserError("--categories", args.categories, f"names classes, but a model has those of its file, {_few(names)}",
                        "Leave it out, or give an --out that ends in .safetensors, for a start")
    return tuple(Category(number, name) for number, name in enumerate(names, 1))


def convert_to_model(
    published: Weights, folder: Path, args: argparse.Namespace, params: Params, file: Path
) -> Conversion:
    """Converts a file's weights to the model that the parameters describe, with the file's classes, and writes its folder.

    Raises:
        UserError: for the reasons of ``labels_of``, ``convert_file`` and ``write_model``.
    """
    labels = labels_of(published, args, params, file)
    conversion = convert_file(published, tuple(label.name for label in labels), args, params, file)
    write_model(folder, conversion, labels, params, file)
    return conversion


def write_model(folder: Path, conversion: Conversion, labels: Sequence[Category], params: Params, file: Path) -> None:
    """Writes a model's folder whole or not at all; input size and inference are those of the parameters.

    Args:
        file: the published file.

    Raises:
        UserError: the file has no class layer for these classes, so that every score would be random.
    """
    left = sorted(fate.name for fate in conversion.fates if fate.outcome == "left at init")
    missing = [name for name in left if "class_logits" in name]
    if missing:
        names = _few([label.name for label in labels])
        raise UserError(file, missing[0], f"the file has no class layer for these {len(labels)} classes: {names}; the model "
                        "would score at random", "Name the data set of the file's classes with --categories, or give an --out "
                        "that ends in .safetensors, for a start")
    method = conversion.config.method
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as place:
        weights = Path(place) / WEIGHTS
        save_file(conversion.weights, weights, metadata=starts.metadata(conversion))
        description = describe({
            "method": method, "model": conversion.config.model_dump(mode="json"),
            "input_size": written(params.input_size_of(method)),
            "inference": params.inference_of(method).model_dump(mode="json"), "labels": [asdict(label) for label in labels],
            "sha256": file_sha256(weights),
            "provenance": {"converted": conversion.source, "file": file.name, "left_at_init": left},
        }, where=folder)
        write(folder, description, weights)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
