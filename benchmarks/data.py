"""What reading data costs: ``python -m benchmarks.data index`` and ``python -m benchmarks.data loader``.

index: draws a data set of YouTube-VIS 2021's size (2,985 training videos of 30 frames, noise in tiny JPEGs, two instances a
video) and indexes it three times: new, unchanged, and with one frame replaced. Each time the command itself runs in a process
of its own; its processor time, its time on the clock and its peak memory are printed.

loader: prints how many frames the loader delivers per second of processor time, next to bare JPEG decoding to an array
(scaled while decoding, where frames are at least twice the input's size), and their ratio. They take turns, and the best round
counts. Batches, which include masks, are measured in the first pass over the videos, when nothing has been decoded before, and
in a later pass of the same training. By then masks are kept, and in the laptop profile, whose data set fits into the loader's
memory, frames as well. Of the paper's data set one frame in forty fits; none is kept here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

from effvis.data import clips
from effvis.data.dataset import DatasetIndex
from effvis.data.index import clip_index
from effvis.data.masks import encode
from effvis.data.youtube_vis import annotation_entry, read_split, write_annotations

ROOT = Path(__file__).resolve().parents[1]
CATEGORIES = [{"id": 1, "name": "left"}, {"id": 2, "name": "right"}]
VAL_VIDEOS = 10


class Load(NamedTuple):
    """What the loader reads; sizes are (height, width)."""

    size: tuple[int, int]
    input_size: tuple[int, int]
    clip_length: int
    batch_size: int
    frame_cache_bytes: int


LOADS = {"laptop": Load((64, 96), (64, 96), 3, 4, clips.FRAME_CACHE_BYTES), "paper": Load((720, 1280), (360, 640), 9, 1, 0)}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("index", "loader"))
    parser.add_argument("--videos", type=int, default=2985, help="number of videos to index (default: 2985)")
    parser.add_argument("--frames", type=int, default=30, help="frames of each video to index (default: 30)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the loader (default: 5)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "index":
            measure_index(Path(folder), args.videos, args.frames)
        else:
            measure_loader(Path(folder), args.rounds)
    return 0


def write_noise(folder: Path, *, videos: int, frames: int, size: tuple[int, int], quality: int = 90) -> None:
    """A split whose frames are smooth noise, a few pictures over and over, with two instances a video."""
    rng = np.random.default_rng(0)
    pictures = [_jpeg(rng, size, quality) for _ in range(32)]
    names = [[f"{v:05d}/{f:05d}.jpg" for f in range(frames)] for v in range(videos)]
    annotations = []
    for v in range(videos):
        (folder / "JPEGImages" / f"{v:05d}").mkdir(parents=True)
        for f, name in enumerate(names[v]):
            (folder / "JPEGImages" / name).write_bytes(pictures[(v * frames + f) % len(pictures)])
        for category in (1, 2):
            rles = [encode(_ellipse(size, (f / frames, category / 3))) for f in range(frames)]
            annotations.append(annotation_entry(track_id=len(annotations) + 1, video_id=v + 1, category_id=category,
                                                rles=rles, height=size[0], width=size[1]))
    entries = [{"id": v + 1, "height": size[0], "width": size[1], "length": frames, "file_names": names[v]}
               for v in range(videos)]
    write_annotations(folder / "instances.json", description="noise", videos=entries, categories=CATEGORIES,
                      annotations=annotations)


def _jpeg(rng: np.random.Generator, size: tuple[int, int], quality: int) -> bytes:
    coarse = rng.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(content, "JPEG", quality=quality)
    return content.getvalue()


def _ellipse(size: tuple[int, int], centre: tuple[float, float]) -> np.ndarray:
    y, x = (np.linspace(0, 1, side) for side in size)
    return ((y[:, None] - centre[1]) / 0.2) ** 2 + ((x[None] - 0.2 - 0.6 * centre[0]) / 0.15) ** 2 < 1


def measure_index(folder: Path, videos: int, frames: int) -> None:
    for split, count in (("train", videos), ("val", VAL_VIDEOS)):
        write_noise(folder / "set" / split, videos=count, frames=frames, size=(36, 64))
    (folder / "experiments").symlink_to(ROOT / "experiments")
    (folder / "params.yaml").write_text(yaml.safe_dump({"profile": "paper", "dataset": "set"}))
    print(f"{(videos + VAL_VIDEOS) * frames:,} frames in {videos + VAL_VIDEOS:,} videos")
    _index("new", folder)
    _index("unchanged", folder)
    frame = folder / "set" / "train" / "JPEGImages" / "00000" / "00001.jpg"
    frame.write_bytes(frame.with_name("00000.jpg").read_bytes())
    _index("one frame replaced", folder)


def _index(name: str, folder: Path) -> None:
    """Runs the command and prints what it took."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "pipeline.index"], cwd=folder, stderr=subprocess.DEVNULL,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"pipeline.index failed with status {status}")
    facts = json.loads((folder / "data" / "index" / "set" / "dataset.json").read_text())
    seconds = time.monotonic() - began
    print(f"{name:18} {used.ru_utime + used.ru_stime:6.1f} s of processor time, {seconds:6.1f} s on the clock, "
          f"{used.ru_maxrss * 1024 / 1e9:.2f} GB peak, digest {facts['digest'][:12]}", flush=True)


