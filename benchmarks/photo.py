"""How well main objects are followed in sequences that were not trained on: five folds over all sequences of a folder.

    python -m benchmarks.photo ../shared/real/davis-mini --out folds/imagenet                 # every fold, one after the other
    python -m benchmarks.photo ../shared/real/davis-mini --out folds/imagenet --fold 2        # one of them
    python -m benchmarks.photo ../shared/real/davis-mini --out folds/scratch --start scratch
    python -m benchmarks.photo ../shared/real/davis-mini --out folds/shapes --profile laptop -S model.backbone=tiny \\
        --start effvis/pretrained/laptop_cl.safetensors
    python -m benchmarks.photo ../shared/real/davis-mini --out folds/try --inner -S pretrain.train.lr=2e-4
    python -m benchmarks.photo ../shared/real/davis-mini --out folds/imagenet --all --export effvis/pretrained/photo_object \\
        --about benchmarks/photo_object.yaml

FOLDER holds frames and masks as ``pipeline.import_masks`` reads them; train/ and val/ are taken together, and every instance is
an "object". Fold k is scored on every fifth sequence from the k-th on, and trained on the others with the profile's settings:
first on pairs of single frames, then on clips. Both networks are scored, the first at one frame per clip. --inner is for
choosing settings: the fold's own sequences are left out altogether, and every fourth of the others is scored instead.

Each fold has a file OUT/fold-K.json, written after each of the two trainings; a second call goes on after the last one that is
there. At the end, the benchmark prints AP, AP50 and AP75 of each fold, their means, the same of all folds' results together,
and the IoU of each sequence's best-scored tracklet: over all frames of the sequence, with the instance that it overlaps most.
--sketches draws truth and tracklets as outlines over the frames' edges.

--all trains on all sequences and scores nothing: OUT/all.json. --export writes the network of --all, or of one --fold, as a
model's folder in half precision, with its provenance: how it was trained, what the file of --about says of data, licence and
credit, and AP in the five folds, if OUT has them with the same settings.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from effvis.config import InferenceConfig
from effvis.data import masks
from effvis.data.dataset import DatasetIndex
from effvis.data.index import clip_index
from effvis.data.sizes import written
from effvis.data.youtube_vis import read_split
from effvis.errors import UserError
from effvis.evaluation.video_ap import evaluate
from effvis.inference.predictor import Predictions
from effvis.training.loop import train
from effvis.visualize import Overlay, draw, side_by_side, sketch
from pipeline import methods
from pipeline.engine.training import set_up_torch, start
from pipeline.grid import imagenet
from pipeline.grid.starts import Initial
from pipeline.identity.digests import training_digest
from pipeline.identity.specs import TrainSpec
from pipeline.importers.mask_folders import FRAMES, MASKS
from pipeline.importers.masks import import_masks
from pipeline.runs.environment import environment
from pipeline.settings.loading import load_params, read_mapping
from pipeline.settings.params import Params
from pipeline.system.files import check_out, write_atomically
from pipeline.weights.shipped_model import write_half

ROOT = Path(__file__).resolve().parents[1]
FOLDS = 5
OBJECT = "object"
NUMBERS = ("AP", "AP50", "AP75")
Stage = Literal["frames", "clips"]
STAGES: tuple[Stage, ...] = ("frames", "clips")
SHOWN_FRAMES = 5


class Fold(NamedTuple):
    """The names of the sequences of a fold; where none are scored, of a training on all."""

    train: list[str]
    scored: list[str]


def fold_of(names: Sequence[str], number: int, inner: bool) -> Fold:
    """Fold ``number`` of the sorted names; ``inner``: what is scored is a part of its training sequences."""
    scored = sorted(names)[number::FOLDS]
    others = [name for name in sorted(names) if name not in scored]
    if inner:
        scored = others[number % 4::4]
    return Fold([name for name in others if name not in scored], scored)


def gather(folder: Path, work: Path) -> list[str]:
    """Links the sequences of a folder, or of its train/ and val/, below one folder ``work``; returns their names."""
    parts = [part for part in (folder, folder / "train", folder / "val") if (part / FRAMES).is_dir()]
    found = {sequence.name: part for part in parts for sequence in sorted((part / FRAMES).iterdir()) if sequence.is_dir()}
    if len(found) < FOLDS:
        raise UserError(folder, "FOLDER", f"has {len(found)} sequences in {FRAMES}/, train/{FRAMES}/ and val/{FRAMES}/",
                        f"Give a folder with at least {FOLDS}")
    for kind in (FRAMES, MASKS):
        (work / kind).mkdir(parents=True, exist_ok=True)
        for name, part in found.items():
            link = work / kind / name
            if not link.is_symlink():
                link.symlink_to((part / kind / name).resolve())
    return sorted(found)


def import_fold(work: Path, fold: Fold, out: Path) -> Path:
    """A fold as a data set, in which every instance is an object; sequences that it leaves out are not in it."""
    if not out.is_dir():
        names = [entry.name for entry in (work / FRAMES).iterdir()]
        categories = work / f"{out.name}.yaml"
        categories.write_text(yaml.safe_dump({
            name: OBJECT if name in (*fold.train, *fold.scored) else None for name in names}))
        import_masks(work, categories, out, fps=6.0, val=tuple(fold.scored))
    return out


def trained(
    params: Params, stage: Stage, index: DatasetIndex, initial: Initial | None, seed: int
) -> Iterator[tuple[int, int, float, nn.Module]]:
    """Trains a network on single frames or clips as the pipeline does, yielding step, all steps, loss and the network."""
    method = methods.get(methods.DEFAULT)
    if stage == "frames":
        config, length = method.pretrain_config(params, True), 1
    else:
        config, length = method.train_config(params, True), params.clip_length(params.headline.T)
    model = params.model.resolve(len(index.categories), length)
    spec = TrainSpec("train", model.at_one_frame() if stage == "frames" else model, config, seed, params.input_size, OBJECT,
                     index.digest, "")
    begun = start(spec, index, clip_index(index, length), initial)
    for step in train(begun.model, begun.losses_of, begun.pairs, config, accumulate=params.resources.accumulate):
        yield step.step, step.total_steps, step.losses["total"], begun.model


def first_weights(params: Params, name: str) -> Initial | None:
    """What the training on single frames starts from: ``imagenet``, ``scratch`` or a safetensors file of the whole network."""
    if name == "scratch":
        return None
    if name == "imagenet":
        imagenet.start(params.model)  # says so where there are none for this backbone
        return imagenet.load(params.model)
    path = Path(name)
    if not path.is_file():
        raise UserError("--start", name, "there is no such file", "Give imagenet, scratch or a safetensors file")
    return Initial(load_file(path))


def best_ious(index: DatasetIndex, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """By sequence, the IoU of its best-scored tracklet and the instance that it overlaps most; 0 without a tracklet."""
    ious = {}
    for number, video in enumerate(index.videos):
        found = [result for result in results if result["video_id"] == video.id]
        best = max(found, key=lambda result: result["score"], default=None)
        ious[Path(video.file_names[0]).parent.name] = 0.0 if best is None else max(
            masks.tracklet_iou(best["segmentations"], track.rles) for track in index.tracks_of(number))
    return ious


def scores(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """AP, AP50 and AP75 in percent."""
    metrics = evaluate(dict(truth), list(results), allow_empty=True).metrics
    return {name: round(100 * metrics[name], 2) for name in NUMBERS}


def run_stage(params: Params, stage: Stage, data: Path, initial: Initial | None, args: argparse.Namespace,
              weights: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Trains and saves the weights; returns the network and what a fold's file says of the training."""
    index = read_split(data / "train")
    began, processor = time.monotonic(), time.process_time()
    for step, total, loss, network in trained(params, stage, index, initial, args.seed):
        model = network
        last = step == (min(total, args.steps) if args.steps else total)
        if step % args.every == 0 or last:
            used = time.process_time() - processor
            print(f"  {stage}: step {step} of {total}, loss {loss:.2f}, {used / step:.2f} s of a processor each", flush=True)
        if last:
            break
    seconds, processor = time.monotonic() - began, time.process_time() - processor
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    return model, {"steps": step, "seconds": round(seconds, 1), "cpu_seconds": round(processor, 1)}


