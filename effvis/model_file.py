"""A trained model as a folder that needs nothing but this package: ``effvis.load(folder)``.

::

    <folder>/config.yaml           network, input size, linking, labels, and where the weights come from
             weights.safetensors
"""

from __future__ import annotations

import hashlib
import shutil
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, create_model
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from effvis import methods
from effvis.config import Config, InferenceConfig, build
from effvis.data.dataset import Category
from effvis.data.sizes import InputSize, widest
from effvis.errors import UserError
from effvis.fast.optimise import optimised
from effvis.files import replacing_folder
from effvis.predictor import Predictor

CONFIG, WEIGHTS = "config.yaml", "weights.safetensors"
_RESTORE = "Export the model again with python -m pipeline.export"


class ModelFile(Config):
    """The content of config.yaml."""

    format: Literal[1] = 1
    method: str
    model: SerializeAsAny[Config]
    input_size: InputSize = Field(description="height and width that frames are resized to, or bounds that keep their ratio")
    inference: InferenceConfig = InferenceConfig()
    labels: tuple[Category, ...] = Field(description="id and name of each class, in the order of the network's outputs")
    sha256: str = Field(description="of the weights")
    provenance: dict[str, Any] = Field({}, description="for people: run, data set, code, metrics")


def load(folder: str | Path, *, device: str = "cpu", fast: bool = False) -> Predictor:
    """The model of a folder that ``python -m pipeline.export`` or ``pipeline.import_weights`` wrote.

    Args:
        fast: run the same network with fewer operations; its results match those of evaluation up to rounding.

    Raises:
        UserError: the folder, its config.yaml or its weights are wrong, or there is no such device.
    """
    return predictor(read(Path(folder)), Path(folder) / WEIGHTS, device=device, fast=fast)


def read(folder: Path) -> ModelFile:
    """The checked description in a folder's config.yaml.

    Raises:
        UserError: names the file and the key.
    """
    file = folder / CONFIG
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}",
                        "Give a model's folder, as python -m pipeline.export or pipeline.import_weights writes it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(file, "(file)", f"is not YAML: {error}", _RESTORE) from None
    return describe(values, where=file)


def describe(values: Any, *, where: object) -> ModelFile:
    """The checked description in the content of a config.yaml.

    Raises:
        UserError: names the key.
    """
    if not isinstance(values, dict) or "labels" not in values:
        raise UserError(where, "labels", "missing key: this is no model", "Runs of the store (runs/<key>) become one with "
                        "python -m pipeline.export --model <key> --out FOLDER")
    method = values.get("method")
    if method not in methods.names():
        raise UserError(where, "method", f"there is no method {method!r}", f"The methods are {', '.join(methods.names())}")
    found = build(_form(method), values, where=where)
    if len(found.labels) != found.model.num_classes:
        raise UserError(where, "labels", f"there are {len(found.labels)}, the network has {found.model.num_classes} classes",
                        "Name each class once")
    return found


@cache
def _form(method: str) -> type[ModelFile]:
    """The form of config.yaml for a method, with the method's own network and settings of inference."""
    own = methods.get(method)
    return create_model("ModelFile", __base__=ModelFile, model=(own.config, ...), inference=(own.inference, own.inference()))


def predictor(description: ModelFile, weights: Path, *, device: str = "cpu", fast: bool = False) -> Predictor:
    """A predictor with the described network and its weights; ``fast`` as for ``load``.

    Raises:
        UserError: the weights are not the described ones, or there is no such device.
    """
    model = network(description.model, weights, description.sha256)
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError("device", str(device), f"cannot be used: {reason}", "Give cpu, or a device of this machine") from None
    if fast:
        model = optimised(model, widest(description.input_size))
    return Predictor(model, input_size=description.input_size, inference=description.inference, categories=description.labels)


def network(config: Config, weights: Path, sha256: str) -> nn.Module:
    """The network of a configuration with the weights of a safetensors file, on the processor.

    Raises:
        UserError: the file has another checksum, or its weights are of another network.
    """
    model = methods.build_model(config)
    model.load_state_dict(_read_weights(weights, sha256, model.state_dict(), getattr(model, "zero_where_missing", ())))
    return model


def write(folder: Path, description: ModelFile, weights: Path) -> None:
    """Writes a model whole or not at all; it replaces what the folder held before."""
    with replacing_folder(folder) as new:
        shutil.copyfile(weights, new / WEIGHTS)
        text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
        (new / CONFIG).write_text(text, encoding="utf-8")


def _read_weights(file: Path, sha256: str, own: dict[str, Any], optional: tuple[str, ...]) -> dict[str, Any]:
    try:
        with file.open("rb") as content:
            whole = hashlib.file_digest(content, "sha256").hexdigest() == sha256
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", _RESTORE) from None
    if not whole:
        raise UserError(file, "sha256", f"these are not the weights that {CONFIG} describes", _RESTORE)
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise UserError(file, "(file)", f"is not a safetensors file: {error}", _RESTORE) from None
    for name in (*own, *weights):
        here, there = own.get(name), weights.get(name)
        if there is None and name in optional:
            continue
        if here is None or there is None or here.shape != there.shape:
            shapes = [None if one is None else tuple(one.shape) for one in (there, here)]
            raise UserError(file, name, f"has shape {shapes[0]}, the network that is described {shapes[1]}", _RESTORE)
    return weights