def measure_loader(folder: Path, rounds: int) -> None:
    for name, load in LOADS.items():
        write_noise(folder / name, videos=8, frames=20, size=load.size)
        sources = _sources(read_split(folder / name), load)
        best = dict.fromkeys(sources, 0.0)
        for _ in range(rounds):
            for source, deliver in sources.items():
                began = time.process_time()
                frames = deliver()
                best[source] = max(best[source], frames / (time.process_time() - began))
        print(f"{name}: frames of {load.size[0]}x{load.size[1]}, input {load.input_size[0]}x{load.input_size[1]}")
        for source, pace in best.items():
            print(f"  {source:26} {pace:8.0f} frames per second of processor time, {pace / best['bare decoding']:4.0%}")


def _sources(index: DatasetIndex, load: Load) -> dict[str, Callable[[], int]]:
    """Functions that deliver frames and return their number, by name."""
    files = [index.images / name for video in index.videos for name in video.file_names]

    def bare() -> int:
        for file in files:
            with Image.open(file) as image:
                image.draft("RGB", (load.input_size[1], load.input_size[0]))
                np.asarray(image)
        return len(files)

    def reader() -> int:
        frames = clips.FrameReader(index, load.input_size, cache_bytes=0)
        for video, entry in enumerate(index.videos):
            for start in range(0, entry.length, load.clip_length):
                frames.clip(video, list(range(start, min(start + load.clip_length, entry.length))))
        return len(files)

    new = _pairs(index, load, frame_cache_bytes=0, mask_cache_bytes=0)  # no room to keep anything: each round is a first pass
    used = _pairs(index, load, frame_cache_bytes=load.frame_cache_bytes)

    def batches(pairs: clips.ClipPairs) -> int:
        steps = max(1, len(files) // (2 * load.clip_length * load.batch_size))
        return sum(frames.shape[0] * frames.shape[1] for step in range(steps) for frames in pairs.batch(step).frames)

    batches(used)
    return {"bare decoding": bare, "FrameReader": reader, "ClipPairs, first pass": partial(batches, new),
            "ClipPairs, a later pass": partial(batches, used)}


def _pairs(index: DatasetIndex, load: Load, **cache_bytes: int) -> clips.ClipPairs:
    return clips.ClipPairs(index, clip_index(index, load.clip_length), input_size=load.input_size, batch_size=load.batch_size,
                           seed=0, **cache_bytes)


if __name__ == "__main__":
    raise SystemExit(main())
