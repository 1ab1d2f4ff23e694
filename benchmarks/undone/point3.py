"""Point 3, Eq. 5 undone: the mask's cross-entropy is taken only in frames where the instance is present.

The paper takes it in every frame of a matched tracklet, with an empty target where the instance is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from benchmarks.undone.matched import only, visible
from benchmarks.undone.replacing import replaced
from effvis.config import LossWeights
from effvis.data.targets import StackedTargets
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features
from effvis.training import correspondence
from effvis.training.losses import interaction_losses
from effvis.training.matching import Matches

WHAT = "the mask's cross-entropy only in frames that show the instance"


def patch() -> AbstractContextManager[None]:
    return replaced(correspondence, "interaction_losses", _where_present)


def _where_present(
    model: EfficientVIS, features: Features, outputs: Sequence[ClipOutput], targets: StackedTargets, matches: Matches,
    weights: LossWeights, entries: int,
) -> dict[str, Tensor]:
    """Called as ``effvis.training.losses.interaction_losses``. Of all losses, only the cross-entropy has part in the frames
    that are left out: a class is background there in any case, and boxes and dice need the instance."""
    seen = only(matches, visible(matches, targets))
    return interaction_losses(model, features, outputs, targets, seen, weights, entries)
