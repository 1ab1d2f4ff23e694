"""What every conversion of published weights shares: the places of names, and the fate of every tensor on both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from effvis.config import Config
from effvis.errors import UserError

Outcome = Literal["loaded", "cut", "dropped", "left at init"]


@dataclass(frozen=True)
class Fate:
    """What became of one tensor.

    Attributes:
        name: its name here; the published one where it was dropped.
        outcome: ``cut`` means loaded in part; the reason says which part.
    """

    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Conversion:
    """Weights for the network's ``load_state_dict``, where they come from, and the fate of every tensor on both sides.

    Attributes:
        config: of the network.
        form: settings of the network without which the weights mean something else although they fit, by name.
        by_name: where rows of classes were carried over by name, the published name of each class, None where there is none.
    """

    source: str
    config: Config
    weights: dict[str, Tensor]
    fates: list[Fate]
    form: Mapping[str, bool] = field(default_factory=dict)
    by_name: Mapping[str, str | None] = field(default_factory=dict)


class Fitted(NamedTuple):
    """A published tensor in the shape of its place here, or None and the reason why not."""

    value: Tensor | None
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Source:
    """A project that publishes weights.

    Attributes:
        name: the source's name in messages.
        signature: a pattern of a tensor's name that no source after this one has.
        rules: patterns of its tensors' names, with the names here. The first that matches the whole name counts.
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


def torchvision_resnet(body: str) -> Source:
    """A ResNet of torchvision, whose weights go below the name ``body``."""
    return Source("a torchvision ResNet", r"layer1\.0\.conv1\.weight", ((r"((?:conv1|bn1|layer\d)\..+)", rf"{body}\1"),))


def detectron2_backbone(first_level: int) -> tuple[tuple[str, str], ...]:
    """Rules for detectron2's ResNet and the levels of its pyramid from P<first_level> to P5."""
    return (
        (r"backbone\.bottom_up\.stem\.conv1\.weight", "backbone.body.conv1.weight"),
        (r"backbone\.bottom_up\.stem\.conv1\.norm\.(.+)", r"backbone.body.bn1.\1"),
        *((rf"backbone\.bottom_up\.res{stage + 1}\.(\d+)\.{theirs}", rf"backbone.body.layer{stage}.\1.{ours}")
          for stage in range(1, 5)
          for theirs, ours in ((r"conv(\d)\.weight", r"conv\2.weight"), (r"conv(\d)\.norm\.(.+)", r"bn\2.\3"),
                               (r"shortcut\.weight", "downsample.0.weight"), (r"shortcut\.norm\.(.+)", r"downsample.1.\2"))),
        *((rf"backbone\.fpn_{kind}{level}\.(.+)", rf"backbone.fpn.{kind}.{level - first_level}.\1")
          for kind in ("lateral", "output") for level in range(first_level, 6)))


def mmdetection_backbone(within: str = "") -> tuple[tuple[str, str], ...]:
    """Rules for mmdetection's backbone and pyramid.

    Args:
        within: a pattern of what stands before their names.
    """
    return (
        (rf"{within}backbone\.(.+)", r"backbone.body.\1"),
        (rf"{within}neck\.lateral_convs\.(\d+)\.conv\.(.+)", r"backbone.fpn.lateral.\1.\2"),
        (rf"{within}neck\.fpn_convs\.(\d+)\.conv\.(.+)", r"backbone.fpn.output.\1.\2"))


def recognise(
    published: Mapping[str, Tensor], sources: Sequence[Source], *, where: object, hint: str = ""
) -> tuple[Source, Mapping[str, Tensor]]:
    """The source whose names these are, and the weights without the wrapper of distributed training.

    Args:
        hint: a sentence on what else the user may have meant.

    Raises:
        UserError: the names come from none of the sources.
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
    config: Config,
    *,
    place: Callable[[str], str | None],
    fit: Callable[[str, str, Tensor], Fitted],
    why_dropped: Callable[[str, str | None], str],
    why_left: Callable[[str], str],
) -> Conversion:
    """Puts every published tensor into its place.

    Args:
        own: the network's weights, which stay where nothing was published.
        config: of the network.
        place: gives the place of a published name.
        fit: fits a tensor into its place; takes the published name, the place and the tensor.
        why_dropped: gives the reason; takes a published name and its place, which the network does not have.
        why_left: gives the reason; takes a name here for which nothing was published.
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
    return Conversion(source.name, config, weights, fates)


def check_body(
    published: Mapping[str, Tensor], place: Callable[[str], str | None], own: Mapping[str, Tensor], *, prefix: str,
    setting: str, where: object
) -> None:
    """Checks that the backbone has the names and shapes of the published one: half a backbone is no start.

    Args:
        prefix: the prefix of the body's names here.
        setting: the setting that names the body in the configuration.

    Raises:
        UserError: the published backbone is another one.
    """
    here = {name: value.shape for name, value in own.items() if name.startswith(prefix)}
    there = {at: value.shape for name, value in published.items()
             if (at := place(name)) is not None and at.startswith(prefix) and not at.endswith("num_batches_tracked")}
    if here != there or not here:
        differs = next((name for name in (*here, *there) if here.get(name) != there.get(name)), prefix)
        raise UserError(where, differs, "the checkpoint's backbone is not this network's",
                        f"Set {setting} to the checkpoint's, e.g. -S {setting}=resnet101")


def fit_same_shape(place: str, value: Tensor, own: Tensor, where: object) -> Fitted:
    """A tensor, loaded as it is.

    Raises:
        UserError: it has another shape: the network differs in a size that the user has to set.
    """
    if value.shape != own.shape:
        raise UserError(where, place, f"has shape {tuple(value.shape)}, this network's is {tuple(own.shape)}",
                        "Set the model's sizes to the checkpoint's")
    return Fitted(value, "loaded")


def why_useless(name: str) -> str | None:
    """Why a published tensor has no place in any network here, or None if that is for the network to say."""
    if name.endswith("num_batches_tracked"):
        return "frozen BatchNorm counts no batches"
    if name.startswith(("fc.", "_fc.", "_conv_head.", "_bn1.")):
        return "ImageNet's classifier"
    return None


def count_parts(part: str, own: Mapping[str, Tensor]) -> int:
    """How many copies of a numbered part a network has, such as ``interactions``."""
    return len({name.split(".")[1] for name in own if name.startswith(f"{part}.")})
