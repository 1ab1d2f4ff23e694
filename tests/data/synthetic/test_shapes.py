"""The drawn data set: the same config gives the same bytes, the truth is what is visible, and every strength has its effect."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from effvis.config import build
from effvis.data.synthetic import outlines, shapes
from effvis.data.synthetic.degradation import LOSSES, SENSOR_NOISE, degrade, draw_losses
from effvis.data.synthetic.hardships import measure
from effvis.data.synthetic.shapes import DrawnVideo, ShapesConfig
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError

SMALL = dict(train_videos=3, val_videos=2, frames=5)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_same_bytes_twice_and_with_processes(tmp_path):
    config = ShapesConfig(**SMALL | dict(train_videos=21, frames=2))
    shapes.write(config, tmp_path / "alone", workers=1)
    shapes.write(config, tmp_path / "shared", workers=2)
    once, again = files_of(tmp_path / "alone"), files_of(tmp_path / "shared")
    assert len(once) == 23 * 2 + 2 + 1
    assert once == again


def test_another_seed_and_the_other_split_draw_something_else():
    config = ShapesConfig(**SMALL)
    frames = shapes.draw_video(config, "train", 0).frames_LHW3
    for other in (shapes.draw_video(config, "val", 0), shapes.draw_video(config, "train", 1),
                  shapes.draw_video(config.model_copy(update={"seed": 1}), "train", 0)):
        assert not np.array_equal(frames, other.frames_LHW3)


def test_more_videos_change_none_of_the_earlier(tmp_path):
    shapes.write(ShapesConfig(**SMALL), tmp_path / "few")
    shapes.write(ShapesConfig(**SMALL | dict(train_videos=5, val_videos=4)), tmp_path / "more")
    few, more = files_of(tmp_path / "few"), files_of(tmp_path / "more")
    frames = [name for name in few if name.endswith(".jpg")]
    assert len(frames) == 25 and all(few[name] == more[name] for name in frames)
    for split in ("train", "val"):
        before, after = (json.loads(found[f"{split}/instances.json"]) for found in (few, more))
        for key in ("videos", "annotations"):
            assert after[key][:len(before[key])] == before[key] and len(after[key]) > len(before[key])


def test_a_test_split_changes_no_byte_of_the_others(tmp_path):
    """Without test videos everything is as before there were any: these digests were taken at that time."""
    shapes.write(ShapesConfig(**SMALL), tmp_path / "two")
    shapes.write(ShapesConfig(**SMALL, test_videos=2), tmp_path / "three")
    two, three = files_of(tmp_path / "two"), files_of(tmp_path / "three")
    annotations = [hashlib.sha256(two[f"{split}/instances.json"]).hexdigest()[:16] for split in ("train", "val")]
    assert annotations == ["6f8b11b5df1d1a05", "7fb02873074bcbdd"]
    assert hashlib.sha256(two[shapes.STAMP]).hexdigest()[:16] == "9363e44ef00e4df1"
    added = {name for name in three if name.startswith("test/")}
    assert len(added) == 2 * 5 + 1 and {name: three[name] for name in three.keys() - added - {shapes.STAMP}} == {
        name: two[name] for name in two.keys() - {shapes.STAMP}}
    assert json.loads(three[shapes.STAMP])["config"].pop("test_videos") == 2
    assert not {three[name] for name in added} & set(two.values()), "its videos are its own"
    assert shapes.is_written(ShapesConfig(**SMALL, test_videos=2), tmp_path / "three")
    assert not shapes.is_written(ShapesConfig(**SMALL), tmp_path / "three")


def test_what_is_written_can_be_read_and_is_what_was_drawn(tmp_path):
    config = ShapesConfig(**SMALL, exits=1.0, categories=("star", "ring"))
    shapes.write(config, tmp_path / "drawn")
    index = read_split(tmp_path / "drawn" / "train")
    assert [category.name for category in index.categories] == ["star", "ring"]
    assert [(v.id, v.height, v.width, v.fps, v.length) for v in index.videos] == [(i, 64, 96, 6.0, 5) for i in (1, 2, 3)]
    for number in range(len(index.videos)):
        drawn = shapes.draw_video(config, "train", number).tracks
        tracks = index.tracks_of(number)
        assert [track.label for track in tracks] == [own.label for own in drawn]
        for track, own in zip(tracks, drawn, strict=True):
            pixels_L = own.visible_LHW.sum(axis=(1, 2))
            expected_L = np.where(pixels_L >= shapes.MIN_VISIBLE_PIXELS, pixels_L, 0)
            np.testing.assert_array_equal(track.areas_L, expected_L)


def videos_of(number: int = 12, **changes) -> list[DrawnVideo]:
    config = ShapesConfig(**changes)
    return [shapes.draw_video(config, "train", index) for index in range(number)]


def test_instances_never_share_a_pixel_and_hide_only_what_is_behind_them():
    for video in videos_of(5, occlusion=1.0, occluders=0.0):
        assert np.sum([track.visible_LHW for track in video.tracks], axis=0).max() == 1
        for track in video.tracks:
            assert not (track.visible_LHW & ~track.solid_LHW).any()
        # Without bars, every covered pixel is visible as part of one of the instances.
        every = (np.any([getattr(track, name) for track in video.tracks], axis=0) for name in ("solid_LHW", "visible_LHW"))
        assert np.mean(np.subtract(*every, dtype=int)) < 0.001  # some are lost under shapes too small to be instances


def test_bars_hide_instances_and_are_none():
    for without, barred in zip(videos_of(occluders=0.0), videos_of(occluders=1.0), strict=True):
        for before, after in zip(without.tracks, barred.tracks, strict=False):
            np.testing.assert_array_equal(before.solid_LHW, after.solid_LHW)
            assert not (after.visible_LHW & ~before.visible_LHW).any()
    before, after = measure(videos_of(occluders=0.0)), measure(videos_of(occluders=1.0))
    assert after["instances"] <= before["instances"] and after["wholly hidden"] > before["wholly hidden"] + 0.03


def test_a_degraded_frame_keeps_its_truth_and_its_neighbours():
    """Strength changes single frames only, and in them only the surroundings of the shapes that it names."""
    calm = dict(grain=0.0)
    for clean, hard in zip(videos_of(degradation=0.0, **calm), videos_of(degradation=1.0, **calm), strict=True):
        degraded_NL = np.array([track.degraded_L for track in hard.tracks])
        assert degraded_NL.any() and not (degraded_NL[:, 1:] & degraded_NL[:, :-1]).any()
        for before, after in zip(clean.tracks, hard.tracks, strict=True):
            np.testing.assert_array_equal(before.visible_LHW, after.visible_LHW)
            differs_LHW = (clean.frames_LHW3 != hard.frames_LHW3).any(axis=-1)
            shown_L = after.visible_LHW.sum(axis=(1, 2)) > 50
            for frame in np.flatnonzero(after.degraded_L & shown_L):
                assert differs_LHW[frame][after.visible_LHW[frame]].mean() > 0.9
        untouched_L = ~degraded_NL.any(axis=0) & ~differs_LHW.any(axis=(1, 2))
        assert untouched_L.any()


@pytest.mark.parametrize("kind", range(len(LOSSES)))
def test_what_tells_two_categories_apart_is_mostly_lost(kind):
    """Less than half of the difference between a square and a star is left, and noise covers it."""
    down, across = (np.mgrid[:40, :40] - 19.5) / 14
    clean, lost = [], []
    for name in ("square", "star"):
        inside = outlines.OUTLINES[name](across, down) < 0
        clean.append(np.where(inside[..., None], [0.9, 0.3, 0.2], 0.2))
        lost.append(clean[-1][None].copy())
        degrade(np.random.default_rng(0), lost[-1], np.ones((1, 40, 40)), np.array([kind]), 14)
    assert 0 < np.std(lost[0] - lost[1]) < 0.5 * np.std(clean[0] - clean[1])
    assert np.std(lost[0][0, :4] - lost[0][0, :4].mean(axis=(0, 1))) > 0.5 * SENSOR_NOISE  # in a plain part of the picture


def test_losses_of_one_shape_are_never_next_to_each_other():
    losses = draw_losses(np.random.default_rng(0), 4, 200, 1.0)
    assert not (losses.degraded_NL[:, 1:] & losses.degraded_NL[:, :-1]).any()
    assert 0.15 < losses.whole_L.mean() < 0.35 and 0.3 < losses.degraded_NL.mean() <= 0.5


def test_twins_look_alike_and_cross():
    for video in videos_of(twins=1.0, exits=0.0):
        pair = [track for track in video.tracks if track.twin]
        assert len(pair) == 2 and pair[0].label == pair[1].label
        assert (pair[0].solid_LHW & pair[1].solid_LHW).any()
    # Side by side in a calm video, they have one colour; two other instances do not.
    plain = dict(appearance_change=0.0, texture=0.0, clutter=0.0, degradation=0.0, grain=0.0, occluders=0.0, exits=0.0)
    apart = {twins: [_colour_distance(video) for video in videos_of(
        twins=twins, min_objects=2, max_objects=2, occlusion=0.0, **plain) if len(video.tracks) == 2] for twins in (0.0, 1.0)}
    assert max(apart[1.0]) < 30 < min(apart[0.0])


def _colour_distance(video: DrawnVideo) -> float:
    """The distance between the two instances, in 256 steps, by their medians over all visible pixels."""
    first, second = (np.median(video.frames_LHW3[track.visible_LHW], axis=0) for track in video.tracks)
    return float(np.linalg.norm(first - second))


def test_some_categories_differ_in_one_part_alone():
    down, across = np.mgrid[-1:1:41j, -1:1:41j]
    inside = {name: outline(across, down) < 0 for name, outline in outlines.OUTLINES.items()}
    for whole, lacking in (("circle", "pacman"), ("cross", "tee")):
        assert not (inside[lacking] & ~inside[whole]).any()
        missing = inside[whole] & ~inside[lacking]
        assert 0.1 < missing.sum() / inside[whole].sum() < 0.3
        assert all(np.ptp(axis) < 25 for axis in np.nonzero(missing))  # of 41, so they lie on one side
    areas = {name: mask.sum() for name, mask in inside.items()}
    assert max(areas.values()) < 2.1 * min(areas.values()), areas


def test_colour_does_not_tell_the_category():
    """The hue of a category's instances is spread over the whole circle."""
    config = ShapesConfig(frames=1, appearance_change=0, texture=0, clutter=0, degradation=0, grain=0, occluders=0)
    by_label: dict[int, list[int]] = {}
    for number in range(80):
        video = shapes.draw_video(config, "train", number)
        for track in video.tracks:
            red, green, blue = np.median(video.frames_LHW3[0][track.visible_LHW[0]], axis=0)
            by_label.setdefault(track.label, []).append(int(np.argmax((red, green, blue))))
    assert len(by_label) == len(config.categories)
    for label, strongest in by_label.items():
        shares = np.bincount(strongest, minlength=3) / len(strongest)
        assert shares.min() > 0.1, (label, shares)


