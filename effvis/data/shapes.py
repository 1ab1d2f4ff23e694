"""The embedded data set ``shapes-vis``: drawn shapes that move, hide each other, leave, return and change.

Each hardship has a strength in 0..1, so that the components that the paper ablates have something to do: occlusion and
exits ask for identity over time, fast motion and blur for features that follow the object, appearance change for
queries that are more than a colour. Colour never tells the category. ``write`` makes the same bytes for the same
config; what happens in a video is decided by (seed, split, its number) alone.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from effvis.config import Config
from effvis.data import masks, outlines
from effvis.data.atomic import replacing_folder
from effvis.data.motion import Path2D, draw_paths
from effvis.data.youtube_vis import annotation_entry, write_annotations

GENERATOR_VERSION = 1
"""Raised whenever the same config would give other bytes."""

SPLITS = ("train", "val")
STAMP = "shapes.json"
"""In the data set's folder: what it was drawn from."""

MIN_VISIBLE_PIXELS = 12
"""An instance with fewer visible pixels in a frame counts as absent there."""

BLUR_STEPS = 9
EXPOSURE = 1.2
"""Length of a blurred frame's exposure, in frames."""


class ShapesConfig(Config):
    """What is drawn. Strengths are from 0 (none) to 1 (hard); lengths are in pixels."""

    train_videos: int = Field(300, ge=1)
    val_videos: int = Field(80, ge=1)
    frames: int = Field(24, ge=1, description="per video")
    height: int = Field(64, ge=16)
    width: int = Field(96, ge=16)
    fps: float = Field(6.0, gt=0)
    seed: int = Field(0, ge=0)
    categories: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross")
    min_objects: int = Field(2, ge=1)
    max_objects: int = Field(3, ge=1)
    min_radius: float = Field(10.0, ge=3)
    max_radius: float = Field(16.0, ge=3)
    occlusion: float = Field(0.3, ge=0, le=1, description="how much paths cross; the nearer shape hides the farther")
    exits: float = Field(0.3, ge=0, le=1, description="probability that a shape leaves the frame for some time")
    speed: float = Field(0.3, ge=0, le=1, description="probability that a shape is fast, and how fast")
    appearance_change: float = Field(0.3, ge=0, le=1, description="drift of hue and brightness, turning, pulsation")
    blur: float = Field(0.3, ge=0, le=1, description="a third of it is the probability that a frame is motion-blurred")
    texture: float = Field(0.3, ge=0, le=1, description="contrast of the stripes on the shapes")
    clutter: float = Field(0.3, ge=0, le=1, description="contrast of the background's texture")

    @model_validator(mode="after")
    def _drawable(self):
        unknown = sorted(set(self.categories) - set(outlines.OUTLINES))
        if unknown or not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories must be distinct names among {', '.join(outlines.OUTLINES)}")
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} exceeds max_objects {self.max_objects}")
        if self.min_radius > self.max_radius:
            raise ValueError(f"min_radius {self.min_radius} exceeds max_radius {self.max_radius}")
        if 2 * self.max_radius > min(self.height, self.width):
            raise ValueError(f"a shape of max_radius {self.max_radius} does not fit into {self.height}x{self.width}")
        return self


def write(config: ShapesConfig, out: Path, progress: Callable[[int, int], None] | None = None, *, workers: int = 2):
    """Writes ``<out>/{train,val}/JPEGImages/<video>/<frame>.jpg`` and ``<out>/{train,val}/instances.json``, atomically.

    Args:
        progress: called with (videos done, videos in all).
        workers: processes that draw; the bytes do not depend on it.
    """
    total, done = config.train_videos + config.val_videos, 0
    with replacing_folder(Path(out)) as folder:
        for split, count in zip(SPLITS, (config.train_videos, config.val_videos), strict=True):
            (folder / split / "JPEGImages").mkdir(parents=True)
            videos, annotations = [], []
            for video, tracks in _drawn(config, split, count, folder / split / "JPEGImages", workers):
                videos.append(video)
                for label, rles in tracks:
                    annotations.append(annotation_entry(
                        track_id=len(annotations) + 1, video_id=video["id"], category_id=label + 1, rles=rles,
                        height=config.height, width=config.width))
                done += 1
                if progress:
                    progress(done, total)
            categories = [{"id": i + 1, "name": name} for i, name in enumerate(config.categories)]
            write_annotations(folder / split / "instances.json", description=f"shapes-vis, {split}",
                              videos=videos, categories=categories, annotations=annotations)
        (folder / STAMP).write_text(json.dumps(describe(config), indent=1) + "\n", encoding="utf-8")


