"""Point 4, Sec. 3.3 undone: the T output queries of a clip start the next one each by itself, in training and in inference.

The paper averages them over time first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from benchmarks.undone.replacing import replaced
from benchmarks.undone.starting_queries import FORWARD, forward_from, track
from effvis.inference import end_to_end
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features

WHAT = "output queries start the next clip without an average over time"


@contextmanager
def patch() -> Iterator[None]:
    with replaced(EfficientVIS, "forward", _as_given), replaced(end_to_end, "track", track):
        yield


def _as_given(self: EfficientVIS, features: Features, query_BNTC: Tensor | None = None) -> list[ClipOutput]:
    """Called as ``EfficientVIS.forward``."""
    return FORWARD(self, features) if query_BNTC is None else forward_from(self, features, query_BNTC)