def _motion(videos) -> float:
    return measure(videos)["motion"]


def _partly_hidden(videos) -> float:
    return measure(videos)["partly hidden"]


def _returning(videos) -> float:
    return measure(videos)["instances that are absent for a while and return"]


def _size_change(videos) -> float:
    areas = [track.visible_LHW.sum(axis=(1, 2)) for video in videos for track in video.tracks]
    return float(np.mean([area.std() / area.mean() for area in areas]))


def _colour_change(videos) -> float:
    """The change of a shape's colour from one frame to the next."""
    changes = []
    for video in videos:
        for track in video.tracks:
            colours = [np.median(frame[seen], axis=0) for frame, seen in zip(video.frames_LHW3, track.visible_LHW, strict=True)
                       if seen.sum() > 50]
            changes += [np.linalg.norm(step) for step in np.diff(colours, axis=0)]
    return float(np.mean(changes))


def _background_contrast(videos) -> float:
    return float(np.mean([video.frames_LHW3.min(axis=0).std() for video in videos]))


def _flicker(videos) -> float:
    """Change of the corners from frame to frame, where shapes seldom are."""
    return float(np.mean([np.abs(np.diff(video.frames_LHW3[:, :6, :6].astype(float), axis=0)).mean() for video in videos]))


def _surface_contrast(videos) -> float:
    return float(np.mean([video.frames_LHW3[0][track.visible_LHW[0]].max(axis=-1).std()
                          for video in videos for track in video.tracks if track.visible_LHW[0].sum() > 50]))


