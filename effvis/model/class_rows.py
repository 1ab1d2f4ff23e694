"""The layers that have a row per class, and their rows carried over to other classes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from effvis.model.categories import partners
from effvis.model.conversion import Fitted
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


def fitted(
    weights: Mapping[str, Tensor], own: Mapping[str, Tensor], has_rows: Callable[[str], bool]
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the same network with other classes, as ``load_state_dict`` takes them.

    Args:
        own: those of the network that is to start from ``weights``.
        has_rows: whether a tensor has a row per class or the like; it stays as it is where the numbers of rows differ.

    Returns:
        The weights, and the names of those that stay.

    Raises:
        ValueError: a weight is missing, unknown or has another shape, so that it is not the same network.
    """
    if own.keys() != weights.keys():
        raise ValueError(f"{min(own.keys() ^ weights.keys())} is not in both networks")
    stay = [name for name, value in own.items() if has_rows(name) and len(weights[name]) != len(value)]
    adapted = {**weights, **{name: own[name] for name in stay}}
    for name, value in own.items():
        if adapted[name].shape != value.shape:
            raise ValueError(f"{name} has shape {tuple(adapted[name].shape)}, this network's is {tuple(value.shape)}")
    return adapted, stay


def fit_classes(place: str, value: Tensor, own: Tensor, found: Sequence[int | None] | None) -> Fitted:
    """A layer with a row per class; ``found`` has the published row of each class here, or is None without names."""
    if MASK_LOGITS.fullmatch(place) and len(own) == 1 < len(value):
        return Fitted(value.mean(dim=0, keepdim=True), "cut", f"the mean of {len(value)} masks, one per class")
    if found is None:
        if len(value) != len(own):
            return Fitted(None, "dropped", f"{len(value)} classes there, {len(own)} here")
        return Fitted(value, "loaded")
    known = sum(partner is not None for partner in found)
    if not known:
        return Fitted(None, "dropped", "no class there is one here")
    rows = carried_over(place, value, own, found)
    return Fitted(rows, "loaded") if known == len(own) else Fitted(rows, "cut", f"{known} of {len(own)} classes, by name")


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
