"""The clip index against a literal reading of its definition."""

from pathlib import Path

import numpy as np
import pytest

from effvis.data import masks
from effvis.data.dataset import Category, DatasetIndex, Video, make_track
from effvis.data.index import clip_index

CLIP = 4
PIXEL = masks.encode(np.ones((2, 3), bool))


def split(lengths: list[int], seed: int = 0) -> DatasetIndex:
    """Videos of the given lengths, each with three instances that come and go."""
    rng = np.random.default_rng(seed)
    videos = tuple(Video(10 + i, 2, 3, 6.0, tuple(f"{i}/{f}.jpg" for f in range(n))) for i, n in enumerate(lengths))
    tracks = []
    for video_index, length in reversed(list(enumerate(lengths))):
        for _ in range(3):
            rles = [PIXEL if rng.random() < 0.3 else None for _ in range(length)]
            tracks.append(make_track(track_id=100 + len(tracks), video_index=video_index, label=0, iscrowd=False, rles=rles))
    return DatasetIndex(Path("images"), "digest", (Category(1, "thing"),), videos, tuple(tracks))


def literal(index: DatasetIndex, clip_length: int):
    clips = [(v, start) for v, video in enumerate(index.videos)
             for start in (range(video.length - clip_length + 1) if video.length >= clip_length else [0])]
    pairs = []
    for v in range(len(index.videos)):
        own = [k for k, (video, _) in enumerate(clips) if video == v]
        apart = [(a, b) for a in own for b in own if clips[b][1] - clips[a][1] >= clip_length]
        pairs += apart or [(own[0], own[-1])]
    present = [[t.id for t in index.tracks if t.video_index == v
                and any(rle is not None for rle in t.rles[start:start + clip_length])] for v, start in clips]
    return clips, pairs, present


@pytest.mark.parametrize("lengths", [
    [1], [CLIP - 1], [CLIP], [CLIP + 1], [2 * CLIP - 1], [2 * CLIP], [3 * CLIP + 2],
    [3 * CLIP + 2, 1, CLIP, CLIP + 1, CLIP - 1, 2 * CLIP],
])
@pytest.mark.parametrize("clip_length", [1, CLIP])
def test_clips_pairs_and_tracks_are_those_of_the_definition(lengths, clip_length):
    index = split(lengths)
    clips, pairs, present = literal(index, clip_length)
    found = clip_index(index, clip_length)
    assert found.clip_length == clip_length
    assert list(zip(found.clip_video_K, found.clip_start_K, strict=True)) == clips
    assert sorted(zip(found.pair_first_P, found.pair_second_P, strict=True)) == sorted(pairs)
    assert [list(found.tracks_in(k)) for k in range(len(clips))] == present


def test_pairs_are_listed_video_by_video():
    index = split([9, 2, 12])
    found = clip_index(index, 3)
    assert (np.diff(found.clip_video_K[found.pair_first_P]) >= 0).all()
    np.testing.assert_array_equal(found.clip_video_K[found.pair_first_P], found.clip_video_K[found.pair_second_P])


def test_a_split_without_instances_has_clips():
    index = split([5, 6])
    empty = DatasetIndex(index.images, index.digest, index.categories, index.videos, ())
    found = clip_index(empty, 2)
    assert len(found.clip_video_K) == 9
    assert all(len(found.tracks_in(k)) == 0 for k in range(9))


def test_a_clip_has_at_least_one_frame():
    with pytest.raises(ValueError, match="at least one frame"):
        clip_index(split([3]), 0)
