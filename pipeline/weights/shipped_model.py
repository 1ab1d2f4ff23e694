"""Whole models that come with the project: effvis/pretrained/<name>/, each a folder for ``effvis.load``."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline.grid import starts

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = starts.FOLDER
# Follows objects of photographs and real videos: the default of pipeline.predict.
PHOTO = "photo_object"
LARGEST_BYTES = 12 * 10**6


def folder_of(name: str) -> Path | None:
    """The folder of a shipped model; None if it is not there."""
    found = FOLDER / name
    return found if found.is_dir() else None


def write_half(folder: Path, weights: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Writes a model's folder with its weights in half precision, which halves the file; ``effvis.load`` makes float32 of it.

    Args:
        values: the content of config.yaml without the weights' checksum.

    Raises:
        UserError: the weights are larger than the project may ship, or one of them is too large for half precision.
    """
    from safetensors.torch import save

    from effvis.model_file import describe, write

    half = {name: value.half().contiguous() for name, value in weights.items()}
    for name, value in half.items():
        if not value.isfinite().all():
            raise UserError(folder, name, "is not finite in half precision", "Look at the training: weights above 65,504 are "
                            "no weights of a network that has learned")
    content = save(half)
    if len(content) > LARGEST_BYTES:
        raise UserError(folder, "size", f"{len(content)} bytes are more than the {LARGEST_BYTES} that may be shipped",
                        "Make the network smaller, e.g. -S model.hidden_dim=72 -S model.dynamic_dim=18 -S model.ffn_dim=288")
    description = describe({**values, "sha256": hashlib.sha256(content).hexdigest()}, where=folder)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "weights.safetensors"
        file.write_bytes(content)
        write(folder, description, file)