PLAIN = dict(exits=0.0, occlusion=0.0, occluders=0.0, twins=0.0, degradation=0.0, grain=0.0, appearance_change=0.0)


@pytest.mark.parametrize(("strength", "measured"), [
    ("speed", _motion),
    ("exits", _returning),
    ("occlusion", _partly_hidden),
    ("occluders", _partly_hidden),
    ("twins", _partly_hidden),
    ("appearance_change", _size_change),
    ("appearance_change", _colour_change),
    ("degradation", _colour_change),
    ("grain", _flicker),
    ("clutter", _background_contrast),
    ("texture", _surface_contrast),
])
def test_each_strength_does_what_it_says(strength, measured):
    without, full = (measured(videos_of(**PLAIN | {strength: value})) for value in (0.0, 1.0))
    assert full > 1.05 * without + 1e-3, (without, full)


def test_measured_hardships_are_those_of_a_video_made_by_hand():
    """Two twins have one row each: the first stands still and is gone for a frame, the second loses half of its pixels."""
    solid_LHW = np.zeros((4, 10, 20), bool)
    solid_LHW[:, 2] = True
    visible_LHW = solid_LHW.copy()
    visible_LHW[1] = False
    half_LHW = solid_LHW.copy()
    half_LHW[2, :, :8] = False
    walk_L2 = np.stack([np.arange(4) * 5.0, np.zeros(4)], axis=-1)
    here = dict(label=0, solid_LHW=solid_LHW, twin=True)
    tracks = [
        shapes.DrawnTrack(**here, visible_LHW=visible_LHW, centre_L2=np.zeros((4, 2)), degraded_L=np.array([1, 0, 0, 0], bool)),
        shapes.DrawnTrack(**here, visible_LHW=half_LHW, centre_L2=walk_L2, degraded_L=np.array([1, 0, 1, 0], bool))]
    assert measure([DrawnVideo(np.zeros((4, 10, 20, 3), np.uint8), tracks)]) == {
        "videos": 1, "instances": 2, "degraded": 3 / 8, "partly hidden": 1 / 8, "wholly hidden": 1 / 8,
        "instances that are absent for a while and return": 0.5, "videos with twins": 1.0,
        "videos with twins that touch": 1.0, "motion": 2.5, "fast": 0.5}


