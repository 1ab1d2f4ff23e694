"""The methods whose networks can be built from a configuration and loaded from a model folder.

A method is a folder in this package with a module ``method``, which defines ``METHOD``. Folders of the same name elsewhere on
Python's path (``<somewhere>/effvis/<method>/method.py``) count as well, so that a new method needs no change to this project.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from effvis.config import InferenceConfig


@dataclass(frozen=True)
class Method:
    """What a model folder needs from a method.

    Attributes:
        config: the class of the network's configuration; its class variable ``method`` is the method's name, and it has
            ``num_classes``, ``clip_length``, ``backbone`` and ``at_one_frame()``.
        build: makes a fresh network from a configuration, which the network keeps as ``config``; its weights follow from
            PyTorch's random generator.
        predict_clip: predicts one clip by itself; called like ``effvis.inference.clip.predict_alone``.
        track: tracks through a whole video end to end; called like ``effvis.inference.end_to_end.track``. None where clips
            are always linked by hand-crafted matching.
        link: tracks through a whole video by hand-crafted matching; called like ``track``. None: its clips are predicted by
            themselves, and ``effvis.inference.handcraft.link`` links them.
        inference: the class of its settings of inference.
        detect: detects the objects of one frame; called like ``detect(model, frame_CHW, size)``. None where the network needs
            a clip.
        make_fast: called by ``effvis.fast.optimise.optimised`` with a copy of the network whose normalisation is folded,
            the size of its input, how many pixels go through the backbone together, and whether to pool first (None: where
            it pays); returns the network to run. None where nothing more can be done.
    """

    config: type[Any]
    build: Callable[[Any], nn.Module]
    predict_clip: Callable[..., Any]
    track: Callable[..., Any] | None = None
    link: Callable[..., Any] | None = None
    inference: type[InferenceConfig] = InferenceConfig
    detect: Callable[..., Any] | None = None
    make_fast: Callable[[Any, tuple[int, int], int, bool | None], nn.Module] | None = None


@cache
def names() -> tuple[str, ...]:
    """Names of all methods, in alphabetical order. No method is loaded."""
    places = import_module(__package__).__path__
    return tuple(sorted({file.parent.name for place in places for file in Path(place).glob("*/method.py")}))


def get(name: str) -> Method:
    """The method with this name.

    Raises:
        LookupError: there is no such method.
    """
    if name not in names():
        raise LookupError(f"there is no method {name!r}")
    return import_module(f"effvis.{name}.method").METHOD


def of_network(model: nn.Module) -> Method:
    """The method that a network belongs to."""
    return get(model.config.method)


def build_model(config: Any) -> nn.Module:
    """A fresh network; its weights follow from PyTorch's random generator."""
    return get(config.method).build(config)
