"""Drawn still pictures: other outlines, surfaces and colours than the videos', which stay what they were."""

import hashlib
from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError
from support.project import CHECKOUT

from effvis.data.synthetic import appearance, outlines, shapes
from effvis.data.synthetic.hardships import measure
from effvis.data.synthetic.shapes import ShapesConfig
from effvis.data.youtube_vis import read_split
from pipeline.settings.loading import load_params

HARD = {"exits": 1.0, "speed": 1.0, "occlusion": 1.0, "occluders": 1.0, "twins": 1.0, "degradation": 1.0,
        "appearance_change": 1.0}
OF_VIDEOS = {"circle", "pacman", "square", "triangle", "star", "cross", "tee"}


@pytest.fixture(scope="module")
def pictures() -> ShapesConfig:
    return load_params(CHECKOUT / "params.yaml", ["dataset=shapes-images"]).shapes_config


def test_videos_are_what_they_were():
    """The digest was taken before there were pictures: at their defaults, later settings change no byte."""
    digest = hashlib.sha256()
    for split in ("train", "val"):
        video = shapes.draw_video(ShapesConfig(), split, 1)
        digest.update(video.frames_LHW3.tobytes())
        for track in video.tracks:
            digest.update(track.visible_LHW.tobytes())
    assert digest.hexdigest() == "f36bfa4a0f8e86465ddc2749f2f809474822527ecb33a6ce29dd6476a644aa26"
    assert {"surfaces", "saturation", "brightness"}.isdisjoint(shapes.describe(ShapesConfig())["config"])
    assert shapes.describe(ShapesConfig(surfaces=("dots",)))["config"]["surfaces"] == ["dots"]


def test_pictures_share_no_category_surface_and_colour_with_videos(pictures):
    videos = load_params(CHECKOUT / "params.yaml").shapes_config
    assert not set(pictures.categories) & (OF_VIDEOS | set(videos.categories)) and len(pictures.categories) >= 6
    assert not set(pictures.surfaces) & set(videos.surfaces)
    assert pictures.saturation[1] < videos.saturation[0] and pictures.brightness[1] < videos.brightness[0]
    assert pictures.frames == 1 and pictures.seed != videos.seed
    for name in ("height", "width", "min_radius", "max_radius"):
        assert getattr(pictures, name) == getattr(videos, name)


def turned(name: str, angle: float) -> np.ndarray:
    """The inside of an outline, turned, on a grid of 41 by 41."""
    down, across = np.mgrid[-1:1:41j, -1:1:41j]
    x, y = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    return outlines.OUTLINES[name](x, y) < 0


def test_no_turn_makes_one_outline_another():
    """The best overlap over turns of three degrees leaves a tenth of the union; a turned outline overlaps itself far more."""
    whole = {name: turned(name, 0.3) for name in outlines.OUTLINES}
    new = [name for name in outlines.OUTLINES if name not in OF_VIDEOS | {"ring"}]
    assert len(new) >= 6
    turns = {name: [turned(name, angle) for angle in np.deg2rad(np.arange(0, 360, 3))] for name in new}
    for one, other in combinations(outlines.OUTLINES, 2):
        if one in turns or other in turns:
            fixed, moved = (whole[one], turns[other]) if other in turns else (whole[other], turns[one])
            best = max((fixed & each).sum() / (fixed | each).sum() for each in moved)
            assert best < 0.9, (one, other, best)
    for name in new:
        assert max((whole[name] & each).sum() / (whole[name] | each).sum() for each in turns[name]) > 0.95, name


def test_outlines_are_distances():
    """Near the outline, a step of one hundredth of a radius across it changes the value by one hundredth, and they fit into the
    unit circle."""
    down, across = np.mgrid[-1.2:1.2:241j, -1.2:1.2:241j]
    for name, outline in outlines.OUTLINES.items():
        value = outline(across, down)
        slope = np.hypot(*np.gradient(value, 0.01))[np.abs(value) < 0.03]
        assert 0.95 < np.median(slope) < 1.05, name
        assert np.hypot(across, down)[value < 0].max() < 1.01, name


def test_surfaces_differ_and_keep_to_their_depth():
    down, across = np.mgrid[-1:1:41j, -1:1:41j]
    found = {kind: appearance.Surface(np.random.default_rng(4), 0.8, kind)(across, down) for kind in appearance.SURFACES}
    for shade in found.values():
        assert 0.6 - 1e-9 <= shade.min() < 0.75 and 0.9 < shade.max() <= 1 + 1e-9
    for one, other in combinations(found.values(), 2):
        assert np.abs(one - other).mean() > 0.05


def colours(config: ShapesConfig, number: int = 30) -> np.ndarray:
    """Saturation and brightness of the instances of pictures in which nothing else changes colours: (K, 2)."""
    plain = config.model_copy(update=dict(texture=0.0, appearance_change=0.0, grain=0.0, degradation=0.0, occluders=0.0))
    found = []
    for index in range(number):
        video = shapes.draw_video(plain, "train", index)
        for track in video.tracks:
            if track.visible_LHW[0].sum() > 100:
                colour = np.median(video.frames_LHW3[0][track.visible_LHW[0]], axis=0) / 255
                found.append((1 - colour.min() / colour.max(), colour.max()))
    return np.array(found)


def test_colours_are_of_the_palette(pictures):
    for config in (pictures, ShapesConfig(frames=1)):
        found_K2 = colours(config)
        for column, (least, largest) in enumerate((config.saturation, config.brightness)):
            # One of 256 steps is lost in rounding.
            assert least - 0.01 < found_K2[:, column].min() and found_K2[:, column].max() < largest + 0.01
            assert np.ptp(found_K2[:, column]) > 0.6 * (largest - least)


def test_one_frame_is_drawn_with_every_hardship(tmp_path):
    config = ShapesConfig(train_videos=8, val_videos=2, frames=1, surfaces=("dots", "checks", "gradient"), **HARD)
    shapes.write(config, tmp_path / "drawn")
    index = read_split(tmp_path / "drawn" / "train")
    assert [video.length for video in index.videos] == [1] * 8
    videos = [shapes.draw_video(config, "train", number) for number in range(8)]
    assert [len(index.tracks_of(number)) for number in range(8)] == [len(video.tracks) for video in videos]
    measured = measure(videos)
    assert measured["motion"] == measured["fast"] == 0 and measured["degraded"] > 0.2
    assert measured["instances"] > 8  # nobody has left
    assert np.isfinite(list(measured.values())).all()


@pytest.mark.parametrize("wrong", [{"surfaces": []}, {"surfaces": ["fur"]}, {"saturation": [0.6, 0.2]}, {"brightness": [0, 2]}])
def test_a_palette_that_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ShapesConfig(**wrong)