@pytest.mark.parametrize(("values", "key"), [
    ({"occlusion": 1.5}, "shapes.occlusion"),
    ({"frames": "many"}, "shapes.frames"),
    ({"colour": "red"}, "shapes.colour"),
    ({"categories": ["circle", "dodecahedron"]}, "dodecahedron|categories must be distinct names"),
    ({"min_objects": 5}, "min_objects 5 exceeds max_objects 4"),
    ({"min_radius": 20}, "min_radius 20.0 exceeds max_radius 15.0"),
    ({"max_radius": 40}, "does not fit into 64x96"),
])
def test_a_wrong_setting_is_named(values, key):
    with pytest.raises(UserError, match=key):
        build(ShapesConfig, values, where="params.yaml", prefix="shapes")
    with pytest.raises(ValidationError):
        ShapesConfig(**values)


def test_a_failed_write_leaves_the_old_data_set_alone(tmp_path):
    shapes.write(ShapesConfig(**SMALL), tmp_path / "drawn")
    before = files_of(tmp_path / "drawn")

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapes.write(ShapesConfig(**SMALL, seed=1), tmp_path / "drawn", stop)
    assert files_of(tmp_path / "drawn") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["drawn"]


def test_the_stamp_believes_only_the_same_config(tmp_path):
    config = ShapesConfig(**SMALL)
    assert not shapes.is_written(config, tmp_path / "drawn")
    shapes.write(config, tmp_path / "drawn")
    assert shapes.is_written(config, tmp_path / "drawn")
    assert not shapes.is_written(config.model_copy(update={"seed": 1}), tmp_path / "drawn")
    (tmp_path / "drawn" / shapes.STAMP).write_text("{")
    assert not shapes.is_written(config, tmp_path / "drawn")


def test_the_command_prints_what_occurs_and_draws_the_first_videos(tmp_path, capsys):
    from PIL import Image

    from pipeline.hardships import main

    few = ["-S", "shapes.val_videos=2", "-S", "shapes.frames=4", "-S", "shapes.degradation=0"]
    assert main([*few, "--out", str(tmp_path), "--pictures", "1"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "videos 2 instances" in printed and "degraded 0.00 " in printed and str(tmp_path / "1.jpg") in printed
    with Image.open(tmp_path / "1.jpg") as picture:
        assert picture.width >= 4 * 96 and picture.height >= 2 * 64
    assert [path.name for path in tmp_path.iterdir()] == ["1.jpg"]
    with pytest.raises(UserError, match="params.yaml: shapes.test_videos: is 0"):
        main([*few, "-S", "shapes.test_videos=0", "--split", "test"])
    assert main([*few, "-S", "shapes.test_videos=3", "--split", "test"]) == 0
    assert "videos 3 instances" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit, match="2"):
        main([*few, "--pictures", "0"])
    assert "--pictures: 0 is not" in capsys.readouterr().err
