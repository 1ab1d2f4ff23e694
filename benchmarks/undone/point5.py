"""Point 5, footnote 1 undone: each tracklet learns an embedding and a proposal for every frame of a clip.

The paper has one of each, repeated T times. All T begin alike, as they are in the weights that the training starts from. What
one clip hands to the next is still the average over time; a tracklet that begins anew has its T embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from benchmarks.undone.replacing import replaced
from benchmarks.undone.starting_queries import FORWARD, forward_from, track
from effvis.config import ModelConfig
from effvis.inference import end_to_end
from effvis.model.efficientvis import ClipOutput, EfficientVIS, Features

WHAT = "an embedding and a proposal of its own for every frame of a clip"
LEARNED = ("query_NTC", "proposal_NT4")
_BUILT, _LOADED = EfficientVIS.__init__, EfficientVIS.load_initial


@contextmanager
def patch() -> Iterator[None]:
    with (replaced(EfficientVIS, "__init__", _built), replaced(EfficientVIS, "load_initial", _loaded),
          replaced(EfficientVIS, "forward", _forward), replaced(end_to_end, "track", track)):
        yield


def _built(self: EfficientVIS, config: ModelConfig) -> None:
    """Called as ``EfficientVIS.__init__``."""
    _BUILT(self, config)
    for name in LEARNED:
        setattr(self, name, nn.Parameter(getattr(self, name).detach().repeat(1, config.clip_length, 1)))


def _loaded(self: EfficientVIS, weights: Mapping[str, Tensor]) -> list[str]:
    """Called as ``EfficientVIS.load_initial``, with one embedding and one proposal or T of each."""
    return _LOADED(self, {name: value.expand_as(getattr(self, name)) if name in LEARNED else value
                          for name, value in weights.items()})


def _forward(self: EfficientVIS, features: Features, query_BNTC: Tensor | None = None) -> list[ClipOutput]:
    """Called as ``EfficientVIS.forward``, in inference also with the learned embeddings themselves."""
    if query_BNTC is None:
        return FORWARD(self, features)
    learned = self.initial_query(features.clips)
    anew_BN = (query_BNTC == learned).all(dim=3).all(dim=2)
    return forward_from(self, features, torch.where(
        anew_BN[:, :, None, None], learned, query_BNTC.mean(dim=2, keepdim=True)))
