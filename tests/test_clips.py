"""Clip pairs drawn from a real data set on disk."""

import numpy as np
import pytest
import torch
from builders import clip_pairs
from PIL import Image

from effvis.data.clips import MaskReader, clip_frames, read_frame
from effvis.data.masks import decode
from effvis.errors import UserError

SIZE = (32, 48)


@pytest.fixture
def index(drawn_index):
    return drawn_index


def _same(a, b):
    return (all(torch.equal(x, y) for x, y in zip(a.frames, b.frames, strict=True)) and a.videos == b.videos
            and all(torch.equal(x.masks_KTHW, y.masks_KTHW)
                    for c in (0, 1) for x, y in zip(a.targets[c], b.targets[c], strict=True)))


def test_a_batch_follows_from_seed_and_step_alone(index):
    one, other = clip_pairs(index), clip_pairs(index)
    for step in (0, 1, 5):
        other.batch(99)
        assert _same(one.batch(step), other.batch(step))
    assert not _same(one.batch(0), one.batch(2))
    assert not _same(one.batch(0), clip_pairs(index, seed=1).batch(0))


def test_an_epoch_shows_no_video_twice(index):
    pairs = clip_pairs(index)
    assert len(pairs) == 2
    for epoch in range(3):
        seen = [v for step in range(2) for v in pairs.batch(2 * epoch + step).videos]
        assert len(set(seen)) == 4


def test_targets_are_the_annotations(index):
    batch = clip_pairs(index, clip_length=7).batch(0)  # the whole video, twice: no two clips of it are apart
    for frames, targets, video in zip(batch.frames[0], batch.targets[0], batch.videos, strict=True):
        tracks = [t for t in index.tracks_of(video) if any(t.rles)]
        assert targets.track_ids_K.tolist() == [t.id for t in tracks]
        assert targets.labels_K.tolist() == [t.label for t in tracks]
        for k, track in enumerate(tracks):
            for t, rle in enumerate(track.rles):
                assert targets.present_KT[k, t] == (rle is not None)
                if rle is not None:
                    assert np.array_equal(targets.masks_KTHW[k, t].numpy(), decode(rle))
                    np.testing.assert_allclose(targets.boxes_KT4[k, t], track.boxes_L4[t])
                else:
                    assert not targets.masks_KTHW[k, t].any() and not targets.boxes_KT4[k, t].any()
        file = index.images / index.videos[video].file_names[3]
        assert np.array_equal(frames[3].permute(1, 2, 0).numpy(), np.asarray(Image.open(file).convert("RGB")))


def test_two_clips_of_a_pair_come_in_both_orders_and_do_not_overlap(index):
    pairs = clip_pairs(index, batch_size=1)
    read, asked = pairs.frames.clip, []
    pairs.frames.clip = lambda video, frames: asked.append((video, frames)) or read(video, frames)
    orders = set()
    for step in range(20):
        asked.clear()
        batch = pairs.batch(step)
        (video_a, a), (video_b, b) = asked
        assert [video_a, video_b] == batch.videos * 2
        assert not set(a) & set(b)
        orders.add(a[0] < b[0])
    assert orders == {True, False}


def test_flip_mirrors_frames_boxes_and_masks_together(index):
    plain, flipped = clip_pairs(index, batch_size=1), clip_pairs(index, batch_size=1, flip=True)
    mirrored = 0
    for step in range(8):
        a, b = plain.batch(step), flipped.batch(step)
        if torch.equal(a.frames[0], b.frames[0]):
            continue
        mirrored += 1
        for c in (0, 1):
            assert torch.equal(a.frames[c].flip(-1), b.frames[c])
            assert torch.equal(a.targets[c][0].masks_KTHW.flip(-1), b.targets[c][0].masks_KTHW)
            for k, t in b.targets[c][0].present_KT.nonzero().tolist():
                x0, _, x1, _ = b.targets[c][0].boxes_KT4[k, t].tolist()
                columns = b.targets[c][0].masks_KTHW[k, t].any(dim=0).nonzero()
                assert (x0, x1) == (columns.min().item(), columns.max().item() + 1)
    assert mirrored


def test_frames_and_targets_follow_the_input_size(index):
    batch = clip_pairs(index, input_size=(16, 24)).batch(0)
    original = clip_pairs(index).batch(0)
    assert batch.frames[0].shape[-2:] == (16, 24)
    for small, full in zip(batch.targets[0], original.targets[0], strict=True):
        assert torch.equal(small.track_ids_K, full.track_ids_K)
        torch.testing.assert_close(small.boxes_KT4 * 2, full.boxes_KT4)
        assert small.masks_KTHW.sum().item() == pytest.approx(full.masks_KTHW.sum().item() / 4, rel=0.15)


def test_masks_are_kept_decoded_while_there_is_room(index):
    track = next(track for track in index.tracks if track.present_L.sum() > 1)
    first, second = np.flatnonzero(track.present_L)[:2]
    reader = MaskReader(SIZE, cache_bytes=SIZE[0] * SIZE[1])
    for frame, kept in ((first, True), (second, False)):
        assert np.array_equal(reader.mask(track, frame), decode(track.rles[frame]))
        assert (reader.mask(track, frame) is reader.mask(track, frame)) == kept


def test_a_video_that_ends_inside_a_clip_goes_on_with_its_last_frame():
    assert clip_frames(0, 3, 2) == [0, 1, 1] and clip_frames(3, 3, 5) == [3, 4, 4]


def test_a_frame_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.jpg.*frame.*cannot be read"):
        read_frame(tmp_path / "gone.jpg", SIZE)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="cut.jpg"):
        read_frame(tmp_path / "cut.jpg", SIZE)
