"""The drawn data set: the same bytes for the same config, and every strength does what it says."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from effvis.config import build
from effvis.data import shapes
from effvis.data.shapes import ShapesConfig
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
    frames, _ = shapes.draw_video(config, "train", 0)
    for other in (shapes.draw_video(config, "val", 0), shapes.draw_video(config, "train", 1),
                  shapes.draw_video(config.model_copy(update={"seed": 1}), "train", 0)):
        assert not np.array_equal(frames, other[0])


def test_more_videos_change_none_of_the_earlier(tmp_path):
    shapes.write(ShapesConfig(**SMALL), tmp_path / "few")
    shapes.write(ShapesConfig(**SMALL | dict(train_videos=5, val_videos=4)), tmp_path / "more")
    few, more = files_of(tmp_path / "few"), files_of(tmp_path / "more")
    frames = [name for name in few if name.endswith(".jpg")]
    assert len(frames) == 25 and all(few[name] == more[name] for name in frames)
    for split in shapes.SPLITS:
        before, after = (json.loads(found[f"{split}/instances.json"]) for found in (few, more))
        for key in ("videos", "annotations"):
            assert after[key][:len(before[key])] == before[key] and len(after[key]) > len(before[key])


def test_what_is_written_can_be_read_and_is_what_was_drawn(tmp_path):
    config = ShapesConfig(**SMALL, exits=1.0, categories=("star", "ring"))
    shapes.write(config, tmp_path / "drawn")
    index = read_split(tmp_path / "drawn" / "train")
    assert [category.name for category in index.categories] == ["star", "ring"]
    assert [(v.id, v.height, v.width, v.fps, v.length) for v in index.videos] == [(i, 64, 96, 6.0, 5) for i in (1, 2, 3)]
    for number in range(len(index.videos)):
        _, drawn = shapes.draw_video(config, "train", number)
        tracks = index.tracks_of(number)
        assert [track.label for track in tracks] == [label for label, _ in drawn]
        for track, (_, visible_LHW) in zip(tracks, drawn, strict=True):
            pixels_L = visible_LHW.sum(axis=(1, 2))
            expected_L = np.where(pixels_L >= shapes.MIN_VISIBLE_PIXELS, pixels_L, 0)
            np.testing.assert_array_equal(track.areas_L, expected_L)


def test_instances_never_share_a_pixel():
    config = ShapesConfig(**SMALL, occlusion=1.0)
    for number in range(5):
        _, tracks = shapes.draw_video(config, "train", number)
        assert np.sum([visible for _, visible in tracks], axis=0).max() == 1


def test_colour_does_not_tell_the_category():
    """The hue of a category's instances is spread over the whole circle."""
    config = ShapesConfig(frames=1, appearance_change=0, texture=0, blur=0, clutter=0)
    by_label: dict[int, list[int]] = {}
    for number in range(60):
        frames, tracks = shapes.draw_video(config, "train", number)
        for label, visible in tracks:
            red, green, blue = np.median(frames[0][visible[0]], axis=0)
            by_label.setdefault(label, []).append(int(np.argmax((red, green, blue))))
    for label, strongest in by_label.items():
        shares = np.bincount(strongest, minlength=3) / len(strongest)
        assert shares.min() > 0.1, (label, shares)


def _videos(**changes):
    config = ShapesConfig(frames=24, **changes)
    return [shapes.draw_video(config, "train", number) for number in range(8)]


def _movement(videos) -> float:
    """Pixels per frame by which the middle of a visible mask moves, on average."""
    steps = []
    for _, tracks in videos:
        for _, visible_LHW in tracks:
            middles = [np.argwhere(seen).mean(axis=0) for seen in visible_LHW if seen.sum() > 50]
            steps += [np.hypot(*step) for step in np.diff(middles, axis=0)]
    return float(np.mean(steps))


def _absence(videos) -> float:
    return float(np.mean([(seen.sum(axis=(1, 2)) < shapes.MIN_VISIBLE_PIXELS) for _, tracks in videos for _, seen in tracks]))


def _size_change(videos) -> float:
    areas = [seen.sum(axis=(1, 2)) for _, tracks in videos for _, seen in tracks]
    return float(np.mean([area.std() / area.mean() for area in areas]))


def _background_contrast(videos) -> float:
    return float(np.mean([frames.min(axis=0).std() for frames, _ in videos]))


def _sharpness(videos) -> float:
    return float(np.mean([np.square(np.diff(frames.astype(float), axis=2)).mean() for frames, _ in videos]))


def _surface_contrast(videos) -> float:
    return float(np.mean([frames[0][seen[0]].max(axis=-1).std() for frames, tracks in videos for _, seen in tracks
                          if seen[0].sum() > 50]))


@pytest.mark.parametrize(("strength", "measure", "sign", "calm"), [
    ("speed", _movement, 1, {}),
    ("exits", _absence, 1, {}),
    ("occlusion", _size_change, 1, dict(exits=0.0, appearance_change=0.0)),
    ("appearance_change", _size_change, 1, dict(exits=0.0, occlusion=0.0)),
    ("clutter", _background_contrast, 1, {}),
    ("blur", _sharpness, -1, dict(clutter=0.0, texture=0.0)),
    ("texture", _surface_contrast, 1, dict(occlusion=0.0)),
])
def test_each_strength_does_what_it_says(strength, measure, sign, calm):
    without, full = (measure(_videos(**calm | {strength: value})) for value in (0.0, 1.0))
    assert sign * (full - without) > 0.05 * without, (without, full)


@pytest.mark.parametrize(("values", "key"), [
    ({"occlusion": 1.5}, "shapes.occlusion"),
    ({"frames": "many"}, "shapes.frames"),
    ({"colour": "red"}, "shapes.colour"),
    ({"categories": ["circle", "dodecahedron"]}, "dodecahedron|categories must be distinct names"),
    ({"min_objects": 4}, "min_objects 4 exceeds max_objects 3"),
    ({"min_radius": 20}, "min_radius 20.0 exceeds max_radius 16.0"),
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