def describe(config: ShapesConfig) -> dict:
    """All that the bytes of the data set follow from, as JSON values."""
    return {"generator_version": GENERATOR_VERSION, "config": config.model_dump(mode="json")}


def is_written(config: ShapesConfig, out: Path) -> bool:
    """Whether ``write(config, out)`` was done here and would change nothing."""
    try:
        return json.loads((out / STAMP).read_text(encoding="utf-8")) == describe(config)
    except (OSError, ValueError):
        return False


def _drawn(config: ShapesConfig, split: str, count: int, images: Path, workers: int) -> Iterator[tuple[dict, list]]:
    """Writes the frames of ``count`` videos and yields each one's entry and tracks, in order."""
    jobs = [(config, split, index, images) for index in range(count)]
    if workers < 2 or count < 20:  # A fresh process costs more than a few videos.
        yield from map(_write_video, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_write_video, jobs, chunksize=5)


def _write_video(job: tuple[ShapesConfig, str, int, Path]) -> tuple[dict, list[tuple[int, list[masks.RLE | None]]]]:
    config, split, index, images = job
    frames_LHW3, tracks = draw_video(config, split, index)
    name = f"{index:05d}"
    (images / name).mkdir()
    file_names = [f"{name}/{frame:05d}.jpg" for frame in range(config.frames)]
    for file_name, frame_HW3 in zip(file_names, frames_LHW3, strict=True):
        # Colour at full resolution: a shape is only some twenty pixels wide.
        Image.fromarray(frame_HW3).save(images / file_name, quality=95, subsampling=0)
    video = {"id": index + 1, "height": config.height, "width": config.width, "length": config.frames,
             "fps": config.fps, "file_names": file_names}
    return video, [(label, _present(visible_LHW)) for label, visible_LHW in tracks]


def _present(visible_LHW: np.ndarray) -> list[masks.RLE | None]:
    rles = masks.encode_many(visible_LHW)
    return [rle if seen.sum() >= MIN_VISIBLE_PIXELS else None for rle, seen in zip(rles, visible_LHW, strict=True)]


def draw_video(config: ShapesConfig, split: str, index: int) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One video, from (config.seed, split, index) alone.

    Returns:
        The frames, (L, H, W, 3) uint8, and for each instance that is visible at all its label (index into
        ``config.categories``) and its visible pixels, (L, H, W) bool.
    """
    rng = np.random.default_rng([config.seed, SPLITS.index(split), index])
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    labels = rng.integers(len(config.categories), size=count)
    paths = draw_paths(
        rng, count=count, frames=config.frames, height=config.height, width=config.width, occlusion=config.occlusion,
        exits=config.exits, speed=config.speed, change=config.appearance_change,
        min_radius=config.min_radius, max_radius=config.max_radius)
    colours_NL3 = _colours(rng, config, count)
    stripes = [_Stripes(rng, config.texture) for _ in range(count)]
    canvas_LHW3 = np.repeat(_background(rng, config)[None], config.frames, axis=0)
    blurred_L = rng.random(config.frames) < config.blur / 3

    # Painted from the farthest to the nearest; each one hides what is painted already.
    visible: list[np.ndarray] = []
    for label, path, colour_L3, stripe in zip(labels, paths, colours_NL3, stripes, strict=True):
        outline = outlines.OUTLINES[config.categories[label]]
        cover_LHW, shade_LHW = _cover(config, path, outline, stripe, np.arange(config.frames))
        solid_LHW = cover_LHW >= 0.5
        if blurred_L.any():
            cover_LHW[blurred_L], shade_LHW[blurred_L] = _motion_blurred(config, path, outline, stripe, blurred_L)
        paint_LHW3 = colour_L3[:, None, None] * shade_LHW[..., None]
        canvas_LHW3 += cover_LHW[..., None] * (paint_LHW3 - canvas_LHW3)
        visible = [seen & ~solid_LHW for seen in visible] + [solid_LHW]
    frames_LHW3 = np.clip(canvas_LHW3 * 255 + 0.5, 0, 255).astype(np.uint8)
    tracks = [(int(label), seen) for label, seen in zip(labels, visible, strict=True)
              if seen.sum(axis=(1, 2)).max() >= MIN_VISIBLE_PIXELS]
    return frames_LHW3, tracks


class _Stripes:
    """Brightness of a shape's surface, in its own turning coordinates."""

    def __init__(self, rng: np.random.Generator, strength: float):
        self.direction = rng.uniform(0, np.pi)
        self.frequency = rng.uniform(2.5, 5.0)  # radians per radius / 1.3
        self.phase = rng.uniform(0, 2 * np.pi)
        self.depth = 0.5 * strength

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = x * np.cos(self.direction) + y * np.sin(self.direction)
        return 1 - self.depth * (0.5 + 0.5 * np.sin(1.3 * self.frequency * along + self.phase))