def scored(params: Params, model: nn.Module, data: Path) -> dict[str, Any]:
    """What a fold's file says of a network's scores, with the results."""
    index, truth = read_split(data / "val"), json.loads((data / "val" / "instances.json").read_text())
    results = predicted(params, model, index).results
    return {**scores(truth, results), "iou": best_ious(index, results), "results": results}


def predicted(params: Params, model: nn.Module, index: DatasetIndex) -> Predictions:
    config: InferenceConfig = params.inference_of(methods.DEFAULT)
    return methods.get(methods.DEFAULT).predict(model, index, config, params.input_size, None)


def run_fold(params: Params, work: Path, name: str, fold: Fold, args: argparse.Namespace) -> dict[str, Any]:
    """Does what the file OUT/<name>.json of a fold lacks; returns its content."""
    file = args.out / f"{name}.json"
    facts = {"settings": settings_of(args), "train": fold.train, "scored": fold.scored}
    content = json.loads(file.read_text()) if file.is_file() else facts
    if {key: content[key] for key in facts} != facts:
        raise UserError(file, "settings", "is of a fold with other settings or sequences", "Give another --out, or remove it")
    data = import_fold(work, fold, args.out / "data" / name)
    initial = first_weights(params, args.start)
    for stage in STAGES[: STAGES.index(args.until) + 1]:
        weights = args.out / f"{name}-{stage}.safetensors"
        if stage not in content:
            print(f"{name.replace('-', ' ')}, {stage}: {', '.join(fold.scored or fold.train)}", flush=True)
            model, told = run_stage(params, stage, data, initial, args, weights)
            content[stage] = told | (scored(params, model, data) if fold.scored else {})
            write_atomically(file, json.dumps(content).encode())
        initial = Initial(load_file(weights))
    return content


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    return {"profile": args.profile, "set": args.set, "start": args.start, "inner": args.inner, "seed": args.seed,
            "steps": args.steps}


