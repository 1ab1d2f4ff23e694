"""Follows every object through a video: tracklets as YouTube-VIS results and CSV, and the video with them drawn over it.

VIDEO is a video file or a folder with its frames (JPEG or PNG). It is read twice, once to track and once to draw, and never
held in memory: a tracklet's class and score are known only at the end of the video.

    python -m pipeline.predict clip.mp4 --out predicted

writes predicted/clip_overlay.mp4, predicted/clip_results.json and predicted/clip_tracklets.csv; with --format mots,coco also
predicted/clip_mots.txt, predicted/clip_mots_classes.yaml and predicted/clip_coco.json. If the video breaks off or is damaged in
the middle, they hold what came before, a warning says so, and the exit code is 3.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from PIL import Image

from effvis.data.masks import areas, boxes_xyxy
from effvis.errors import UserError
from effvis.files import replacing_file, replacing_folder
from effvis.formats import coco, frame_numbers, mots_classes, mots_lines
from effvis.video import UntilBroken, open_video, pyav, writing_video
from effvis.visualize import Overlay, draw, side_by_side, sketch
from pipeline.system.arguments import positive_int, positive_number, probability
from pipeline.system.cli import EXIT_INCOMPLETE, parser, progress_bar
from pipeline.weights.arguments import add_model_arguments

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from effvis.data.dataset import Category
    from effvis.predictor import TrackedVideo
    from effvis.video import BrokenVideo, Footage

LEGIBLE_SIDE = 480  # pixels; texts are 11 pixels high however small the video is
FORMATS = ("mots", "coco")
JPEG_QUALITY = 95
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


def write_mots(tracked: TrackedVideo, footage: Footage, categories: Sequence[Category], file: Path, classes_file: Path) -> None:
    """Writes MOTS text, and the names of its classes in the form that ``pipeline.import_masks --categories`` reads.

    Raises:
        UserError: there are more tracklets than the format has numbers for.
    """
    classes = mots_classes(categories)
    lines = mots_lines(tracked, classes, frame_numbers(_frame_files(tracked, footage)))
    with replacing_file(file) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as text:
        text.writelines(f"{line}\n" for line in lines)
    with replacing_file(classes_file) as unfinished:
        names = {number: category.name for number, category in classes.items()}
        unfinished.write_text(yaml.safe_dump(names, allow_unicode=True), encoding="utf-8")


def write_coco(tracked: TrackedVideo, footage: Footage, categories: Sequence[Category], name: str, file: Path) -> None:
    """Writes the video in COCO's format with track ids."""
    content = coco(tracked, categories, name=name, files=_frame_files(tracked, footage), fps=footage.fps)
    with replacing_file(file) as unfinished:
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def write_frames(tracked: TrackedVideo, footage: Footage, folder: Path) -> None:
    """Writes the frames as JPEG files of the names that the other files give them."""
    with replacing_folder(folder) as new:
        for name, frame in zip(_frame_files(tracked, footage), footage.frames(), strict=False):
            Image.fromarray(frame).save(new / name, quality=JPEG_QUALITY)


def _frame_files(tracked: TrackedVideo, footage: Footage) -> Sequence[str]:
    """The names of the tracked frames' files; those of a video file would be 00000.jpg and so on."""
    return footage.names[: tracked.length] or [f"{frame:05d}.jpg" for frame in range(tracked.length)]


def write_overlay(tracked: TrackedVideo, footage: Footage, file: Path, *, scale: int, told: Callable[..., None]) -> None:
    """Writes the video with every tracklet in its own colour, and with its class and score."""
    size = {"height": footage.height * scale, "width": footage.width * scale}
    with writing_video(file, **size, fps=footage.fps) as write:
        frames = itertools.islice(footage.frames(), tracked.length)  # a broken video has no more
        for number, frame in enumerate(_counted(frames, footage.length, told)):
            write(np.asarray(draw(Image.fromarray(frame), _overlays(tracked, number), scale=scale)))


def write_strip(tracked: TrackedVideo, footage: Footage, file: Path, *, count: int, as_sketch: bool) -> None:
    """Writes one picture of ``count`` frames side by side, from the first to the last, with the tracklets drawn over them.

    Args:
        as_sketch: whether to draw over the frames' edges, for videos that may not be shown.
    """
    chosen = set(np.linspace(0, tracked.length - 1, min(count, tracked.length)).round().astype(int).tolist())
    scale = min(1.0, LEGIBLE_SIDE / max(footage.height, footage.width))
    pictures = []
    for number, frame in enumerate(itertools.islice(footage.frames(), tracked.length)):
        if number in chosen:
            shown = sketch(Image.fromarray(frame)) if as_sketch else Image.fromarray(frame)
            pictures.append(draw(shown, _overlays(tracked, number), scale=scale, opacity=0.35))
    strip = side_by_side([pictures], [""])
    with replacing_file(file) as unfinished:
        (strip.quantize(32) if as_sketch else strip).save(unfinished, format="png", optimize=True)


