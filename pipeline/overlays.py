"""Draws a run's tracklets over videos that it was measured on: one picture per video, ground truth above, predictions below.

Each identity has one colour. The run must have been evaluated. Without --row it is the headline run of the parameters.
Without --out the pictures go to the evaluation's folder in the run store, from which the next sync copies them to MLflow.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.runs.store import RunStore
from pipeline.system.arguments import positive_int, probability
from pipeline.system.cli import add_row_arguments, add_split_argument, parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.overlays")
    arguments.add_argument("--out", type=Path, help="folder for the pictures (default: pictures, beside the evaluation)")
    add_row_arguments(arguments)
    add_split_argument(arguments)
    arguments.add_argument("--videos", type=positive_int, default=4, help="how many videos (default: 4)")
    arguments.add_argument("--frames", type=positive_int, default=6, help="how many frames of each video (default: 6)")
    arguments.add_argument("--scale", type=positive_int, default=2, help="enlargement of the frames (default: 2)")
    arguments.add_argument("--score", type=probability, default=0.3,
                           help="leave out predictions below this score (default: 0.3)")
    arguments.add_argument("--sketch", action="store_true", help="draw over the edges of frames, not over photographs")
    args = arguments.parse_args(argv)

    from pipeline.grid.rows import find_evaluation
    from pipeline.reporting.overlays import overlay_pictures
    from pipeline.settings.loading import load_params

    params = load_params(args.params, args.set)
    spec = find_evaluation(params, args.row, args.seed)
    out = args.out or RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "pictures"
    for path in overlay_pictures(params, spec, out, videos=args.videos, frames=args.frames, scale=args.scale,
                                 minimum_score=args.score, as_sketch=args.sketch):
        print(path)
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
