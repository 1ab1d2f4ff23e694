"""Frames per second of any methods' networks beside each other: the part of benchmarks.speed for --methods and --rows.

Each network is that of the parameters, with its own input size and clip length, and follows objects through the same video,
from JPEG files to tracklets, as ``effvis.load`` does: reading, resizing, the network, masks of the video's size, run lengths,
and linking. "model" is the time inside the network's own methods, "end to end" is all of it.

Weights are random, so scores say nothing; what depends on scores would be no work at all, or all that is possible. So the
threshold of scores is put where ``objects`` masks per frame are left, in a pass that is not timed. Where weights would change
the work otherwise (how large the proposals are, how many of them overlap), they still do.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from pydantic import TypeAdapter

from benchmarks.turns import CLASSES, Stopwatch, Worker, device_name, draw_frames, own_methods
from effvis import methods as networks
from effvis.data.dataset import Category
from effvis.data.sizes import InputSize, frame_size, written
from effvis.errors import UserError
from effvis.fast.optimise import in_half_precision, optimised
from effvis.predictor import Predictor
from pipeline.grid.given import described
from pipeline.grid.rows import known_tables, runnable_rows
from pipeline.settings.params import RowSettings
from pipeline.tables.form import SpeedConditions
from pipeline.tables.speeds import MeasuredNetwork, SpeedFile, Timed, timed

if TYPE_CHECKING:
    from argparse import Namespace

    from pipeline.settings.params import Params

_INPUT_SIZE = TypeAdapter(InputSize)
SEARCHED_LOGITS, HALVINGS = (-20.0, 20.0), 20  # of the threshold of scores
CALIBRATED_ON = 4  # frames, or one clip where clips are longer


def chosen(params: Params, rows: Sequence[str] | None, wanted: Sequence[str]) -> dict[str, RowSettings]:
    """What is to be measured, by its name: the rows of the wanted methods, or without rows each method's network by itself.

    Args:
        rows: tables, or single rows as ``<table>:<row's name>``.

    Raises:
        UserError: there is no such table or row to run, or none of the rows is of a wanted method.
    """
    if rows is None:
        return {name: RowSettings(method=name) for name in wanted}
    found = {}
    for text in rows:
        table, _, name = text.partition(":")
        known = {f"{table}:{row.name}": settings for row, settings in runnable_rows(params, table)}
        if name and text not in known:
            raise UserError("--rows", text, f"{table} has no such row to run", f"Its rows are {', '.join(map(repr, known))}")
        found |= {text: known[text]} if name else known
    of_wanted = {name: settings for name, settings in found.items() if _method(params, settings) in wanted}
    if not of_wanted:
        raise UserError("--rows", " ".join(rows), f"no row of {', '.join(wanted)} is run in it",
                        f"The tables are {', '.join(known_tables(params))}")
    return of_wanted


def _method(params: Params, settings: RowSettings) -> str:
    return settings.method if settings.weights is None else described(params.root / settings.weights)[0].method


def measure(params: Params, rows: Mapping[str, RowSettings], args: Namespace) -> SpeedFile:
    """All networks of these rows, each once, in turns: one video each in every round."""
    names: dict[str, list[str]] = {}
    unique: dict[str, Timed] = {}
    for name, settings in rows.items():
        one = timed(params, settings, CLASSES)
        unique[one.key] = one
        names.setdefault(one.key, []).append(name)
    (frames,) = args.frames
    video_size = args.video_size or _video_size(params)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        video = Path(folder) / "video"
        video.mkdir()
        draw_frames(video, frames, *video_size)
        workers = {}
        for number, (key, one) in enumerate(unique.items()):
            job = Path(folder) / f"{number}.json"
            job.write_text(json.dumps(_job(one, video, args)), encoding="utf-8")
            workers[key] = Worker(names[key][0], ("benchmarks.method_speed", str(job)))
            stack.callback(workers[key].close)
        for turn in range(args.rounds + 1):
            for worker in workers.values():
                worker.take()
                print(f"round {turn}: {worker.name} {worker.clips[-1]['seconds']['end_to_end']:.2f} s", file=sys.stderr,
                      flush=True)
    conditions = SpeedConditions(
        device=device_name(args.device), threads=args.threads, torch=torch.__version__, precision=args.precision,
        network="fast" if args.fast else "plain", frames=frames, video_size=video_size, classes=CLASSES,
        objects=args.objects, rounds=args.rounds)
    return SpeedFile(conditions=conditions, networks=[
        _measured(one, names[key], workers[key], frame_size(one.input_size, *video_size), frames)
        for key, one in unique.items()])


def _video_size(params: Params) -> tuple[int, int]:
    """That of the drawn data set, or YouTube-VIS's most frequent one."""
    if params.generated_name is None:
        return 720, 1280
    return params.shapes_config.height, params.shapes_config.width


def _job(one: Timed, video: Path, args: Namespace) -> dict[str, Any]:
    """What a worker needs to know, as plain values."""
    return {"method": one.model.method, "model": one.model.model_dump(mode="json"), "input_size": written(one.input_size),
            "inference": one.inference.model_dump(mode="json"), "video": str(video), "objects": args.objects,
            "threads": args.threads, "device": args.device, "precision": args.precision, "fast": args.fast}


