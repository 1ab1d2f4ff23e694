"""Draws a run's tracklets over validation videos: one picture per video, ground truth above, predictions below.

One colour per identity. The run must have been evaluated. Without --row it is the headline run of the parameters. Without
--out the pictures go to the evaluation's folder in the run store, from where the next sync brings them to MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.specs import EvalSpec


def overlay_pictures(
    params: Params, spec: EvalSpec, out: Path, *, videos: int, frames: int, scale: int, minimum_score: float, as_sketch: bool,
) -> list[Path]:
    """Writes ``<out>/<video id>.png`` for evenly spaced videos of the validation split.

    Args:
        videos, frames: how many, evenly spaced over the split and over each video.
        scale: pixels per pixel of the frame.
        minimum_score: predictions below are not drawn.
        as_sketch: over the frames' edges rather than the photographs, for data that may not be redistributed.

    Raises:
        UserError: the run is not evaluated.
    """
    from effvis.visualize import side_by_side
    from pipeline.drawn import evenly, from_results, scored_frames, stored_results, truth
    from pipeline.index import load_index
    from pipeline.pictures import frames_with

    params = params.of_dataset(spec.train.dataset_name)
    results = stored_results(params, spec)
    index = load_index(params, "val")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for v in evenly(len(index.videos), videos):
        scored = scored_frames(spec, index, v)
        shown = [scored[i] for i in evenly(len(scored), frames)]
        groups = (truth(index, v), from_results(results, spec, index, v, minimum_score))
        path = out / f"{index.videos[v].id}.png"
        backdrop = "sketch" if as_sketch else "photograph"
        rows = [frames_with(index, v, shown, drawn, range(len(drawn)), scale=scale, backdrop=backdrop, texts=True)
                for drawn in groups]
        picture = side_by_side(rows, ["truth", "ours"])
        # Lines and few paints: a palette holds them in a third of the bytes.
        (picture.quantize(32) if as_sketch else picture).save(path, optimize=True)
        written.append(path)
    return written


def main(argv: list[str] | None = None) -> int:
    from pipeline.cli import add_row_arguments, parser

    arguments = parser(__doc__, "pipeline.overlays")
    arguments.add_argument("--out", type=Path, help="folder for the pictures (default: pictures, beside the evaluation)")
    add_row_arguments(arguments)
    arguments.add_argument("--videos", type=int, default=4, help="how many videos (default: 4)")
    arguments.add_argument("--frames", type=int, default=6, help="how many frames of each (default: 6)")
    arguments.add_argument("--scale", type=int, default=2, help="enlargement of the frames (default: 2)")
    arguments.add_argument("--score", type=float, default=0.3, help="leave out predictions below (default: 0.3)")
    arguments.add_argument("--sketch", action="store_true", help="draw over the frames' edges, not over the photographs")
    args = arguments.parse_args(argv)

    from pipeline.config import find_evaluation, load_params
    from pipeline.store import RunStore

    for name in ("videos", "frames", "scale"):
        if getattr(args, name) < 1:
            raise UserError("command line", f"--{name}", f"{getattr(args, name)} is not at least 1", "Give a larger number")
    params = load_params(args.params, args.set)
    spec = find_evaluation(params, args.row, args.seed)
    out = args.out or RunStore(params.runs_dir).evaluation_folder(spec.train.key, spec.key) / "pictures"
    for path in overlay_pictures(params, spec, out, videos=args.videos, frames=args.frames, scale=args.scale,
                                 minimum_score=args.score, as_sketch=args.sketch):
        print(path)
    return 0


if __name__ == "__main__":
    from pipeline.cli import run

    run(main)
