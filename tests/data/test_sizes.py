"""Frames that keep their ratio: the rule, and videos of different ratios in one batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.builders import clip_pairs
from support.mixed import KEPT, RULE, SIZES, mixed_index

from effvis.config import Config, build
from effvis.data.augment import crop
from effvis.data.clips import FrameReader
from effvis.data.sizes import InputSize, KeptRatio, frame_size, scaled, widest, written
from effvis.data.targets import stack_targets
from effvis.errors import UserError

PAPER = KeptRatio(shorter=360, longer=640)


class Some(Config):
    input_size: InputSize


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return mixed_index(tmp_path_factory.mktemp("mixed"))


def rescale_size(width, height, long_edge, short_edge):
    """mmdetection's rule, with its (width, height)."""
    scale_factor = min(long_edge / max(height, width), short_edge / min(height, width))
    return int(width * float(scale_factor) + 0.5), int(height * float(scale_factor) + 0.5)


@pytest.mark.parametrize("video, frame", [
    ((1280, 720), (640, 360)), ((720, 1280), (360, 640)), ((640, 480), (480, 360)), ((1000, 300), (640, 192)),
    ((300, 1000), (192, 640)), ((720, 720), (360, 360)), ((320, 180), (640, 360)), ((1920, 1078), (640, 359)),
    ((1000, 417), (640, 267)),
], ids=lambda size: "x".join(map(str, size)))
def test_sizes_by_hand(video, frame):
    """Width first, as people write it."""
    assert frame_size(PAPER, video[1], video[0]) == frame[::-1]
    assert rescale_size(*video, 640, 360) == frame


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([(360, 640), (300, 540), (480, 853), (7, 9)]))
def test_the_rule_is_mmdetections_and_changes_no_frame_twice(height, width, bounds):
    rule = KeptRatio(shorter=bounds[0], longer=bounds[1])
    found = frame_size(rule, height, width)
    expected = rescale_size(width, height, bounds[1], bounds[0])
    assert found == (max(1, expected[1]), max(1, expected[0]))
    assert min(found) <= bounds[0] and max(found) <= bounds[1] and frame_size(rule, *found) == found


def test_a_pair_is_the_size_of_every_video():
    assert frame_size((64, 96), 720, 1280) == frame_size((64, 96), 1280, 720) == (64, 96)
    assert widest((64, 96)) == (64, 96) and widest(PAPER) == (360, 640)


def test_both_bounds_are_scaled():
    assert scaled(PAPER, 4 / 3) == KeptRatio(shorter=480, longer=853)
    assert frame_size(scaled(PAPER, 4 / 3), 720, 1280) == scaled((360, 640), 4 / 3) == (480, 853)
    assert frame_size(scaled(PAPER, 4 / 3), 1280, 720) == (853, 480)


@pytest.mark.parametrize("value", [[64, 96], {"shorter": 360, "longer": 640}])
def test_both_forms_are_written_as_they_are_read(value):
    some = build(Some, {"input_size": value}, where="params.yaml")
    assert some.model_dump(mode="json") == {"input_size": value} and written(some.input_size) == value
    assert Some(**some.model_dump()) == some


@pytest.mark.parametrize("value, key", [
    ([64], "input_size.1"), ([64, 0], "input_size.1"), (7, "input_size"), ({"shorter": 360}, "input_size.longer"),
    ({"shorter": 360, "longer": -1}, "input_size.longer"), ({"shorter": 1, "longer": 2, "height": 3}, "input_size.height"),
])
def test_a_wrong_size_is_named(value, key):
    with pytest.raises(UserError, match=f"params.yaml.*{key}"):
        build(Some, {"input_size": value}, where="params.yaml")


