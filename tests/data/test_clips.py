"""Clip pairs drawn from a real data set on disk."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.builders import clip_pairs

from effvis.data.clips import ClipPairs, clip_frames, read_frame
from effvis.data.mask_parts import ENTRY_BYTES, MaskReader, mask_part
from effvis.data.masks import bbox_xyxy, decode, encode, to_compressed
from effvis.data.prefetch import Prefetched
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
    batch = clip_pairs(index, clip_length=7).batch(0)  # the whole video, twice: it has no two separate clips
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


def test_masks_are_kept_decoded_while_there_is_room(index, monkeypatch):
    decoded = []
    monkeypatch.setattr("effvis.data.mask_parts.mask_part", lambda *given: decoded.append(given) or mask_part(*given))
    track = next(track for track in index.tracks if track.present_L.sum() > 1)
    first, second = np.flatnonzero(track.present_L)[:2]
    reader = MaskReader(cache_bytes=ENTRY_BYTES + SIZE[0] * SIZE[1] // 8)
    for frame, times in ((first, 1), (second, 2)):
        decoded.clear()
        for _ in range(2):
            drawn = np.zeros(SIZE, bool)
            reader.draw(track, frame, drawn)
            assert np.array_equal(drawn, decode(track.rles[frame]))
        assert len(decoded) == times


def _resized_as_a_whole(mask, size):
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    for width, height in ((size[1], mask.shape[0]), (size[1], size[0])):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image) >= 128


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_part_of_a_mask_is_resized_as_the_whole(data):
    side = st.integers(1, 80)
    size = data.draw(side), data.draw(side)
    height, width = data.draw(st.one_of(st.just((2 * size[0], 2 * size[1])), st.tuples(side, side)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    mask = rng.random((height, width)) < rng.choice([0.01, 0.5, 1])
    mask &= (np.arange(height) >= rng.integers(0, height))[:, None] & (np.arange(width) < rng.integers(1, width + 1))
    if not mask.any():
        return
    rle = encode(mask)
    part, resized = mask_part(rle, bbox_xyxy(rle), size), np.zeros(size, bool)
    rows, columns = part.inside.shape
    resized[part.top: part.top + rows, part.left: part.left + columns] = part.inside
    assert np.array_equal(resized, _resized_as_a_whole(mask, size))


def test_runs_without_a_pixel_do_no_harm():
    rle = to_compressed({"size": [6, 4], "counts": [1, 0, 6, 3, 0, 2, 12]}, 6, 4)
    part = mask_part(rle, bbox_xyxy(rle), (3, 2))
    resized = np.zeros((3, 2), bool)
    resized[part.top: part.top + part.inside.shape[0], part.left: part.left + part.inside.shape[1]] = part.inside
    assert np.array_equal(resized, _resized_as_a_whole(decode(rle), (3, 2)))


def test_a_video_that_ends_inside_a_clip_goes_on_with_its_last_frame():
    assert clip_frames(0, 3, 2) == [0, 1, 1] and clip_frames(3, 3, 5) == [3, 4, 4]


def test_a_frame_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match="gone.jpg.*frame.*cannot be read"):
        read_frame(tmp_path / "gone.jpg", SIZE)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="cut.jpg"):
        read_frame(tmp_path / "cut.jpg", SIZE)


@pytest.mark.parametrize("scale, mode", [(2, "RGB"), (3, "RGB"), (8, "RGB"), (2, "L"), (2, "CMYK")])
def test_a_large_jpeg_is_decoded_at_the_scale_that_is_needed(tmp_path, scale, mode):
    """The frame has the requested size, and is within a few grey levels of full decoding."""
    y, x = np.mgrid[: SIZE[0] * scale, : SIZE[1] * scale] / (8.0 * scale)
    smooth = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=-1) * 100 + 128
    image = Image.fromarray(smooth.astype(np.uint8)).convert(mode)
    image.save(tmp_path / "large.jpg", quality=95)
    full = Image.open(tmp_path / "large.jpg").convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
    frame = read_frame(tmp_path / "large.jpg", SIZE)
    assert frame.shape == (*SIZE, 3)
    assert np.abs(frame.astype(int) - np.asarray(full).astype(int)).mean() < 2


def test_a_batch_has_the_colours_of_a_pixel_side_by_side_in_memory(index):
    """This is the layout in which the backbone computes: it needs no conversion, and VisTR's sums are exactly the same, too."""
    for changes in ({}, {"augmentation": "multi-scale", "scales": (0.5, 1.25)}):
        for frames in clip_pairs(index, **changes).batch(0).frames:
            assert frames.permute(0, 1, 3, 4, 2).is_contiguous()


def test_prefetched_batches_are_the_same_from_any_step_on(index):
    pairs = clip_pairs(index)
    with Prefetched(clip_pairs(index)) as prefetched:
        assert len(prefetched) == len(pairs) and prefetched.seed == pairs.seed
        for step in (3, 4, 5, 1, 2, 9):
            assert _same(prefetched.batch(step), pairs.batch(step))
        for step, part in ((0, 0), (0, 1), (1, 0), (1, 1)):
            assert _same(prefetched.batch(step, part, 2), pairs.batch(step, part, 2))


def test_the_next_batch_is_prepared_meanwhile(index):
    pairs, prepared = clip_pairs(index), threading.Event()
    batch = pairs.batch
    pairs.batch = lambda step, *part: (prepared.set() if step == 1 else None, batch(step, *part))[1]
    with Prefetched(pairs) as prefetched:
        prefetched.batch(0)
        assert prepared.wait(timeout=600)


def test_what_goes_wrong_in_the_thread_is_raised_by_the_batch_that_it_belongs_to(tmp_path):
    from effvis.data.synthetic.shapes import ShapesConfig, write
    from effvis.data.youtube_vis import read_split

    write(ShapesConfig(train_videos=1, val_videos=1, frames=4, height=32, width=48, min_radius=5, max_radius=8), tmp_path)
    index = read_split(tmp_path / "train")
    pairs: ClipPairs = clip_pairs(index, clip_length=4, batch_size=1)
    name = index.videos[0].file_names[2]
    read, broken = pairs.batch, threading.Event()

    def breaks_after_the_first(step, *part):
        if step == 1:
            (index.images / name).unlink()
            pairs.frames._cache.clear()
            broken.set()
        return read(step, *part)

    pairs.batch = breaks_after_the_first
    with Prefetched(pairs) as prefetched:
        prefetched.batch(0)
        assert broken.wait(timeout=600)
        with pytest.raises(UserError, match=f"{name}.*cannot be read"):
            prefetched.batch(1)
