"""The external memory of MaskTrack R-CNN: the objects of a video so far, with which each frame's detections are matched.

Dimensions in names: N detections of a frame, M known objects, D values of an embedding, L = M + 1 entries, of which the first
stands for a new object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from effvis.model.boxes import iou
from effvis.tracking.config import CueWeights
from effvis.tracking.head import NEW, identity_logits

DISCARDED = -1


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects, as they are compared.

    Attributes:
        embedding_ND: of the tracking head.
        boxes_N4: xyxy; all frames of a video in the same unit.
        scores_N: of their detections, above 0 and at most 1.
        labels_N: classes.
    """

    embedding_ND: Tensor
    boxes_N4: Tensor
    scores_N: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def select(self, chosen: Tensor) -> Objects:
        """The objects at some places."""
        return Objects(self.embedding_ND[chosen], self.boxes_N4[chosen], self.scores_N[chosen], self.labels_N[chosen])


def match_scores(seen: Objects, known: Objects, weights: CueWeights) -> Tensor:
    """How well each detection fits each entry by all cues, the paper's v_i(n): (N, L).

    A new object overlaps no box, and counts as of the same class.
    """
    log_p_NL = identity_logits(seen.embedding_ND, known.embedding_ND).log_softmax(dim=1)
    iou_NM, _ = iou(seen.boxes_N4[:, None], known.boxes_N4[None])
    same_NM = (seen.labels_N[:, None] == known.labels_N).to(log_p_NL.dtype)
    cues_NM = weights.iou * iou_NM + weights.category * same_NM
    new_N1 = cues_NM.new_full((len(seen), 1), weights.category)
    return log_p_NL + weights.score * seen.scores_N.log()[:, None] + torch.cat((new_N1, cues_NM), dim=1)


def best_entries(scores_NL: Tensor) -> list[int]:
    """The best entry of each detection. Where several choose the same known object, only the one with the highest score has it,
    of equals the first; the others are ``DISCARDED``."""
    entries = scores_NL.argmax(dim=1).tolist()
    holder: dict[int, int] = {}
    for n, entry in enumerate(entries):
        if entry != NEW and (entry not in holder or scores_NL[n, entry] > scores_NL[holder[entry], entry]):
            holder[entry] = n
    return [entry if entry == NEW or holder[entry] == n else DISCARDED for n, entry in enumerate(entries)]


class Memory:
    """Numbers the objects of one frame after the other, so that an object has the same number in all of them.

    It holds each object as it was seen last, but with the class of its first detection, as the authors' code does, and forgets
    none.
    """

    def __init__(self, weights: CueWeights):
        self._weights = weights
        self._known: Objects | None = None

    def __len__(self) -> int:
        """How many objects it knows."""
        return 0 if self._known is None else len(self._known)

    def add(self, seen: Objects) -> list[int]:
        """The numbers, from 0, of the next frame's detections; ``DISCARDED`` where another one has the object.

        New objects get the next numbers, in the order of the detections.
        """
        if self._known is None:
            self._known = seen
            return list(range(len(seen)))
        if not len(seen):
            return []
        entries = best_entries(match_scores(seen, self._known, self._weights))
        again = [n for n, entry in enumerate(entries) if entry > NEW]
        new = [n for n, entry in enumerate(entries) if entry == NEW]
        number_of = {n: entries[n] - 1 for n in again} | {n: len(self._known) + place for place, n in enumerate(new)}
        self._known = self._updated(seen, again, [number_of[n] for n in again], new)
        return [number_of.get(n, DISCARDED) for n in range(len(seen))]

    def _updated(self, seen: Objects, again: list[int], numbers: list[int], new: list[int]) -> Objects:
        """The known objects with those that were seen ``again``, under their numbers, and behind them the new ones."""
        def joined(known: Tensor, now: Tensor, replaced: bool = True) -> Tensor:
            known = known.clone()
            if replaced:
                known[numbers] = now[again]
            return torch.cat((known, now[new]))

        return Objects(
            joined(self._known.embedding_ND, seen.embedding_ND), joined(self._known.boxes_N4, seen.boxes_N4),
            joined(self._known.scores_N, seen.scores_N), joined(self._known.labels_N, seen.labels_N, replaced=False))
