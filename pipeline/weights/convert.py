"""Reads a file of published weights and converts it into a start for training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from effvis.errors import UserError
from pipeline import methods
from pipeline.datasets.categories import read_categories
from pipeline.indexing.read import FACTS, dataset_facts
from pipeline.methods.base import Classes
from pipeline.weights import checkpoint
from pipeline.weights.fetched import check_published, fetched
from pipeline.weights.published import find_published

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion
    from pipeline.settings.params import Params

# The number of classes of YouTube-VIS 2019 and 2021, for when nothing says what the network will be trained on.
CLASSES = 40


class Weights(NamedTuple):
    """What a file of weights holds: tensors by name, and the names of its classes in order, where it has them."""

    tensors: dict[str, Any]
    classes: tuple[str, ...] = ()


def published_file(args: argparse.Namespace, params: Params) -> Path:
    """The verified file of ``--published``, which is downloaded unless it is here."""
    published = find_published(args.published)
    if args.method not in published.methods:
        raise UserError("--published", args.published, f"is no start for {args.method}",
                        f"Add --method {published.methods[0]}, or choose another one of --list")
    setting, model = f"{methods.get(args.method).prefix}model", params.of_method(args.method).model
    if published.backbone != model.backbone:
        raise UserError("--published", args.published, f"has a {published.backbone}, the model a {model.backbone}",
                        f"Add -S {setting}.backbone={published.backbone}, or choose another one of --list")
    if args.downloaded is not None:
        check_published(published, args.downloaded)
        return args.downloaded
    return fetched(published, params)


def network_classes(args: argparse.Namespace, params: Params) -> tuple[str, ...] | int:
    """The names of the classes that the network will be trained on, or only their number.

    They are those of ``--categories``, as many as ``--classes``, or those of the parameters' data set, if it is indexed.

    Raises:
        UserError: ``--categories`` names no categories, or the index is of another data set than the parameters say.
    """
    if args.categories is not None:
        return tuple(category.name for category in read_categories(params, args.categories))
    if args.classes is not None:
        return args.classes
    if (params.index_folder / FACTS).is_file():
        return dataset_facts(params).categories
    return CLASSES


def convert_file(
    published: Weights, classes: tuple[str, ...] | int, args: argparse.Namespace, params: Params, file: Path
) -> Conversion:
    """Converts published weights to those of the network that the parameters describe, with these classes or so many."""
    torch.manual_seed(0)
    settings = params.of_method(args.method)
    wanted = Classes(classes) if isinstance(classes, int) else Classes(len(classes), classes)
    wanted = replace(wanted, published=published.classes)
    hint = other_methods(args.method)
    return methods.get(args.method).convert(published.tensors, settings, wanted, args.clip_length, file, hint)


def other_methods(name: str) -> str:
    """What to say where a file's names are unknown to a method: the others read other files."""
    readers: dict[tuple[str, ...], str] = {methods.get(name).reads: name}
    for method in methods.everyone():
        readers.setdefault(method.reads, method.name)
    return "".join(f"; {' and '.join(reads)} need --method {reader}"
                   for reads, reader in readers.items() if reads and reader != name)


def read(path: Path) -> Weights:
    """The tensors of a .safetensors file or of a checkpoint saved by PyTorch, and what the latter calls its classes.

    From a checkpoint it reads the part that holds the weights: ``state_dict`` (mmdetection), ``model`` (detectron2, DETR),
    or the whole. What is not plain data is left out, and named on stderr.

    Raises:
        UserError: the file is missing, is of another kind, or holds what no checkpoint needs.
    """
    if path.suffix == ".safetensors":
        try:
            return Weights(load_file(path))
        except OSError as error:
            raise UserError(path, "(file)", f"cannot be read: {error.strerror or error}", checkpoint.REMEDY) from None
        except SafetensorError as error:
            raise UserError(path, "(file)", f"is not a safetensors file: {error}", checkpoint.REMEDY) from None
    content, left_out = checkpoint.load(path)
    classes = _class_names(content)
    for part in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
            break
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)} \
        if isinstance(content, Mapping) else {}
    if not tensors:
        others = f", but {', '.join(left_out)}" if left_out else ""
        raise UserError(path, "(file)", f"holds no tensors by name{others}", checkpoint.REMEDY)
    if left_out:
        print(f"{path}: left out, because it is no plain data: {', '.join(left_out)}", file=sys.stderr)
    return Weights(tensors, classes)


def _class_names(content: Any) -> tuple[str, ...]:
    """The names in a checkpoint of mmdetection: ``meta.CLASSES``, since its version 3 ``meta.dataset_meta.classes``."""
    meta = content.get("meta") if isinstance(content, Mapping) else None
    for place in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        for key in ("classes", "CLASSES"):
            names = place.get(key) if isinstance(place, Mapping) else None
            if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()
