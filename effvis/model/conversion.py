"""What every conversion of published weights shares: names to places, and the fate of every tensor on both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from effvis.errors import UserError

Outcome = Literal["loaded", "cut", "dropped", "left at init"]


@dataclass(frozen=True)
class Fate:
    """What became of one tensor.

    Attributes:
        name: its name here; the published one where it was dropped.
        outcome: ``cut`` is loaded in part, with the reason saying which.
    """

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Conversion:
    """Weights for the network's ``load_state_dict``, where they come from, and the fate of every tensor on both sides."""

    source: str
    weights: dict[str, Tensor]
    fates: list[Fate]


class Fitted(NamedTuple):
    """A published tensor in the shape of its place here, or None and why not."""

    value: Tensor | None
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Source:
    """A project that publishes weights.

    Attributes:
        name: for people.
        signature: a pattern of a name that no source after this one has.
        rules: patterns of its names, and what takes their place here. The first that fits the whole name counts.
    """

    name: str
    signature: str
    rules: tuple[tuple[str, str], ...]

    def place(self, name: str) -> str | None:
        for pattern, place in self.rules:
            found = re.fullmatch(pattern, name)
            if found:
                return found.expand(place)
        return None


def recognise(
    published: Mapping[str, Tensor], sources: Sequence[Source], *, where: object, hint: str = ""
) -> tuple[Source, Mapping[str, Tensor]]:
    """Whose names these are, and the weights without the wrapper of distributed training.

    Args:
        hint: what else the user may have meant, a sentence.

    Raises:
        UserError: the names are of none of the sources.
    """
    if published and all(name.startswith("module.") for name in published):
        published = {name.removeprefix("module."): value for name, value in published.items()}
    for source in sources:
        if any(re.fullmatch(source.signature, name) for name in published):
            return source, published
    raise UserError(where, next(iter(published), "(empty)"), "these are the names of no known network",
                    f"Give {', '.join(source.name for source in sources)}{hint}")


def assemble(
    source: Source,
    published: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    place: Callable[[str], str | None],
    fit: Callable[[str, str, Tensor], Fitted],
    why_dropped: Callable[[str, str | None], str],
    why_left: Callable[[str], str],
) -> Conversion:
    """Puts every published tensor into its place.

    Args:
        own: the network's weights, which stay where nothing was published.
        place: of a published name.
        fit: of the published name, its place and the tensor.
        why_dropped: of a published name and of its place, which the network does not have.
        why_left: of a name here that nothing came for.
    """
    weights, fates = dict(own), []
    for name, value in published.items():
        here = place(name)
        if here not in own:
            fates.append(Fate(name, "dropped", why_dropped(name, here)))
            continue
        fitted = fit(name, here, value)
        if fitted.value is None:
            fates.append(Fate(name, fitted.outcome, fitted.reason))
        else:
            weights[here] = fitted.value.to(own[here].dtype).contiguous()
            fates.append(Fate(here, fitted.outcome, fitted.reason))
    reached = {fate.name for fate in fates if fate.outcome != "dropped"}
    fates += [Fate(name, "left at init", why_left(name)) for name in own if name not in reached]
    return Conversion(source.name, weights, fates)


def check_body(
    published: Mapping[str, Tensor], place: Callable[[str], str | None], own: Mapping[str, Tensor], *, prefix: str,
    setting: str, where: object
) -> None:
    """Half a backbone is no start: its names and shapes have to be the published one's.

    Args:
        prefix: of the body's names here.
        setting: that names the body in the configuration.

    Raises:
        UserError: it is another one.
    """
    here = {name: value.shape for name, value in own.items() if name.startswith(prefix)}
    there = {at: value.shape for name, value in published.items()
             if (at := place(name)) is not None and at.startswith(prefix) and not at.endswith("num_batches_tracked")}
    if here != there or not here:
        differs = next((name for name in (*here, *there) if here.get(name) != there.get(name)), prefix)
        raise UserError(where, differs, "the checkpoint's backbone is not this network's",
                        f"Set {setting} to the checkpoint's, e.g. -S {setting}=resnet101")


def fit_same_shape(place: str, value: Tensor, own: Tensor, where: object) -> Fitted:
    """A tensor that is loaded as it is.

    Raises:
        UserError: it has another shape: the network differs in a size that is the user's to set.
    """
    if value.shape != own.shape:
        raise UserError(where, place, f"has shape {tuple(value.shape)}, this network's is {tuple(own.shape)}",
                        "Set the model's sizes to the checkpoint's")
    return Fitted(value, "loaded")


def why_useless(name: str) -> str | None:
    """Why a published tensor has no place in any network here, or None if that is for the network to say."""
    if name.endswith("num_batches_tracked"):
        return "frozen BatchNorm counts no batches"
    if name in ("fc.weight", "fc.bias"):
        return "ImageNet's classifier"
    return None


def count_parts(part: str, own: Mapping[str, Tensor]) -> int:
    """How many of a numbered part a network has, such as ``interactions``."""
    return len({name.split(".")[1] for name in own if name.startswith(f"{part}.")})
