"""The embedded data set ``shapes-vis``: drawn shapes that move, hide each other, leave, return and change.

Each hardship has a strength in 0..1, so that the components that the paper ablates have something to do; docs/shapes.md
says which hardship is meant for which component. Colour never tells the category. ``write`` makes the same bytes for the
same config; (seed, split, video number) alone decide what happens in a video, and each hardship has its own random stream.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from effvis.config import Config, later
from effvis.data import masks
from effvis.data.synthetic import appearance, outlines
from effvis.data.synthetic.degradation import add_grain, degrade, draw_losses
from effvis.data.synthetic.motion import Path2D, draw_paths
from effvis.data.synthetic.occluders import draw_bars
from effvis.data.youtube_vis import annotation_entry, write_annotations
from effvis.files import replacing_folder

GENERATOR_VERSION = 2
"""Raised whenever the same config would give other bytes."""

SPLITS = ("train", "val", "test")
STAMP = "shapes.json"
"""In the data set's folder: what it was drawn from."""

MIN_VISIBLE_PIXELS = 12
"""An instance with fewer visible pixels in a frame counts as absent there."""


Strength = Annotated[float, Field(ge=0, le=1)]
Surface = Literal["stripes", "dots", "checks", "gradient"]


class ShapesConfig(Config):
    """What is drawn. Strengths are from 0 (none) to 1 (hard); lengths are in pixels."""

    train_videos: int = Field(600, ge=1)
    val_videos: int = Field(160, ge=1)
    test_videos: int = later(0, ge=0, description="0: no test split is drawn")
    frames: int = Field(12, ge=1, description="per video")
    height: int = Field(64, ge=16)
    width: int = Field(96, ge=16)
    fps: float = Field(6.0, gt=0)
    seed: int = Field(0, ge=0)
    categories: tuple[str, ...] = ("circle", "pacman", "square", "star", "cross", "tee")
    min_objects: int = Field(2, ge=1)
    max_objects: int = Field(4, ge=1)
    min_radius: float = Field(9.0, ge=3)
    max_radius: float = Field(15.0, ge=3)
    occlusion: float = Field(0.4, ge=0, le=1, description="probability that a shape crosses the path of another")
    occluders: float = Field(0.5, ge=0, le=1, description="bars and posts that pass in front and are no instances")
    twins: float = Field(0.5, ge=0, le=1, description="probability that two shapes of a video look alike and cross")
    exits: float = Field(0.2, ge=0, le=1, description="probability that a shape leaves the frame for some time")
    speed: float = Field(0.2, ge=0, le=1, description="probability that a shape is fast, and how fast")
    appearance_change: float = Field(0.6, ge=0, le=1, description="hue, brightness, size and angle over time")
    degradation: float = Field(0.4, ge=0, le=1, description="single frames in which shapes cannot be read")
    grain: float = Field(0.3, ge=0, le=1, description="noise that is another in each frame")
    texture: float = Field(0.3, ge=0, le=1, description="contrast of the surface of the shapes")
    clutter: float = Field(0.3, ge=0, le=1, description="contrast of the background's texture")
    surfaces: tuple[Surface, ...] = later(("stripes",), min_length=1, description="each shape has one of them")
    saturation: tuple[Strength, Strength] = later((0.7, 1.0), description="least and largest, of the shapes' colours")
    brightness: tuple[Strength, Strength] = later((0.85, 1.0), description="the same, in a frame that is not dimmed")

    @model_validator(mode="after")
    def _drawable(self):
        unknown = sorted(set(self.categories) - set(outlines.OUTLINES))
        if unknown or not self.categories or len(set(self.categories)) < len(self.categories):
            raise ValueError(f"categories must be distinct names among {', '.join(outlines.OUTLINES)}")
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects {self.min_objects} exceeds max_objects {self.max_objects}")
        for name in ("saturation", "brightness"):
            least, largest = getattr(self, name)
            if least > largest:
                raise ValueError(f"{name}: the least, {least}, exceeds the largest, {largest}")
        if self.min_radius > self.max_radius:
            raise ValueError(f"min_radius {self.min_radius} exceeds max_radius {self.max_radius}")
        if 2 * self.max_radius > min(self.height, self.width):
            raise ValueError(f"a shape of max_radius {self.max_radius} does not fit into {self.height}x{self.width}")
        return self

    @property
    def videos(self) -> dict[str, int]:
        """The number of videos of each split that is drawn."""
        counts = dict(zip(SPLITS, (self.train_videos, self.val_videos, self.test_videos), strict=True))
        return {split: count for split, count in counts.items() if count}


