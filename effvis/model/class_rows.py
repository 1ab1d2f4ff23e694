"""The layers that have a row per class, and their rows carried over to other classes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from effvis.model.categories import partners
from effvis.model.heads import MASK_LOGITS


def is_class_layer(name: str) -> bool:
    """Whether a tensor of the network has a row per class; one of masks has a single row where they are class-agnostic."""
    return ".class_logits." in name or MASK_LOGITS.fullmatch(name) is not None


def carried_over(name: str, value: Tensor, own: Tensor, found: Sequence[int | None]) -> Tensor:
    """The rows of ``value`` in their places here.

    A class without a partner keeps its own row. Its mask is the mean of all masks there, as a class-agnostic one would be.

    Args:
        name: the tensor's name here.
        found: the row in ``value`` for each row of ``own``, or None.
    """
    known = [number for number, partner in enumerate(found) if partner is not None]
    rows = (value.mean(dim=0, keepdim=True).expand_as(own) if MASK_LOGITS.fullmatch(name) else own).to(value.dtype).clone()
    rows[known] = value[[found[number] for number in known]]
    return rows


def in_order(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], *, theirs: Sequence[str], ours: Sequence[str]
) -> dict[str, Tensor]:
    """Weights whose rows of classes are those of ``ours``, in its order.

    Args:
        weights: those of a network of the classes ``theirs``. Layers with other numbers of rows stay as they are.
        own: those of the network of the classes ``ours``.
    """
    found = partners(ours, theirs)
    return {name: carried_over(name, value, own[name], found)
            if is_class_layer(name) and name in own and (len(value), len(own[name])) == (len(theirs), len(ours)) else value
            for name, value in weights.items()}
