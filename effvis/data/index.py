"""The clips of a split, and the pairs of clips that correspondence learning draws from (Sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from effvis.data.dataset import DatasetIndex


@dataclass(frozen=True, eq=False)
class ClipIndex:
    """Every clip of T consecutive frames, K of them, video by video in order of time, and P pairs of clips.

    Attributes:
        clip_length: T. A video shorter than T has one clip, which starts at 0; its last frame fills the rest.
        clip_video_K: position of the clip's video in ``DatasetIndex.videos``.
        clip_start_K: the clip's first frame.
        pair_first_P, pair_second_P: positions among the clips, the first one earlier. The two do not overlap; a video
            in which all clips overlap has one pair: its earliest and its latest clip (which may be the same).
        track_offsets_K1, track_ids: ids of the tracks that are present in some frame of clip k are
            ``track_ids[track_offsets_K1[k]:track_offsets_K1[k + 1]]``.
    """

    clip_length: int
    clip_video_K: np.ndarray
    clip_start_K: np.ndarray
    pair_first_P: np.ndarray
    pair_second_P: np.ndarray
    track_offsets_K1: np.ndarray
    track_ids: np.ndarray

    def tracks_in(self, clip: int) -> np.ndarray:
        """Ids of the tracks that are present in the clip."""
        return self.track_ids[self.track_offsets_K1[clip]:self.track_offsets_K1[clip + 1]]


def clip_index(index: DatasetIndex, clip_length: int) -> ClipIndex:
    """All clips of ``clip_length`` frames and their pairs.

    Raises:
        ValueError: ``clip_length`` is below 1.
    """
    if clip_length < 1:
        raise ValueError(f"a clip has at least one frame, not {clip_length}")
    lengths_V = np.array([video.length for video in index.videos], np.int64)
    clips_V = np.maximum(lengths_V - clip_length + 1, 1)
    first_clip_V = np.cumsum(clips_V) - clips_V
    video_K = np.repeat(np.arange(len(clips_V)), clips_V)
    start_K = np.arange(len(video_K)) - first_clip_V[video_K]
    first_P, second_P = _pairs(start_K, clips_V[video_K], clip_length)
    offsets_K1, track_ids = _present_tracks(index, clip_length, clips_V, first_clip_V)
    return ClipIndex(clip_length, video_K, start_K, first_P, second_P, offsets_K1, track_ids)


def _pairs(start_K: np.ndarray, clips_K: np.ndarray, clip_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of clips that do not overlap; ``clips_K`` is the number of clips in each clip's video."""
    # The clips of a video follow one another, so the partners of clip k are k + T up to the last one of its video.
    partners_K = np.maximum(clips_K - start_K - clip_length, 0)
    nearest_K = np.full(len(start_K), clip_length)
    no_two_apart_K = (clips_K <= clip_length) & (start_K == 0)
    partners_K[no_two_apart_K] = 1
    nearest_K[no_two_apart_K] = clips_K[no_two_apart_K] - 1
    first_P = np.repeat(np.arange(len(start_K)), partners_K)
    nth_partner_P = np.arange(len(first_P)) - np.repeat(np.cumsum(partners_K) - partners_K, partners_K)
    return first_P, first_P + nearest_K[first_P] + nth_partner_P


def _present_tracks(
    index: DatasetIndex, clip_length: int, clips_V: np.ndarray, first_clip_V: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    clips, ids = [], []
    for track in index.tracks:
        starts = np.arange(clips_V[track.video_index])
        frames_before = np.concatenate(([0], np.cumsum(track.present_L)))
        ends = np.minimum(starts + clip_length, len(track.present_L))
        present = starts[frames_before[ends] > frames_before[starts]]
        clips.append(first_clip_V[track.video_index] + present)
        ids.append(np.full(len(present), track.id))
    clip = np.concatenate([*clips, np.zeros(0, np.int64)])
    track_ids = np.concatenate([*ids, np.zeros(0, np.int64)])
    in_order = np.argsort(clip, kind="stable")
    counts_K = np.bincount(clip, minlength=int(clips_V.sum()))
    return np.concatenate(([0], np.cumsum(counts_K))), track_ids[in_order]