def write(config: ShapesConfig, out: Path, progress: Callable[[int, int], None] | None = None, *, workers: int = 2):
    """Writes ``<out>/<split>/JPEGImages/<video>/<frame>.jpg`` and ``<out>/<split>/instances.json``, atomically.

    Args:
        progress: called with (videos done, videos in all).
        workers: number of processes that draw; the bytes do not depend on it.
    """
    total, done = sum(config.videos.values()), 0
    with replacing_folder(Path(out)) as folder:
        for split, count in config.videos.items():
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
            write_annotations(folder / split / "instances.json", description=f"drawn shapes, {split}",
                              videos=videos, categories=categories, annotations=annotations)
        (folder / STAMP).write_text(json.dumps(describe(config), indent=1) + "\n", encoding="utf-8")


def describe(config: ShapesConfig) -> dict:
    """Everything that decides the bytes of the data set, as JSON values."""
    return {"generator_version": GENERATOR_VERSION, "config": config.model_dump(mode="json")}


def is_written(config: ShapesConfig, out: Path) -> bool:
    """Whether ``write(config, out)`` has been done here and would change nothing."""
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
    video = draw_video(config, split, index)
    name = f"{index:05d}"
    (images / name).mkdir()
    file_names = [f"{name}/{frame:05d}.jpg" for frame in range(config.frames)]
    for file_name, frame_HW3 in zip(file_names, video.frames_LHW3, strict=True):
        # Colour at full resolution: a shape is only some twenty pixels wide.
        Image.fromarray(frame_HW3).save(images / file_name, quality=95, subsampling=0)
    entry = {"id": index + 1, "height": config.height, "width": config.width, "length": config.frames,
             "fps": config.fps, "file_names": file_names}
    return entry, [(track.label, present_masks(track.visible_LHW)) for track in video.tracks]


def present_masks(visible_LHW: np.ndarray) -> list[masks.RLE | None]:
    """The ground truth of an instance: its visible pixels in each frame, None where they are too few."""
    rles = masks.encode_many(visible_LHW)
    return [rle if seen.sum() >= MIN_VISIBLE_PIXELS else None for rle, seen in zip(rles, visible_LHW, strict=True)]


@dataclass(frozen=True)
class DrawnTrack:
    """One instance of a drawn video.

    Attributes:
        label: index into ``ShapesConfig.categories``.
        visible_LHW: its visible pixels, bool.
        solid_LHW: all its pixels inside the frame, hidden or not.
        centre_L2: its centre x, y in pixels, also outside the frame.
        degraded_L: whether it cannot be read in a frame.
        twin: whether another instance of the video looks like it.
    """

    label: int
    visible_LHW: np.ndarray
    solid_LHW: np.ndarray
    centre_L2: np.ndarray
    degraded_L: np.ndarray
    twin: bool


@dataclass(frozen=True)
class DrawnVideo:
    """The frames, (L, H, W, 3) uint8, and the instances that are visible at all."""

    frames_LHW3: np.ndarray
    tracks: list[DrawnTrack]


