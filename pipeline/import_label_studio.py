"""Turns masks that were drawn in Label Studio on the frames of videos into a data set in the YouTube-VIS format.

EXPORT.json is the project exported as JSON: brush masks (BrushLabels) and polygons (PolygonLabels) on images. IMAGES is the
folder with these images, one folder inside it per video; frames are copied. An image is found by the end of its address, also
without the prefix that uploads have.

Label Studio does not say which region of one image is the same object as which of another. So a label is one object of its
video: give each object its own (dog 1, dog 2), and draw it as one region. CATEGORIES is a YAML mapping from labels, or patterns
such as "dog *", to categories; null leaves a label out. Without it, the labels are the categories.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effvis.errors import UserError
from pipeline.importers.label_studio import import_label_studio
from pipeline.system import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.import_label_studio", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="the folder of the images")
    parser.add_argument("export", type=Path, metavar="EXPORT.json")
    parser.add_argument("--categories", type=Path, metavar="FILE", help="YAML file of categories by label, see above")
    cli.add_import_arguments(parser, "video")
    args = parser.parse_args(argv)
    warnings: list[UserError] = []
    with cli.progress_bar("copying frames") as progress:
        written = import_label_studio(args.images, args.export, args.out, categories_file=args.categories, fps=args.fps,
                                      val=tuple(args.val), progress=progress, warn=warnings.append)
    cli.tell_warnings(warnings)
    cli.tell_imported(args.out, written, "video")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
