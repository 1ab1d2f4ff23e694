"""Reads a file of published weights and converts it into a start for training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from effvis.errors import UserError
from pipeline import methods
from pipeline.datasets.fetch import download, verify
from pipeline.system.cli import progress_bar
from pipeline.weights import checkpoint
from pipeline.weights.published import find_published

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion
    from pipeline.settings.params import Params


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
        verify(args.downloaded, sha256=published.sha256)
        return args.downloaded
    file = params.data_dir / "published" / published.file
    with progress_bar(f"{published.file} (MiB)") as update:
        new = download(published.url, file, sha256=published.sha256,
                    progress=lambda done, total: update(done >> 20, (total or done) >> 20))
    print(f"{published.file}: {'downloaded' if new else 'already there'}, {file}", file=sys.stderr)
    return file


def convert_file(published: Mapping[str, Any], args: argparse.Namespace, params: Params, file: Path) -> Conversion:
    """Converts published weights to those of the network that the parameters describe."""
    torch.manual_seed(0)
    others = [f"{' and '.join(method.reads)} need --method {method.name}"
              for method in methods.everyone() if method.reads and method.name != args.method]
    hint = "".join(f"; {other}" for other in others)
    settings = params.of_method(args.method)
    return methods.get(args.method).convert(published, settings, args.classes, args.clip_length, file, hint)


def read(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file or of a checkpoint saved by PyTorch, by name.

    From a checkpoint it reads the part that holds the weights: ``state_dict`` (mmdetection), ``model`` (detectron2, DETR),
    or the whole. What is not plain data is left out, and named on stderr.

    Raises:
        UserError: the file is missing, is of another kind, or holds what no checkpoint needs.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except OSError as error:
            raise UserError(path, "(file)", f"cannot be read: {error.strerror or error}", checkpoint.REMEDY) from None
        except SafetensorError as error:
            raise UserError(path, "(file)", f"is not a safetensors file: {error}", checkpoint.REMEDY) from None
    content, left_out = checkpoint.load(path)
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
    return tensors
