"""Point 8 undone: losses are divided by what was matched and visible, interaction by interaction, and copies of a last frame
are frames like others.

With correspondence learning the first clips of all pairs were one group and the second ones another, each divided by its own
number, and the losses of the two were averaged. The targets alone give the number today, and copies do not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.undone.matched import of_stage_and_clips, visible
from benchmarks.undone.replacing import replaced
from effvis.config import LossWeights
from effvis.data.targets import ClipPairBatch, ClipTargets, StackedTargets
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features
from effvis.training import correspondence as module
from effvis.training.losses import interaction_losses
from effvis.training.matching import Matches

WHAT = "losses divided by what was matched in each interaction, and copies of a last frame count"
_PAIR_LOSSES = module.pair_losses


@contextmanager
def patch() -> Iterator[None]:
    with replaced(ClipTargets, "real", _all_frames), replaced(module, "pair_losses", _pair_losses):
        yield


def _all_frames(self: ClipTargets) -> Tensor:
    """Called as ``ClipTargets.real``."""
    return self.present_KT.new_ones(self.present_KT.shape[1])


def _pair_losses(
    model: EfficientVIS, batch: ClipPairBatch, weights: LossWeights, correspondence: bool, *others: Any, **named: Any
) -> dict[str, Tensor]:
    """Called as ``effvis.training.correspondence.pair_losses``."""
    groups = 2 if correspondence and len(batch.targets) == 2 else 1
    with replaced(module, "interaction_losses", partial(_divided_by_matches, groups=groups)):
        return _PAIR_LOSSES(model, batch, weights, correspondence, *others, **named)


def _divided_by_matches(
    model: EfficientVIS, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets, matches: Matches,
    weights: LossWeights, entries: int, *, groups: int,
) -> dict[str, Tensor]:
    """Called as ``effvis.training.losses.interaction_losses``.

    Args:
        groups: number of equal groups that the clips form, one after the other.
    """
    clips = features.clips // groups
    parts = []
    for stage, output in enumerate(outputs):
        for first in range(0, features.clips, clips):
            group = slice(first, first + clips)
            here, truth = of_stage_and_clips(matches, stage, group), targets.select(group)
            count = max(int(visible(here, truth).sum()), 1)
            parts.append(interaction_losses(
                model, features.select(group), [output.select(group)], truth, here, weights, groups * count))
    return {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
