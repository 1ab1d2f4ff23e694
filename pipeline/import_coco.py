"""Turns a COCO JSON file whose annotations have track ids into a data set in the YouTube-VIS format.

IMAGES is the folder that each image's file_name is relative to; frames are copied. The command reads the layouts of
  CVAT         annotations[].attributes.track_id; the images of a folder are a video,
  mmtracking   annotations[].instance_id; videos[], images[].video_id and .frame_id (CocoVID),
  TAO, BURST   annotations[].track_id; videos[], images[].video_id and .frame_index.
Masks are polygons, RLE or uncompressed RLE. Annotations with the same track id in the same video form a track, and those of the
same image its mask; in frames without an annotation of it, it is not visible. Frames are ordered by frame_id or frame_index, or
else by name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effvis.errors import UserError
from pipeline.importers.coco import import_coco
from pipeline.system import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.import_coco", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="the folder of the frames")
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS.json")
    cli.add_import_arguments(parser, "video")
    args = parser.parse_args(argv)
    warnings: list[UserError] = []
    with cli.progress_bar("copying frames") as progress:
        written = import_coco(args.images, args.annotations, args.out, fps=args.fps, val=tuple(args.val), progress=progress,
                              warn=warnings.append)
    cli.tell_warnings(warnings)
    cli.tell_imported(args.out, written, "video")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
