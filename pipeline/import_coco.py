"""Turns a COCO JSON file whose annotations have track ids into a data set in the YouTube-VIS format.

IMAGES is the folder that file_name of the images is relative to; frames are copied. Read are the layouts of
  CVAT         annotations[].attributes.track_id; the images of a folder are a video,
  mmtracking   annotations[].instance_id; videos[], images[].video_id and .frame_id (CocoVID),
  TAO, BURST   annotations[].track_id; videos[], images[].video_id and .frame_index.
Masks are polygons, RLE or uncompressed RLE. A track is what has the same track id in the same video; in frames without an
annotation of it, it is not seen. Frames are in the order of frame_id or frame_index, else of their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.importing import Progress


def import_coco(
    images: Path, annotations: Path, out: Path, *, fps: float, val: tuple[str, ...] = (), progress: Progress | None = None,
) -> dict[str, int]:
    """Writes the data set ``out``, as a whole or not at all.

    Args:
        val: patterns of the videos to validate on.
        progress: called with (frames written, frames in all).

    Returns:
        Videos written per split.

    Raises:
        UserError: the first thing that is wrong with the file or a frame; or ``out`` exists.
    """
    from effvis.data.atomic import replacing_folder
    from effvis.data.frame_files import natural
    from pipeline.coco import CocoFile
    from pipeline.importing import check_options, counted, held_out, write_split

    check_options(out, fps)
    if not images.is_dir():
        raise UserError(images, "IMAGES", "no such folder", "Give the folder that the file names are relative to")
    categories, videos = CocoFile(annotations).read(images)
    names = sorted((video.name for video in videos), key=natural)
    validating = held_out(names, val, "video")
    splits = {"train": [v for v in videos if v.name not in validating], "val": [v for v in videos if v.name in validating]}
    if not splits["train"]:
        raise UserError(annotations, "images", "no video to train on", "Leave one out of --val")
    told = counted(progress, sum(len(video.frames) for video in videos))
    with replacing_folder(out) as new:
        for split, found in splits.items():
            if found:
                write_split(new / split, found, categories, fps=fps, told=told, description=f"imported from COCO, {split}")
    return {split: len(found) for split, found in splits.items()}


def main(argv: list[str] | None = None) -> int:
    import argparse

    from pipeline import cli

    parser = argparse.ArgumentParser(prog="python -m pipeline.import_coco", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="the folder of the frames")
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    cli.add_import_arguments(parser, "video")
    args = parser.parse_args(argv)
    with cli.progress_bar("copying frames") as progress:
        written = import_coco(args.images, args.annotations, args.out, fps=args.fps, val=tuple(args.val), progress=progress)
    cli.tell_imported(args.out, written, "video")
    return 0


if __name__ == "__main__":
    from pipeline.cli import run
    run(main)
