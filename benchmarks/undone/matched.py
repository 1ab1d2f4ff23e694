"""Parts of what was matched."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from effvis.data.targets import StackedTargets
from effvis.training.matching import Matches

PLACES = ("stage_R", "clip_R", "tracklet_R", "instance_R", "frame_R")


def visible(matches: Matches, targets: StackedTargets) -> Tensor:
    """Whether the instance of each matched triple is present in its frame: (R,)."""
    return targets.present_BKT[matches.clip_R, matches.instance_R, matches.frame_R]


def only(matches: Matches, keep_R: Tensor) -> Matches:
    """The matches with those of their triples that are to be kept."""
    kept = {name: getattr(matches, name)[keep_R] for name in PLACES}
    return replace(matches, **kept, rows_M=torch.bincount(kept["stage_R"], minlength=len(matches.rows_M)).tolist())


def of_stage_and_clips(matches: Matches, stage: int, clips: slice) -> Matches:
    """The matches of one interaction and of some clips, as if there were no others."""
    here = only(matches, (matches.stage_R == stage) & (matches.clip_R >= clips.start) & (matches.clip_R < clips.stop))
    return replace(here, select_MBK=matches.select_MBK[stage: stage + 1, clips], stage_R=torch.zeros_like(here.stage_R),
                   clip_R=here.clip_R - clips.start, rows_M=[len(here.stage_R)])
