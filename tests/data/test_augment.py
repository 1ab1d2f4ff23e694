"""Training augmentation: the drawn changes, and that frames, boxes, masks and presence stay consistent."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.builders import clip_pairs, rectangles

from effvis.config import TrainConfig
from effvis.data.augment import crop, draw_factors, draw_window, mirror, recolour
from effvis.data.sizes import scaled
from effvis.data.targets import ClipTargets

SIZE = (32, 48)


@pytest.fixture
def index(drawn_index):
    return drawn_index


def _bounds(mask):
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]


def _assert_consistent(targets):
    """Every instance is somewhere, and its box and mask are where it is present."""
    assert targets.present_KT.any(dim=1).all()
    for k in range(len(targets)):
        for t in range(targets.present_KT.shape[1]):
            if targets.present_KT[k, t]:
                np.testing.assert_allclose(targets.boxes_KT4[k, t].tolist(), _bounds(targets.masks_KTHW[k, t]), atol=1)
            else:
                assert not targets.boxes_KT4[k, t].any() and not targets.masks_KTHW[k, t].any()


def _placed(*corners):
    """A single frame of bright 10x12 rectangles at (x, y)."""
    masks = torch.zeros(len(corners), 1, *SIZE, dtype=torch.bool)
    for k, (x, y) in enumerate(corners):
        masks[k, 0, y: y + 10, x: x + 12] = True
    frames = (masks.any(dim=0)[:, None].expand(-1, 3, -1, -1) * 200).to(torch.uint8)
    boxes = torch.tensor([[[x, y, x + 12.0, y + 10.0]] for x, y in corners])
    count = len(corners)
    labels, present = torch.arange(count), torch.ones(count, 1, dtype=torch.bool)
    return frames, ClipTargets(labels + 5, labels, present, boxes, masks)


def test_a_crop_scales_what_it_holds_and_forgets_the_rest():
    frames, targets = _placed((2, 2), (26, 14), (20, 4))
    cropped, kept = crop(frames, targets, (0, 0, 16, 24), SIZE)  # the upper left quarter, twice as large
    assert kept.track_ids_K.tolist() == [5, 7] and kept.labels_K.tolist() == [0, 2]
    assert cropped.shape == frames.shape and cropped.dtype == torch.uint8
    np.testing.assert_allclose(kept.boxes_KT4[:, 0].tolist(), [[4, 4, 28, 24], [40, 8, 48, 28]], atol=1)
    _assert_consistent(kept)
    bright = cropped[0, 0] >= 100
    assert (bright == kept.masks_KTHW.any(dim=0)[0]).float().mean() > 0.99


def test_a_crop_makes_an_instance_absent_in_the_frames_it_leaves():
    (first, a), (second, b) = _placed((2, 2)), _placed((30, 20))
    both = ClipTargets(a.track_ids_K, a.labels_K, torch.ones(1, 2, dtype=torch.bool),
                       torch.cat((a.boxes_KT4, b.boxes_KT4), dim=1), torch.cat((a.masks_KTHW, b.masks_KTHW), dim=1))
    _, kept = crop(torch.cat((first, second)), both, (0, 0, 16, 24), SIZE)
    assert kept.present_KT.tolist() == [[True, False]]
    _assert_consistent(kept)


def test_a_crop_of_nothing_and_one_without_any_instance_left():
    frames, targets = _placed((2, 2))
    cropped, kept = crop(frames, targets, (16, 24, 16, 24), SIZE)
    assert len(kept) == 0 and kept.masks_KTHW.shape == (0, 1, *SIZE) and kept.boxes_KT4.shape == (0, 1, 4)
    again, still = crop(cropped, kept, (0, 0, 16, 24), SIZE)
    assert len(still) == 0 and again.shape == frames.shape
    whole, same = crop(frames, targets, (0, 0, *SIZE), SIZE)
    assert torch.equal(whole, frames) and torch.equal(same.boxes_KT4, targets.boxes_KT4)


def test_absent_instances_stay_absent_in_a_crop():
    frames, targets = rectangles([1, 2], 3, np.random.default_rng(0), absent=True)
    _, kept = crop(frames, targets, (1, 1, 30, 46), SIZE)
    assert kept.present_KT.tolist() == targets.present_KT.tolist()
    _assert_consistent(kept)


def test_windows_lie_in_the_frame_and_keep_their_share():
    rng = np.random.default_rng(0)
    windows = [draw_window(rng, SIZE, (0.5, 0.75)) for _ in range(400)]
    whole = [w for w in windows if w == (0, 0, *SIZE)]
    assert 150 < len(whole) < 250
    for top, left, height, width in set(windows) - set(whole):
        assert 16 <= height <= 24 and 24 <= width <= 36
        assert 0 <= top <= 32 - height and 0 <= left <= 48 - width
    assert {w[2] for w in windows} >= {16, 20, 24} and max(w[1] for w in windows) > 15


def test_mirrored_twice_is_as_before():
    frames, targets = rectangles([1, 2], 3, np.random.default_rng(0), absent=True)
    once_frames, once = mirror(frames, targets)
    _assert_consistent(once)
    twice_frames, twice = mirror(once_frames, once)
    assert torch.equal(twice_frames, frames) and not torch.equal(once_frames, frames)
    assert torch.equal(twice.boxes_KT4, targets.boxes_KT4) and torch.equal(twice.masks_KTHW, targets.masks_KTHW)


def test_the_papers_sizes():
    sizes = [scaled((360, 640), scale) for scale in TrainConfig().scales]
    assert sizes[0] == (360, 640) and sizes[-1] == (480, 853) and len(set(sizes)) == 6
    assert all(360 <= height <= 480 and 640 <= width <= 960 for height, width in sizes)


def test_multi_scale_draws_one_size_per_step_for_the_same_clips(index):
    plain, scaled = clip_pairs(index, flip=True), clip_pairs(index, flip=True, augmentation="multi-scale", scales=(0.5, 1, 1.5))
    seen = set()
    for step in range(12):
        a, b = plain.batch(step), scaled.batch(step)
        size = tuple(b.frames[0].shape[-2:])
        seen.add(size)
        assert b.videos == a.videos and tuple(b.frames[1].shape[-2:]) == size
        for before, after in zip(a.targets[0] + a.targets[1], b.targets[0] + b.targets[1], strict=True):
            assert torch.equal(before.present_KT, after.present_KT) and after.masks_KTHW.shape[-2:] == size
            torch.testing.assert_close(before.boxes_KT4 * (size[0] / 32), after.boxes_KT4)
        if size == SIZE:
            assert torch.equal(a.frames[0], b.frames[0])
    assert seen == {(16, 24), (32, 48), (48, 72)}
    assert scaled.batch(3).frames[0].shape == clip_pairs(
        index, augmentation="multi-scale", scales=(0.5, 1, 1.5)).batch(3).frames[0].shape


def test_random_crop_cuts_the_same_window_out_of_both_clips(index, monkeypatch):
    plain = clip_pairs(index, batch_size=1)
    cropping = clip_pairs(index, batch_size=1, augmentation="random-crop", crop_share=(0.5, 0.8))
    windows = []
    monkeypatch.setattr("effvis.data.clips.draw_window", lambda *given: windows.append(draw_window(*given)) or windows[-1])
    for step in range(10):
        a, b = plain.batch(step), cropping.batch(step)
        assert a.videos == b.videos and len(windows) == step + 1
        for c in (0, 1):
            frames, targets = crop(a.frames[c][0], a.targets[c][0], windows[step], SIZE)
            assert torch.equal(frames, b.frames[c][0]) and torch.equal(targets.boxes_KT4, b.targets[c][0].boxes_KT4)
            assert torch.equal(targets.track_ids_K, b.targets[c][0].track_ids_K)
            _assert_consistent(b.targets[c][0])
    assert len(set(windows)) > 3 and (0, 0, *SIZE) in windows


def test_without_augmentation_its_settings_change_nothing(index):
    plain, other = clip_pairs(index), clip_pairs(index, scales=(0.5, 2), crop_share=(0.1, 0.2))
    for step in range(4):
        a, b = plain.batch(step), other.batch(step)
        assert all(torch.equal(x, y) for x, y in zip(a.frames, b.frames, strict=True))


def test_each_factor_does_what_its_name_says():
    torch.manual_seed(0)
    frames = torch.randint(60, 120, (2, 3, 8, 9), dtype=torch.uint8)
    darker, flatter, greyer = (recolour(frames, factors).float() for factors in ((0.5, 1, 1), (1, 0.5, 1), (1, 1, 0)))
    assert torch.equal(recolour(frames, (1, 1, 1)), frames) and recolour(frames, (9, 1, 1)).max() == 255
    torch.testing.assert_close(darker, frames / 2, atol=0.5, rtol=0)
    # Half the contrast halves the distances between the pixels of a frame, around its own mean.
    distances, before = (x - x.mean(dim=(-2, -1), keepdim=True) for x in (flatter, frames.float()))
    torch.testing.assert_close(distances, before / 2, atol=1, rtol=0)
    # The grey of ITU-R BT.601, which Pillow's mode L has, too.
    for frame, grey in zip(frames, greyer, strict=True):
        pillow = np.asarray(Image.fromarray(frame.permute(1, 2, 0).numpy()).convert("L"), np.int16)
        assert all(np.abs(channel.numpy() - pillow).max() <= 1 for channel in grey)


def test_factors_are_within_their_strength():
    rng = np.random.default_rng(0)
    factors = np.array([draw_factors(rng, 0.3) for _ in range(300)])
    assert 0.7 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3
    assert np.abs(np.corrcoef(factors.T) - np.eye(3)).max() < 0.2


def test_colours_change_alike_in_all_frames_of_a_pair_and_nothing_else(index, monkeypatch):
    settings = dict(flip=True, augmentation="random-crop", crop_share=(0.5, 0.8))
    plain, coloured = clip_pairs(index, **settings), clip_pairs(index, **settings, colour=0.4)
    drawn = []
    monkeypatch.setattr("effvis.data.clips.draw_factors", lambda *given: drawn.append(draw_factors(*given)) or drawn[-1])
    for step in range(4):
        a, b = plain.batch(step), coloured.batch(step)
        for clip in (0, 1):
            for pair, factors in enumerate(drawn[2 * step:]):
                assert torch.equal(recolour(a.frames[clip][pair], factors), b.frames[clip][pair])
            for before, after in zip(a.targets[clip], b.targets[clip], strict=True):
                assert all(torch.equal(getattr(before, name), getattr(after, name))
                           for name in ("track_ids_K", "boxes_KT4", "masks_KTHW", "present_KT"))
    assert len(set(drawn)) == 8
    again = clip_pairs(index, **settings, colour=0.4).batch(3)
    assert all(torch.equal(x, y) for x, y in zip(again.frames, b.frames, strict=True))