def _overlays(tracked: TrackedVideo, number: int) -> list[Overlay]:
    """What is drawn over a frame: the tracklets that are present in it."""
    return [Overlay(tracklet.rles[number], tracklet.rank - 1, f"{tracklet.category.name} {tracklet.score:.2f}")
            for tracklet in tracked.tracklets if number in tracklet.rles]


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


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _formats(text: str) -> list[str]:
    for name in _names(text):
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"there is no format {name!r}; choose from {', '.join(FORMATS)}")
    return _names(text)


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.predict")
    arguments.add_argument("video", type=Path, metavar="VIDEO", help="a video file, or a folder with a video's frames")
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write to")
    add_model_arguments(arguments, "photo_object, the network for photographs that comes with the project, or the headline run "
                        "if it was trained on data of your own")
    arguments.add_argument("--score", type=probability, default=0.3, help="leave out tracklets below this score (default: 0.3)")
    arguments.add_argument("--classes", type=_names, action="extend", metavar="NAME,NAME", help="leave out tracklets of other "
                           "classes, e.g. person,dog (default: all classes of the model)")
    arguments.add_argument("--format", type=_formats, action="extend", default=[], metavar="FORMAT,FORMAT",
                           help="write the tracklets in these formats as well: mots (MOTS text), coco (COCO with track ids)")
    arguments.add_argument("--frames", action="store_true", help="write the frames that were used as well, as JPEG files: with "
                           "--format, what the importers need of a video file")
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
    arguments.add_argument("--strip", type=positive_int, metavar="N", help="write a picture of N frames side by side as well")
    arguments.add_argument("--sketch", action="store_true", help="with --strip: draw over the edges of frames, not over "
                           "photographs")
    args = arguments.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise UserError(args.out, "--out", "is a file", "Give a folder")
    if args.frames and args.video.is_dir():
        raise UserError("command line", "--frames", f"{args.video} holds the frames already", "Leave it out")
    if args.sketch and args.strip is None:
        raise UserError("command line", "--sketch", "is for the picture of --strip", "Give --strip 4 as well, or leave it out")

    from effvis.model_file import predictor
    from effvis.predictor import categories_named
    from pipeline.weights.models import find_model_for_video

    if not args.no_overlay:
        pyav()  # if it is absent, the user learns so before the work, not after
    footage = open_video(args.video, folder_fps=args.folder_fps).thinned(args.fps)
    found = find_model_for_video(args)
    known = found.advice or f"it knows {', '.join(label.name for label in found.description.labels)}"
    print(f"model: {found.text}; {known}", file=sys.stderr)
    if args.classes is not None:
        categories_named(found.description.labels, args.classes)  # a wrong name is told before the work
    network = predictor(found.description, found.weights, device=args.device, fast=args.fast)
    with progress_bar("tracking") as told:
        frames = UntilBroken(footage.frames())
        tracked = network.track(_counted(frames, footage.length, told), minimum_score=args.score, classes=args.classes)
    _say(tracked, footage, frames.error)
    for file in _write(tracked, footage, found.description.labels, args):
        print(file)
    return 0 if frames.error is None else EXIT_INCOMPLETE


def _write(
    tracked: TrackedVideo, footage: Footage, categories: Sequence[Category], args: argparse.Namespace,
) -> Iterator[Path]:
    path = footage.path.resolve()
    name = path.name if path.is_dir() else path.stem

    def file(end: str) -> Path:
        return args.out / f"{name}_{end}"

    write_results(tracked, file("results.json"))
    yield file("results.json")
    write_table(tracked, footage.fps, file("tracklets.csv"))
    yield file("tracklets.csv")
    if "coco" in args.format:
        write_coco(tracked, footage, categories, name, file("coco.json"))
        yield file("coco.json")
    if args.frames:
        write_frames(tracked, footage, file("frames"))
        yield file("frames")
    if not args.no_overlay:
        scale = args.scale or math.ceil(LEGIBLE_SIDE / max(footage.height, footage.width))
        with progress_bar("drawing") as told:
            write_overlay(tracked, footage, file("overlay.mp4"), scale=scale, told=told)
        yield file("overlay.mp4")
    if args.strip:
        write_strip(tracked, footage, file("strip.png"), count=args.strip, as_sketch=args.sketch)
        yield file("strip.png")
    if "mots" in args.format:  # last, because it alone can fail on what was found
        write_mots(tracked, footage, categories, file("mots.txt"), file("mots_classes.yaml"))
        yield file("mots.txt")
        yield file("mots_classes.yaml")


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
