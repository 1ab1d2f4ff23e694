"""Puts the data set in place: draws shapes-vis, imports a published data set, or checks a folder of your own.

A generated data set is drawn into data/<name>, unless the same one is there already. YouTube-VIS 2019 and 2021 and OVIS
(-S dataset=youtube-vis-2019, youtube-vis-2021, ovis) require registration; without --from this command says where. Then
give your downloads with --from: archives, annotations, or a folder that holds them, packed or unpacked. The command puts them
into data/<name>/{train,val}/, each with JPEGImages/ and instances.json. A folder of your own is only checked.
"""

from __future__ import annotations

import sys
from pathlib import Path

from effvis.errors import UserError
from pipeline.datasets.fetch import SCHEMES
from pipeline.system import cli


def _from_here(location: str) -> str:
    """A path on the command line is relative to where the command runs; a path in params.yaml is relative to that file."""
    if not location:
        raise UserError("--from", "''", "is empty", "Give a file, a folder or an address")
    return location if location.split(":")[0] in SCHEMES else str(Path.cwd() / location)


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__, "pipeline.download")
    arguments.add_argument("--from", dest="given", action="append", default=[], metavar="FILE|FOLDER|ADDRESS",
                           help="where to import a published data set from (may be repeated; default: sources.<name> in the "
                           "parameters)")
    args = arguments.parse_args(argv)
    from pipeline.datasets.place import is_generated, put_in_place
    from pipeline.settings.loading import load_params
    from pipeline.settings.params import ArchiveSettings

    params = load_params(args.params, args.set)
    given = [ArchiveSettings(location=_from_here(location)) for location in args.given]
    with cli.progress_bar("drawing" if is_generated(params) else "taking in") as progress:
        new = put_in_place(params, progress, given)
    done = ("drawn" if is_generated(params) else "taken in") if new else \
        "found" if params.generated_name is params.published_name is None else "already there"
    print(f"{params.dataset_name}: {done}, {params.dataset_folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
