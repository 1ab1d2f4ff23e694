"""A published model by its name: fetched once, converted once, and used from the cache folder from then on.

::

    <cache_dir>/published/<file>             as it was published
                models/<name>/<key>/         the model's folder; the key changes with the file, the network and the conversion
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from effvis.errors import UserError
from pipeline import methods
from pipeline.identity.digests import code_digest, key
from pipeline.settings.loading import load_params
from pipeline.weights.convert import read
from pipeline.weights.converted import convert_to_model
from pipeline.weights.fetched import fetched
from pipeline.weights.published import REGISTRY, model_names

if TYPE_CHECKING:
    from pipeline.methods.base import Published
    from pipeline.settings.params import Params

# Its networks and their input sizes are the published ones.
PROFILE = "paper"


def settings_of(name: str, options: argparse.Namespace) -> Params:
    """The parameters for a published model: network, input size and inference as published, but for what ``-S`` sets.

    Raises:
        UserError: the file of this name is a start alone, or the parameters are wrong.
    """
    published = REGISTRY[name]
    if published.model is None:
        raise UserError("--model", name, f"is no whole model but a start for trainings ({published.what})",
                        f"Published models are {', '.join(model_names())}. For a start: python -m pipeline.import_weights "
                        f"--published {name} --out start.safetensors")
    method = methods.get(published.model)
    backbone = f"{method.prefix}model.backbone={published.backbone}"
    return load_params(options.params, [*method.as_published, *options.set, f"profile={PROFILE}", backbone])


def model_folder(name: str, params: Params) -> Path:
    """The folder of a published model, which is made unless it is there.

    One process makes it, and others wait. What a process that was killed left behind is removed, as are conversions by other
    versions of this project.

    Args:
        params: those of ``settings_of``.

    Raises:
        UserError: the file cannot be fetched or converted, or the cache folder cannot be written.
    """
    published = REGISTRY[name]
    folder = params.cache_folder / "models" / name / _key(published, params)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent.with_name(f".{name}.lock")):
            if not folder.is_dir():
                file = fetched(published, params)
                for other in folder.parent.iterdir():
                    shutil.rmtree(other, ignore_errors=True)
                _convert(file, folder, published.model, params)
    except OSError as error:
        raise UserError(error.filename or folder, "cache_dir", f"cannot be written: {error.strerror or error}",
                        "Make room, or choose another folder with -S cache_dir=FOLDER") from None
    return folder


def _key(published: Published, params: Params) -> str:
    """Of the file, the network and the code that converts the one into the other."""
    method = published.model
    convert = methods.get(method).convert
    code = code_digest((f"{convert.__module__}:{convert.__name__}", f"effvis.{method}.convert", "effvis.model.convert"))
    return key({"file": published.file, "model": params.of_method(method).model.model_dump(mode="json"), "code": code})


def _convert(file: Path, folder: Path, method: str, params: Params) -> None:
    print(f"{file.name}: becomes a model, {folder}", file=sys.stderr)
    args = argparse.Namespace(method=method, categories=None, clip_length=None)  # as pipeline.import_weights has them
    convert_to_model(read(file), folder, args, params, file)
