"""Draws a run's tracklets over validation videos: one picture per video, ground truth above, predictions below.

One colour per identity. The run must have been evaluated. Without --row it is the headline run of the parameters. Without
--out the pictures go to the evaluation's folder in the run store, from where the next sync brings them to MLflow.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from effvis.data.dataset import DatasetIndex
    from effvis.data.masks import RLE
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
    from effvis.inference.predictor import kept_frames
    from effvis.visualize import side_by_side
    from pipeline.index import load_index
    from pipeline.store import RunStore

    params = params.of_dataset(spec.train.dataset_name)
    store = RunStore(params.runs_dir)
    if store.evaluation(spec.train.key, spec.key) is None:
        raise UserError(store.evaluation_folder(spec.train.key, spec.key), "results.json", "this run is not evaluated",
                        "Run python -m pipeline.train and pipeline.evaluate, or pipeline.ablate for a row, first")
    results = json.loads((store.evaluation_folder(spec.train.key, spec.key) / "results.json").read_text())
    index = load_index(params, "val")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for v in _evenly(len(index.videos), videos):
        video = index.videos[v]
        # Results are given for the frames that were scored: all, or those that a lower frame rate keeps.
        scored = kept_frames(video, spec.inference.test_fps if spec.inference.scored_frames == "kept" else None)
        shown = [scored[i] for i in _evenly(len(scored), frames)]
        own = [r for r in results if r["video_id"] == video.id and r["score"] >= minimum_score]
        predicted = [
            (dict(zip(scored, r["segmentations"], strict=True)), f"{_category(index, r['category_id'])} {r['score']:.2f}")
            for r in _one_class_each(own)]
        truth = [(dict(enumerate(track.rles)), index.categories[track.label].name) for track in index.tracks_of(v)]
        path = out / f"{video.id}.png"
        rows = [_row(index, v, shown, tracklets, scale, as_sketch) for tracklets in (truth, predicted)]
        picture = side_by_side(rows, ["truth", "ours"])
        # Lines and few paints: a palette holds them in a third of the bytes.
        (picture.quantize(32) if as_sketch else picture).save(path, optimize=True)
        written.append(path)
    return written


def _row(index: DatasetIndex, v: int, frames: list[int], tracklets: list[tuple[dict[int, RLE | None], str]], scale: int,
         as_sketch: bool) -> list[Image]:
    from PIL import Image

    from effvis.visualize import Overlay, draw, sketch

    pictures = []
    for frame in frames:
        with Image.open(index.images / index.videos[v].file_names[frame]) as image:
            picture = sketch(image) if as_sketch else image.convert("RGB")
        overlays = [Overlay(rles[frame], identity, text) for identity, (rles, text) in enumerate(tracklets) if rles[frame]]
        pictures.append(draw(picture, overlays, scale=scale))
    return pictures


def _one_class_each(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of results with the same masks, one tracklet under several categories, the best."""
    best: dict[str, dict[str, Any]] = {}
    for result in results:
        masks = json.dumps(result["segmentations"])
        if masks not in best or result["score"] > best[masks]["score"]:
            best[masks] = result
    return list(best.values())


def _category(index: DatasetIndex, category_id: int) -> str:
    return next(category.name for category in index.categories if category.id == category_id)


def _evenly(total: int, wanted: int) -> list[int]:
    """``wanted`` positions among ``total``, first and last included."""
    if wanted >= total:
        return list(range(total))
    if wanted == 1:
        return [0]
    return [round(i * (total - 1) / (wanted - 1)) for i in range(wanted)]


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