def _measured(one: Timed, rows: Sequence[str], worker: Worker, size: tuple[int, int], frames: int) -> MeasuredNetwork:
    per_second = {stage: round(frames / statistics.median(worker.seconds((stage,))), 4) for stage in ("model", "end_to_end")}
    last = worker.clips[-1]
    return MeasuredNetwork(
        key=one.key, method=one.model.method, rows=rows, clip_length=one.model.clip_length, input_size=size,
        masks_per_frame=round(last["masks"] / frames, 2), gflop_per_frame=round(last["operations"] / frames / 1e9, 3),
        fps_model=per_second["model"], fps_end_to_end=per_second["end_to_end"])


def table(found: SpeedFile) -> str:
    """The measurement as markdown."""
    of = found.conditions
    lines = [f"{of.device}, {of.threads} threads, {of.precision}, {of.network} networks; {of.frames} frames of "
             f"{of.video_size[0]}x{of.video_size[1]}, {of.objects} objects; medians of {of.rounds} rounds in turns", "",
             "| network | method | T | input | masks per frame | GFLOP per frame | FPS, model | FPS, end to end |",
             "| --- | --- | --: | --: | --: | --: | --: | --: |"]
    lines += [f"| {'; '.join(one.rows)} | {one.method} | {one.clip_length} | {one.input_size[0]}x{one.input_size[1]} | "
              f"{one.masks_per_frame:.1f} | {one.gflop_per_frame:.2f} | {one.fps_model:.2f} | {one.fps_end_to_end:.2f} |"
              for one in found.networks]
    return "\n".join(lines)


def work(job: Mapping[str, Any]) -> None:
    """Follows objects through the video for each line of standard input, and answers with seconds, operations and masks."""
    torch.set_num_threads(job["threads"])
    predictor = ready(job)
    files = sorted(Path(job["video"]).iterdir())
    found_for = max(predictor.model.config.clip_length, CALIBRATED_ON)
    predictor.inference = predictor.inference.model_copy(
        update={"presence_threshold": threshold(predictor, files[:found_for], job["objects"])})
    watch = Stopwatch(predictor.model, job["device"], own_methods(predictor.model))
    for _ in sys.stdin:
        watch.seconds = 0.0
        began = watch.now()
        tracked = predictor.track(_images(files), minimum_score=0.0)
        seconds = {"model": watch.seconds, "end_to_end": watch.now() - began}
        watch.counts = False
        masks = sum(len(tracklet.rles) for tracklet in tracked.tracklets)
        print(json.dumps({"seconds": seconds, "operations": watch.operations, "masks": masks}), flush=True)


def ready(job: Mapping[str, Any]) -> Predictor:
    """The network of a job, with random weights, on its device."""
    torch.manual_seed(0)
    method = networks.get(job["method"])
    config = method.config.model_validate(job["model"])
    input_size = _INPUT_SIZE.validate_python(job["input_size"])
    model = method.build(config).eval().requires_grad_(False).to(job["device"])
    with Image.open(next(Path(job["video"]).iterdir())) as first:
        seen_size = frame_size(input_size, first.height, first.width)
    if job["fast"]:
        model = optimised(model, seen_size, precision=job["precision"])
    elif job["precision"] == "bf16":
        in_half_precision(model)
    categories = [Category(id=number, name=f"class {number}") for number in range(1, config.num_classes + 1)]
    return Predictor(model, input_size=input_size, inference=method.inference.model_validate(job["inference"]),
                     categories=categories)


def threshold(predictor: Predictor, files: Sequence[Path], objects: int) -> float:
    """The highest threshold of scores at which as many masks as ``objects`` per frame are left, or as many as there are.

    It is searched, not read from scores: some methods compare another number with it than the score that they give, and in
    some a detection takes another one's place in a tracklet. Scores of random weights lie close together, near the prior.
    """
    wanted = min(objects * len(files), masks_found(predictor, files, 0.0))
    if not wanted:
        raise SystemExit("the network finds nothing, even without a threshold: there is nothing to time")
    found, missed = SEARCHED_LOGITS
    for _ in range(HALVINGS):
        middle = (found + missed) / 2
        if masks_found(predictor, files, _sigmoid(middle)) >= wanted:
            found = middle
        else:
            missed = middle
    return _sigmoid(found)


def masks_found(predictor: Predictor, files: Sequence[Path], threshold: float) -> int:
    """How many masks there are in these frames above a threshold of scores. The predictor keeps its own."""
    own = predictor.inference
    predictor.inference = own.model_copy(update={"presence_threshold": threshold})
    tracked = predictor.track(_images(files), minimum_score=0.0)
    predictor.inference = own
    return sum(len(tracklet.rles) for tracklet in tracked.tracklets)


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def _images(files: Sequence[Path]) -> Iterator[Image.Image]:
    """The frames of the video, each read when it is asked for."""
    for file in files:
        with Image.open(file) as image:
            yield image


if __name__ == "__main__":
    work(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