def together(folds: Sequence[tuple[Path, Mapping[str, Any]]], stage: Stage) -> dict[str, float]:
    """AP, AP50 and AP75 of the results of several folds, whose videos get numbers of their own."""
    videos, annotations, results = [], [], []
    for number, (data, content) in enumerate(folds):
        truth = json.loads((data / "val" / "instances.json").read_text())
        shift = 1000 * number
        videos += [video | {"id": video["id"] + shift} for video in truth["videos"]]
        annotations += [entry | {"id": entry["id"] + shift, "video_id": entry["video_id"] + shift}
                        for entry in truth["annotations"]]
        results += [result | {"video_id": result["video_id"] + shift} for result in content[stage]["results"]]
    return scores(truth | {"videos": videos, "annotations": annotations}, results)


def report(out: Path) -> str:
    """The tables of all folds that are there."""
    contents = {int(file.stem.rpartition("-")[2]): json.loads(file.read_text()) for file in sorted(out.glob("fold-*.json"))}
    lines = ["| fold | after | steps | minutes | of a processor | AP | AP50 | AP75 |",
             "| --- | --- | --: | --: | --: | --: | --: | --: |"]
    ious: dict[str, dict[str, float]] = {}
    for stage in STAGES:
        done = {number: content for number, content in contents.items() if stage in content}
        for number, content in done.items():
            told = content[stage]
            minutes = (told["seconds"] / 60, told["cpu_seconds"] / 60)
            lines.append(_row(number, stage, str(told["steps"]), *(f"{value:.1f}" for value in minutes), *_percent(told)))
            for sequence, iou in told["iou"].items():
                ious.setdefault(sequence, {})[stage] = iou
        if len(done) > 1:
            mean = {name: float(np.mean([content[stage][name] for content in done.values()])) for name in NUMBERS}
            all_of_them = together([(out / "data" / f"fold-{number}", content) for number, content in done.items()], stage)
            lines += [_row(f"mean of {len(done)}", stage, "", "", "", *_percent(mean)),
                      _row("together", stage, "", "", "", *_percent(all_of_them))]
    lines += ["", f"| IoU of the best-scored tracklet | {' | '.join(STAGES)} |", "| --- | --: | --: |"]
    lines += [_row(sequence, *(f"{found[stage]:.2f}" if stage in found else "–" for stage in STAGES))
              for sequence, found in sorted(ious.items())]
    return "\n".join(lines)


def export(params: Params, name: str, content: Mapping[str, Any], command: str, args: argparse.Namespace) -> None:
    """Writes the network of OUT/<name>.json as a model's folder, with where it comes from."""
    index = read_split(args.out / "data" / name / "train")
    model = params.model.resolve(len(index.categories), params.clip_length(params.headline.T))
    dataset = {"name": args.folder.resolve().name, "digest": index.digest, "sequences": content["train"],
               "frames": sum(video.length for video in index.videos)}
    start = imagenet.start(params.model) if args.start == "imagenet" else args.start
    done = environment()
    provenance = {
        "command": command, "date": datetime.date.today().isoformat(), "seed": args.seed, "start": start,
        "dataset": dataset,
        **({} if args.about is None else read_mapping(args.about, "Give a YAML file of names and texts")),
        "folds": folds_like(args),
        "training": {stage: {key: content[stage][key] for key in ("steps", "cpu_seconds")} for stage in STAGES},
        "pretrain": params.pretrain.train.model_dump(mode="json"), "train": params.train.model_dump(mode="json"),
        "code_digest": training_digest(methods.DEFAULT), "git": done["git"], "packages": done["packages"]}
    write_half(args.export, load_file(args.out / f"{name}-{STAGES[-1]}.safetensors"), {
        "method": methods.DEFAULT, "model": model.model_dump(mode="json"), "input_size": written(params.input_size),
        "inference": params.inference_of(methods.DEFAULT).model_dump(mode="json"),
        "labels": [{"id": category.id, "name": category.name} for category in index.categories], "provenance": provenance})
    print(f"{args.export}: {sum(file.stat().st_size for file in args.export.iterdir()) / 1e6:.2f} MB")