def test_each_video_has_its_own_size_and_the_cache_counts_bytes(index):
    room = sum(3 * height * width for height, width in KEPT)
    reader = FrameReader(index, RULE, cache_bytes=room)
    for again in range(2):
        for p, size in enumerate(KEPT):
            for v in (2 * p, 2 * p + 1):
                assert reader.size(v) == size and reader.clip(v, [0]).shape == (1, 3, *size)
        assert set(reader._cache) == {(0, 0), (1, 0), (4, 0)}, again
    alone = Image.open(index.images / index.videos[2].file_names[3])
    alone.draft("RGB", (32, 48))
    expected = np.asarray(alone.convert("RGB").resize((32, 48), Image.Resampling.BILINEAR))
    assert np.array_equal(reader.clip(2, [3])[0].permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("changes", [
    {}, {"flip": True}, {"augmentation": "multi-scale", "scales": (1, 1.5)},
    {"augmentation": "random-crop", "crop_share": (0.5, 0.8)}], ids=["plain", "flip", "multi-scale", "random-crop"])
def test_a_batch_holds_each_clip_as_it_is_alone(index, changes):
    """The other clips of a step only add padding, of zeros and without masks."""
    pairs = clip_pairs(index, input_size=RULE, batch_size=6, **changes)
    together = 0
    for step in range(4):
        batch = pairs.batch(step)
        sizes = [clip.size for clip in batch.targets[0]]
        together += len(set(sizes)) > 1
        for place in (0, 1):
            assert [clip.size for clip in batch.targets[place]] == sizes
            masks = stack_targets(batch.targets[place]).masks_BKTHW
            assert masks.shape[-2:] == batch.frames[place].shape[-2:] == tuple(map(max, zip(*sizes, strict=True)))
            for b, (height, width) in enumerate(sizes):
                alone = pairs.batch(step, b, 6)
                assert torch.equal(batch.frames[place][b, ..., :height, :width], alone.frames[place][0])
                own, expected = batch.targets[place][b], alone.targets[place][0]
                assert torch.equal(own.boxes_KT4, expected.boxes_KT4) and torch.equal(own.masks_KTHW, expected.masks_KTHW)
                assert torch.equal(masks[b, : len(own), :, :height, :width], own.masks_KTHW)
                for beyond in (batch.frames[place][b], masks[b]):
                    assert not beyond[..., height:, :].any() and not beyond[..., width:].any()
    assert together == 4
    if changes in ({}, {"flip": True}):
        assert sorted(sizes) == sorted(2 * KEPT)


def test_boxes_and_masks_of_an_upright_video_are_halved_as_it_is(index):
    batch = clip_pairs(index, input_size=RULE, batch_size=6, clip_length=7).batch(0)
    whole = clip_pairs(index, input_size=KeptRatio(shorter=64, longer=96), batch_size=6, clip_length=7).batch(0)
    assert batch.videos == whole.videos
    for b, video in enumerate(batch.videos):
        small, full = batch.targets[0][b], whole.targets[0][b]
        assert full.size == SIZES[video // 2] and small.size == KEPT[video // 2]
        torch.testing.assert_close(small.boxes_KT4 * 2, full.boxes_KT4)
        assert small.masks_KTHW.sum().item() == pytest.approx(full.masks_KTHW.sum().item() / 4, rel=0.15)


def test_where_all_ratios_are_that_of_the_size_the_rule_changes_nothing(drawn_index):
    """32x48 frames at 16x24, drawn and cut and mirrored in the same way."""
    for changes in ({"flip": True}, {"augmentation": "multi-scale", "scales": (1, 1.5)}):
        fixed, kept = (clip_pairs(drawn_index, input_size=size, **changes) for size in (
            (16, 24), KeptRatio(shorter=16, longer=24)))
        for step in range(4):
            a, b = fixed.batch(step), kept.batch(step)
            assert all(torch.equal(x, y) for x, y in zip(a.frames, b.frames, strict=True))
            for x, y in zip(a.targets[0], b.targets[0], strict=True):
                assert torch.equal(x.boxes_KT4, y.boxes_KT4) and torch.equal(x.masks_KTHW, y.masks_KTHW)


def test_a_window_keeps_its_ratio(index):
    batch = clip_pairs(index, input_size=RULE, batch_size=1).batch(0)
    frames, targets = batch.frames[0][0], batch.targets[0][0]
    cropped, kept = crop(frames, targets, (0, 0, 20, 15), RULE)
    assert cropped.shape[-2:] == kept.size == (43, 32)
    assert crop(frames, targets, (0, 0, 20, 15), targets.size)[1].size == targets.size
