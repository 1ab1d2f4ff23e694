"""Published weights that are available by name: their addresses, and the documents that give them.

Backbones serve every method; other weights that a method can start from are listed in its file (pipeline/methods).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from effvis.errors import UserError
from pipeline import methods
from pipeline.methods.base import Published

_TORCHVISION = "torchvision 0.29.1, torchvision/models/resnet.py"


def find_published(name: str) -> Published:
    """The published file of this name.

    Raises:
        UserError: there is no file of this name.
    """
    if name not in REGISTRY:
        raise UserError("--published", name, "there is no such file in the list", f"Known names: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def model_names() -> tuple[str, ...]:
    """The names of the files that are whole models."""
    return tuple(name for name, file in REGISTRY.items() if file.model is not None)


def _torchvision() -> Iterator[tuple[str, Published]]:
    for name, file, recipe, mib in (
        ("resnet18", "resnet18-f37072fd", 1, 44.661),
        ("resnet50", "resnet50-0676ba61", 1, 97.781),
        ("resnet50-v2", "resnet50-11ad3fa6", 2, 97.79),
        ("resnet101", "resnet101-63fe2227", 1, 170.511),
        ("resnet101-v2", "resnet101-cd907fc2", 2, 170.53),
    ):
        yield name, Published(f"https://download.pytorch.org/models/{file}.pth", name.removesuffix("-v2"),
                              f"ImageNet (IMAGENET1K_V{recipe})", _TORCHVISION, mib, methods.names())


def _of_methods() -> Iterator[tuple[str, Published]]:
    everyone = methods.everyone()
    for name, file in {name: file for method in everyone for name, file in method.published.items()}.items():
        model = next((method.name for method in everyone if name in method.models), None)
        yield name, replace(file, methods=tuple(method.name for method in everyone if name in method.published), model=model)


REGISTRY = dict((*_torchvision(), *_of_methods()))