def folds_like(args: argparse.Namespace) -> dict[str, float] | None:
    """AP, AP50 and AP75 in percent of the folds' results together; None unless all are there with the same settings."""
    contents = {number: json.loads(file.read_text()) for number in range(FOLDS)
                if (file := args.out / f"fold-{number}.json").is_file()}
    if len(contents) < FOLDS or any(content["settings"] != settings_of(args) or STAGES[-1] not in content
                                    for content in contents.values()):
        return None
    return together([(args.out / "data" / f"fold-{number}", content) for number, content in contents.items()], STAGES[-1])


def _percent(numbers: Mapping[str, float]) -> list[str]:
    return [f"{numbers[name]:.1f}" for name in NUMBERS]


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def draw_sketches(out: Path, number: int) -> None:
    """Writes OUT/<sequence>.png: truth and, of the last stage, every tracklet that scores above half of the best one's."""
    content, index = json.loads((out / f"fold-{number}.json").read_text()), read_split(out / "data" / f"fold-{number}" / "val")
    results = content[next(stage for stage in reversed(STAGES) if stage in content)]["results"]
    for v, video in enumerate(index.videos):
        found = sorted((r for r in results if r["video_id"] == video.id), key=lambda r: -r["score"])
        found = [r for r in found if r["score"] >= found[0]["score"] / 2]
        shown = np.linspace(0, video.length - 1, SHOWN_FRAMES).round().astype(int)
        frames = [sketch(Image.open(index.images / video.file_names[frame])) for frame in shown]
        rows = [[draw(frame, [Overlay(rles[f], identity, text if f == shown[0] else "")
                              for identity, (rles, text) in enumerate(tracks) if rles[f] is not None], opacity=0.35)
                 for f, frame in zip(shown, frames, strict=True)]
                for tracks in ([(track.rles, "") for track in index.tracks_of(v)],
                               [(result["segmentations"], f"{result['score']:.2f}") for result in found])]
        side_by_side(rows, ["truth", "ours"]).quantize(32).save(
            out / f"{Path(video.file_names[0]).parent.name}.png", optimize=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photo", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="frames and masks, e.g. ../shared/real/davis-mini")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where folds, weights and pictures go")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--fold", type=int, action="append", choices=range(FOLDS), help="one fold; may be repeated "
                       "(default: all folds)")
    which.add_argument("--all", action="store_true", help="no fold: train on all sequences, and score nothing")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="with --all or one --fold: write the network as a "
                        "model's folder, in half precision")
    parser.add_argument("--about", type=Path, metavar="FILE", help="with --export: a YAML file of further provenance, e.g. "
                        "licence and credit")
    parser.add_argument("--start", default="imagenet", help="imagenet, scratch, or a safetensors file of the whole network "
                        "(default: imagenet)")
    parser.add_argument("--until", choices=STAGES, default="clips", help="the last training (default: clips)")
    parser.add_argument("--inner", action="store_true", help="score a part of the training sequences, to choose settings")
    parser.add_argument("--profile", default="photo", help="(default: photo)")
    parser.add_argument("-S", dest="set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as in params.yaml")
    parser.add_argument("--steps", type=int, default=0, help="stop each training after so many steps, to try things")
    parser.add_argument("--every", type=int, default=50, help="steps from one line to the next (default: 50)")
    parser.add_argument("--threads", type=int, default=1, help="processor threads (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sketches", action="store_true", help="draw the scored sequences of the folds")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.all and (args.inner or args.sketches):
        parser.error("--all scores nothing: leave out --inner and --sketches")
    if args.export and (not args.all and len(args.fold or ()) != 1 or args.until != STAGES[-1]):
        parser.error(f"--export goes with --all or one --fold, and a training until {STAGES[-1]}")
    if args.export:
        check_out(args.export)
    params = load_params(ROOT / "params.yaml", [f"profile={args.profile}", *args.set, f"resources.threads={args.threads}"])
    set_up_torch(params)
    args.out.mkdir(parents=True, exist_ok=True)
    work = args.out / "data" / "sequences"
    names = gather(args.folder, work)
    done = {}
    for number in () if args.all else args.fold or range(FOLDS):
        done[f"fold-{number}"] = run_fold(params, work, f"fold-{number}", fold_of(names, number, args.inner), args)
        if args.sketches:
            draw_sketches(args.out, number)
    if args.all:
        done["all"] = run_fold(params, work, "all", Fold(names, []), args)
    if args.export:
        command = shlex.join(["python", "-m", "benchmarks.photo", *(sys.argv[1:] if argv is None else argv)])
        for name, content in done.items():
            export(params, name, content, command, args)
    if not args.all:
        print(report(args.out))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
