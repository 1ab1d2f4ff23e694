"""Follows every object through a video: tracklets as YouTube-VIS results and CSV, and the video with them drawn over it.

VIDEO is a video file or a folder with its frames (JPEG or PNG). It is read twice, once to track and once to draw, and never
held in memory: a tracklet's class and score are known only at the end of the video.

    python -m pipeline.predict clip.mp4 --out predicted

writes predicted/clip_overlay.mp4, predicted/clip_results.json and predicted/clip_tracklets.csv. If the video breaks off or is
damaged in the middle, they hold what came before, a warning says so, and the exit code is 3.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from effvis.data.masks import areas, boxes_xyxy
from effvis.errors import UserError
from effvis.files import replacing_file
from effvis.video import UntilBroken, open_video, pyav, writing_video
from effvis.visualize import Overlay, draw
from pipeline.system.arguments import positive_int, positive_number, probability
from pipeline.system.cli import EXIT_INCOMPLETE, parser, progress_bar
from pipeline.weights.arguments import add_model_arguments

if TYPE_CHECKING:
    import argparse

    import numpy as np

    from effvis.predictor import TrackedVideo
    from effvis.video import BrokenVideo, Footage

LEGIBLE_SIDE = 480  # pixels; texts are 11 pixels high whatever the video's size
CSV_COLUMNS = ("tracklet", "category", "score", "frame", "seconds", "probability", "x0", "y0", "x1", "y1", "area")


def write_results(tracked: TrackedVideo, file: Path) -> None:
    """Writes the tracklets as YouTube-VIS results, which ``pipeline.score`` and the benchmark's servers accept."""
    with replacing_file(file) as unfinished:
        unfinished.write_text(json.dumps(tracked.results()), encoding="utf-8")


def write_table(tracked: TrackedVideo, fps: float, file: Path) -> None:
    """Writes a line per tracklet and frame in which it is present, with the box (xyxy) and the area of its mask, in pixels."""
    with replacing_file(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as text:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(CSV_COLUMNS)
        for tracklet in tracked.tracklets:
            rles = list(tracklet.rles.values())
            for frame, box_4, area in zip(tracklet.rles, boxes_xyxy(rles).tolist(), areas(rles).tolist(), strict=True):
                rows.writerow([tracklet.id, tracklet.category.name, f"{tracklet.score:.4f}", frame, f"{frame / fps:.3f}",
                               f"{tracklet.probabilities[frame]:.4f}", *map(int, box_4), int(area)])


def write_overlay(tracked: TrackedVideo, footage: Footage, file: Path, *, scale: int, told: Callable[..., None]) -> None:
    """Writes the video with every tracklet in its own colour, and with its class and score."""
    size = {"height": footage.height * scale, "width": footage.width * scale}
    with writing_video(file, **size, fps=footage.fps) as write:
        frames = itertools.islice(footage.frames(), tracked.length)  # a broken video has no more
        for number, frame in enumerate(_counted(frames, footage.length, told)):
            overlays = [
                Overlay(tracklet.rles[number], tracklet.id, f"{tracklet.category.name} {tracklet.score:.2f}")
                for tracklet in tracked.tracklets if number in tracklet.rles
            ]
            write(np.asarray(draw(Image.fromarray(frame), overlays, scale=scale)))


def _counted(frames: Iterable[np.ndarray], length: int, told: Callable[..., None]) -> Iterator[np.ndarray]:
    for done, frame in enumerate(frames, 1):
        yield frame
        told(done, max(done, length))


def _say(tracked: TrackedVideo, footage: Footage, broken: BrokenVideo | None) -> None:
    if broken is not None:
        text = f"warning: the video broke after frame {broken.frame - 1}, and only what came before is tracked: {broken}"
        print(" ".join(text.split()), file=sys.stderr)
    elif tracked.length < footage.length:
        print(f"warning: {footage.path} should have {footage.length} frames, of which {tracked.length} came: it is trimmed "
              "or damaged, or its header is wrong", file=sys.stderr)
    print(f"{footage.path}: {tracked.length} frames of {footage.width}x{footage.height}, {len(tracked.tracklets)} tracklets")
    for one in tracked.tracklets:
        span = f"frames {min(one.rles)} to {max(one.rles)}"
        print(f"  {one.id}: {one.category.name} {one.score:.2f}, in {len(one.rles)} of {span}")


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.predict")
    arguments.add_argument("video", type=Path, metavar="VIDEO", help="a video file, or a folder with a video's frames")
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")
    add_model_arguments(arguments)
    arguments.add_argument("--score", type=probability, default=0.3, help="leave out tracklets below this score (default: 0.3)")
    arguments.add_argument("--fps", type=positive_number, help="look at so many frames a second only, e.g. as many as "
                           "the training videos have (default: all)")
    arguments.add_argument("--folder-fps", type=positive_number, default=6.0, metavar="FPS",
                           help="how many frames a second a folder of frames has (default: 6)")
    arguments.add_argument("--scale", type=positive_int,
                           help="enlargement of the overlay (default: one that makes small videos legible)")
    arguments.add_argument("--device", default="cpu", help="where the network runs, e.g. cuda (default: cpu)")
    arguments.add_argument("--fast", action="store_true", help="run the same network with fewer operations; its results equal "
                           "those of evaluation except for rounding")
    arguments.add_argument("--no-overlay", action="store_true", help="write no video")
    args = arguments.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise UserError(args.out, "--out", "is a file", "Give a folder")

    from effvis.model_file import predictor
    from pipeline.weights.models import find_model

    if not args.no_overlay:
        pyav()  # if it is absent, the user learns so before the work, not after
    footage = open_video(args.video, folder_fps=args.folder_fps).thinned(args.fps)
    found = find_model(args)
    print(f"model: {found.text}; it knows {', '.join(label.name for label in found.description.labels)}", file=sys.stderr)
    network = predictor(found.description, found.weights, device=args.device, fast=args.fast)
    with progress_bar("tracking") as told:
        frames = UntilBroken(footage.frames())
        tracked = network.track(_counted(frames, footage.length, told), minimum_score=args.score)
    _say(tracked, footage, frames.error)
    for file in _write(tracked, footage, args):
        print(file)
    return 0 if frames.error is None else EXIT_INCOMPLETE


def _write(tracked: TrackedVideo, footage: Footage, args: argparse.Namespace) -> Iterator[Path]:
    def named(end: str) -> Path:
        name = footage.path.resolve()
        return args.out / f"{name.name if name.is_dir() else name.stem}_{end}"

    results, table, overlay = named("results.json"), named("tracklets.csv"), named("overlay.mp4")
    write_results(tracked, results)
    yield results
    write_table(tracked, footage.fps, table)
    yield table
    if not args.no_overlay:
        scale = args.scale or math.ceil(LEGIBLE_SIDE / max(footage.height, footage.width))
        with progress_bar("drawing") as told:
            write_overlay(tracked, footage, overlay, scale=scale, told=told)
        yield overlay


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