def _cover(config: ShapesConfig, path: Path2D, outline, stripes: _Stripes, times_K: np.ndarray):
    """How much of each pixel the shape covers at K times (in frames), and its shade there: two (K, H, W) float64."""
    state = path.at(times_K)
    across_W, down_H = np.arange(config.width) + 0.5, np.arange(config.height) + 0.5
    x = (across_W[None, None, :] - state.x[:, None, None]) / state.radius[:, None, None]
    y = (down_H[None, :, None] - state.y[:, None, None]) / state.radius[:, None, None]
    cos, sin = np.cos(state.angle)[:, None, None], np.sin(state.angle)[:, None, None]
    x, y = x * cos + y * sin, y * cos - x * sin
    distance_in_pixels = outline(x, y) * state.radius[:, None, None]
    return np.clip(0.5 - distance_in_pixels, 0, 1), stripes(x, y)


def _motion_blurred(config: ShapesConfig, path: Path2D, outline, stripes: _Stripes, blurred_L: np.ndarray):
    """The same, averaged over the exposure of each blurred frame."""
    frames_B = np.flatnonzero(blurred_L)
    times_BS = frames_B[:, None] + EXPOSURE * np.linspace(-0.5, 0.5, BLUR_STEPS)
    cover, shade = _cover(config, path, outline, stripes, times_BS.reshape(-1))
    shape = (len(frames_B), BLUR_STEPS, config.height, config.width)
    return cover.reshape(shape).mean(axis=1), shade.reshape(shape).mean(axis=1)


def _colours(rng: np.random.Generator, config: ShapesConfig, count: int) -> np.ndarray:
    """(N, L, 3) RGB in 0..1: hues evenly spaced over the instances of a video, whatever their categories."""
    time_L = np.arange(config.frames) / max(config.frames - 1, 1)
    spacing = 1 / count
    hues_N = rng.uniform() + spacing * (rng.permutation(count) + rng.uniform(-0.1, 0.1, count))
    strength = config.appearance_change
    drift_NL = strength * rng.uniform(-0.35, 0.35, count)[:, None] * spacing * time_L
    turns_N, phases_N = rng.uniform(0.5, 1.5, count), rng.uniform(0, 2 * np.pi, count)
    dimming_NL = strength * 0.35 * (0.5 + 0.5 * np.sin(2 * np.pi * turns_N[:, None] * time_L + phases_N[:, None]))
    value_NL = rng.uniform(0.85, 1.0, count)[:, None] * (1 - dimming_NL)
    saturation_N = rng.uniform(0.7, 1.0, count)
    return _rgb(hues_N[:, None] + drift_NL, saturation_N[:, None], value_NL)


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """HSV (hue in turns) to RGB on a new last axis."""
    wave = np.abs((hue[..., None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1
    return value[..., None] * (1 - saturation[..., None] * (1 - np.clip(wave, 0, 1)))


def _background(rng: np.random.Generator, config: ShapesConfig) -> np.ndarray:
    """(H, W, 3) dim, nearly grey, with large and small blotches."""
    tint_3 = _rgb(*(np.array(value) for value in (rng.uniform(), rng.uniform(0, 0.4), rng.uniform(0.15, 0.28))))
    large_HW = _smooth_noise(rng, config, cell=24)
    small_HW3 = np.stack([_smooth_noise(rng, config, cell=6) for _ in range(3)], axis=-1)
    contrast = 0.15 + 0.5 * config.clutter
    return tint_3 * (1 + contrast * large_HW[..., None]) + 0.12 * config.clutter * small_HW3


def _smooth_noise(rng: np.random.Generator, config: ShapesConfig, cell: int) -> np.ndarray:
    """(H, W) noise in -1..1 that changes over ``cell`` pixels."""
    def blend(size: int) -> np.ndarray:
        nodes = size // cell + 2
        away = np.abs(np.arange(size)[:, None] / cell - np.arange(nodes))
        return np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * away), 0)

    down, across = blend(config.height), blend(config.width)
    return down @ rng.uniform(-1, 1, (down.shape[1], across.shape[1])) @ across.T
