"""Writes a trained model as a folder for ``effvis.load``: its weights, configuration and labels, and where they come from.

Such a folder needs neither the data set nor the run store, nor Ray, MLflow or DVC.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.system.cli import parser
from pipeline.system.files import check_out
from pipeline.weights.arguments import add_model_arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.export")
    arguments.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new folder, or an empty one")
    add_model_arguments(arguments)
    args = arguments.parse_args(argv)

    from effvis.model_file import write
    from pipeline.weights.models import find_model

    check_out(args.out)
    found = find_model(args)
    write(args.out, found.description, found.weights)
    print(f"{args.out}: {found.text}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
