"""Turns frames and masks in PNG files into a data set in the YouTube-VIS format.

FOLDER holds JPEGImages/<sequence>/ and Annotations/<sequence>/, or train/ and val/ with both in each. Frames are copied.
The masks of each sequence are either
  <frame>.png             one file per frame (as in DAVIS): a pixel's value is the number of its instance, 0 is background,
                          255 is ignored; or in RGB, a pixel's colour is its instance, black is background; or
  <instance>/<frame>.png  one folder per instance (as in SegTrack v2): pixels that are not 0 are the instance; in a frame
                          without a file it is not visible.

In DAVIS, the folder of a resolution lies between (JPEGImages/480p/<sequence>), and ImageSets/<year> lists train and val.

CATEGORIES is a YAML mapping from a sequence's name, or a pattern such as car-*, to a category. Where a sequence shows several
categories, the entry is a mapping from instance (its number, its colour as "#ff0000", or the name of its folder) to category.
The most specific entry counts. null leaves a sequence or an instance out. Without --categories, FOLDER (or train/) must hold
meta.json in the form of YouTube-VOS; frames without a mask are then left out.

Masks of 16 bits may have numbers above 255; 255 and 65535, and white in masks of colours, then count only if CATEGORIES lists
them by number or colour.

With --layout kitti-mots, FOLDER holds frames in images/, image_02/ or training/image_02/<sequence>/, and masks of KITTI-MOTS or
MOTSChallenge in instances/<sequence>/<frame>.png (16-bit: class * 1000 + instance) or in instances_txt/<sequence>.txt; or
<sequence>/img1/ and <sequence>/gt/gt.txt. 10000 is ignored. CATEGORIES then maps class numbers to categories:
{1: car, 2: pedestrian}.

If FOLDER is not split, --val names the sequences to validate on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effvis.errors import UserError
from pipeline.importers.masks import import_masks
from pipeline.importers.mots import import_mots
from pipeline.system import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.import_masks", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="frames and masks")
    parser.add_argument("--categories", type=Path, metavar="FILE",
                        help="YAML file of categories, see above (default: those of meta.json)")
    parser.add_argument("--layout", choices=["kitti-mots"], help="layout of FOLDER, if it is not the first of the above")
    cli.add_import_arguments(parser, "sequence")
    args = parser.parse_args(argv)
    if args.layout and args.categories is None:
        raise UserError("command line", "--categories", f"is missing: --layout {args.layout} has numbers for its classes",
                        "Give a YAML file that maps them to categories, e.g. {1: car, 2: pedestrian}")
    warnings: list[UserError] = []
    with cli.progress_bar("copying frames") as progress:
        options = {"fps": args.fps, "val": tuple(args.val), "progress": progress}
        if args.layout:
            written = import_mots(args.folder, args.categories, args.out, **options)
        else:
            written = import_masks(args.folder, args.categories, args.out, **options, warn=warnings.append)
    cli.tell_warnings(warnings)
    cli.tell_imported(args.out, written, "sequence")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