def draw_video(config: ShapesConfig, split: str, index: int) -> DrawnVideo:
    """Draws one video; all that is random in it follows from (config.seed, split, index) alone."""
    root = np.random.default_rng([config.seed, SPLITS.index(split), index])
    of_cast, of_paths, of_looks, of_scene, of_bars, of_losses, of_grain = root.spawn(7)
    labels_N, twin_of, crosses = _cast(of_cast, config)
    paths = draw_paths(
        of_paths, crosses=crosses, frames=config.frames, height=config.height, width=config.width, exits=config.exits,
        speed=config.speed, change=config.appearance_change, min_radius=config.min_radius, max_radius=config.max_radius)
    colours_NL3 = appearance.draw_colours(of_looks, twin_of, config.frames, config.appearance_change,
                                          config.saturation, config.brightness)
    surfaces = appearance.draw_surfaces(of_looks, twin_of, config.texture, config.surfaces)
    background_HW3 = appearance.draw_background(of_scene, config.height, config.width, config.clutter)
    light_L = appearance.draw_light(of_scene, config.frames, config.appearance_change)
    bars = draw_bars(of_bars, paths, config.frames, config.occluders)
    losses = draw_losses(of_losses, len(paths), config.frames, config.degradation)

    canvas_LHW3 = np.repeat(background_HW3[None], config.frames, axis=0)
    # Painted from the farthest to the nearest; each one hides what is painted already.
    solids: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    for label, path, colour_L3, surface in zip(labels_N, paths, colours_NL3, surfaces, strict=True):
        cover_LHW, shade_LHW = _cover(config, path, outlines.OUTLINES[config.categories[label]], surface)
        canvas_LHW3 += cover_LHW[..., None] * (colour_L3[:, None, None] * shade_LHW[..., None] - canvas_LHW3)
        solids.append(cover_LHW >= 0.5)
        visible = [seen & ~solids[-1] for seen in visible] + [solids[-1]]
    for bar in bars:
        cover_LHW = bar.cover(config.frames, config.height, config.width)
        canvas_LHW3 += cover_LHW[..., None] * (bar.colour_3 - canvas_LHW3)
        visible = [seen & (cover_LHW < 0.5) for seen in visible]
    canvas_LHW3 *= light_L[:, None, None, None]
    degrade(of_losses, canvas_LHW3, losses.weights(paths, config.height, config.width), losses.kind_L, config.max_radius)
    add_grain(of_grain, canvas_LHW3, config.grain)

    times_L = np.arange(config.frames)
    tracks = []
    for n, path in enumerate(paths):
        if visible[n].sum(axis=(1, 2)).max() >= MIN_VISIBLE_PIXELS:
            pose = path.at(times_L)
            tracks.append(DrawnTrack(
                label=int(labels_N[n]), visible_LHW=visible[n], solid_LHW=solids[n],
                centre_L2=np.stack([pose.x, pose.y], axis=-1), degraded_L=losses.degraded_NL[n],
                twin=twin_of[n] is not None or n in twin_of))
    return DrawnVideo(np.clip(canvas_LHW3 * 255 + 0.5, 0, 255).astype(np.uint8), tracks)


def _cast(rng: np.random.Generator, config: ShapesConfig) -> tuple[np.ndarray, list[int | None], list[int | None]]:
    """Labels (N,) of a video's shapes and, for each shape, the earlier one that it looks like and the one that it crosses."""
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    labels_N = rng.integers(len(config.categories), size=count)
    earlier_N = [int(rng.integers(n)) if n else None for n in range(count)]
    crossing_N = rng.random(count) < config.occlusion
    with_twins, twin = rng.random() < config.twins, int(rng.integers(1, max(count, 2)))
    twin_of: list[int | None] = [None] * count
    if with_twins and count > 1:
        twin_of[twin] = earlier_N[twin]
        labels_N[twin] = labels_N[earlier_N[twin]]
        crossing_N[twin] = True
    return labels_N, twin_of, [other if crossing else None for other, crossing in zip(earlier_N, crossing_N, strict=True)]


def _cover(config: ShapesConfig, path: Path2D, outline, surface: appearance.Surface) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel the shape covers in each frame, and its shade there: two (L, H, W) float64."""
    pose = path.at(np.arange(config.frames))
    across_W, down_H = np.arange(config.width) + 0.5, np.arange(config.height) + 0.5
    x = (across_W[None, None, :] - pose.x[:, None, None]) / pose.radius[:, None, None]
    y = (down_H[None, :, None] - pose.y[:, None, None]) / pose.radius[:, None, None]
    cos, sin = np.cos(pose.angle)[:, None, None], np.sin(pose.angle)[:, None, None]
    x, y = x * cos + y * sin, y * cos - x * sin
    distance_in_pixels = outline(x, y) * pose.radius[:, None, None]
    return np.clip(0.5 - distance_in_pixels, 0, 1), surface(x, y)
