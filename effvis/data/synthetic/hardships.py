"""How often each hardship occurs in drawn videos, measured on what was drawn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import numpy as np

from effvis.data.synthetic.shapes import MIN_VISIBLE_PIXELS, DrawnTrack, DrawnVideo

PARTLY = 0.3
"""An instance of which this share of the pixels is hidden counts as partly hidden."""
FAST = 4.0
"""Pixels a frame."""


def measure(videos: Iterable[DrawnVideo]) -> dict[str, float]:
    """Measures each hardship. Shares count instances in the frames that they are inside, unless the name says otherwise.

    Returns:
        By name: the number of ``videos`` and ``instances``; shares from 0 to 1; ``motion``, the median distance that a
        centre moves, in pixels per frame. Nothing moves where videos have one frame.
    """
    videos = list(videos)
    tracks = [track for video in videos for track in video.tracks]
    inside = [_pixels(track.solid_LHW) >= MIN_VISIBLE_PIXELS for track in tracks]
    hidden = np.concatenate([1 - _pixels(track.visible_LHW)[here_L] / _pixels(track.solid_LHW)[here_L]
                             for track, here_L in zip(tracks, inside, strict=True)])
    seen = [_pixels(track.visible_LHW) >= MIN_VISIBLE_PIXELS for track in tracks]
    gone = np.concatenate([~seen_L[here_L] for seen_L, here_L in zip(seen, inside, strict=True)])
    degraded = np.concatenate([track.degraded_L[here_L] for track, here_L in zip(tracks, inside, strict=True)])
    steps = np.concatenate([
        np.hypot(*np.diff(track.centre_L2, axis=0).T)[here_L[1:] & here_L[:-1]]
        for track, here_L in zip(tracks, inside, strict=True)])
    twins = [[track for track in video.tracks if track.twin] for video in videos]
    return {
        "videos": len(videos),
        "instances": len(tracks),
        "degraded": float(degraded.mean()),
        "partly hidden": float(((hidden >= PARTLY) & ~gone).mean()),
        "wholly hidden": float(gone.mean()),
        "instances that are absent for a while and return": float(np.mean([_returns(seen_L) for seen_L in seen])),
        "videos with twins": float(np.mean([len(pair) > 1 for pair in twins])),
        "videos with twins that touch": float(np.mean([_touch(pair) for pair in twins])),
        "motion": float(np.median(steps)) if len(steps) else 0.0,
        "fast": float((steps > FAST).mean()) if len(steps) else 0.0,
    }


def _pixels(mask_LHW: np.ndarray) -> np.ndarray:
    return mask_LHW.sum(axis=(1, 2))


def _returns(seen_L: np.ndarray) -> bool:
    """Whether an instance is seen, then not seen, then seen again."""
    first_to_last_L = seen_L[np.flatnonzero(seen_L)[0]:np.flatnonzero(seen_L)[-1]]
    return not first_to_last_L.all()


def _touch(tracks: list[DrawnTrack]) -> bool:
    return any((a.solid_LHW & b.solid_LHW).any() for a, b in combinations(tracks, 2))
