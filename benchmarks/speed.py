"""Frames per second, from JPEGs to run-length masks: of all methods or of tables' rows, as the parameters have them, or of
EfficientVIS, VisTR and their backbone alone on one clip.

    python -m benchmarks.speed --methods all -S profile=paper -S dataset=youtube-vis-2019
    python -m benchmarks.speed --rows table2 --out experiments/speed/laptop.json
    python -m benchmarks.speed
    python -m benchmarks.speed --frames 9 18 36 --size 300x540 360x640 --out speed.json
    python -m benchmarks.speed --device cuda --precision bf16 --size 360x640 --rounds 20
    python -m benchmarks.speed --model FOLDER --data data/shapes-vis/val

Each network or case is a process of its own; they take turns, and the others wait.

With --methods or --rows, each network follows objects through the same video, with its own input size and clip length
(benchmarks/method_speed.py). --rows takes tables and rows, as in 'table2:VisTR'; --methods then chooses among them. The tables
show what --out writes to experiments/speed/<profile>.json (docs/speed.md).

Otherwise, a round takes one clip through every case. `decode` reads and resizes the JPEGs, `model` goes from frames to the mask
logits of all N tracklets in all T frames, and `post` makes masks of the video's size and their run lengths from these. Every
mask counts as present, and weights are random, so this is the most that a clip can cost. "fast" is effvis.fast.optimise,
"literal" is VisTR in the order of its authors' code (literal_vistr.py); resnet50 is the backbone alone, without a pyramid: the
floor. Ratios are medians over rounds; the first round, which warms up, counts operations and is not timed.

With --model and --data, nothing is timed: a model folder (python -m pipeline.export) is evaluated on a split with the plain and
with the fast network, and both APs are printed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks.references.literal_vistr import LiteralVisTR
from benchmarks.turns import CLASSES, Stopwatch, Worker, device_name, draw_frames, peak_bytes
from effvis.config import InferenceConfig, ModelConfig
from effvis.data.clips import read_frame
from effvis.data.sizes import widest
from effvis.fast.optimise import PIXELS_AT_ONCE, in_half_precision, optimised
from effvis.inference import clip
from effvis.methods import build_model
from effvis.model.efficientvis import EfficientVIS
from effvis.vistr import clip as vistr_clip
from effvis.vistr.config import VisTRConfig
from effvis.vistr.model import VisTR
from pipeline import methods
from pipeline.scheduling.machine import processors
from pipeline.system.arguments import positive_int
from pipeline.system.cli import run

CASES = ("efficientvis fast", "efficientvis", "vistr fast", "vistr", "vistr literal", "resnet50")
STAGES = ("decode", "model", "post")
# (slower, faster) pairs whose time ratios are printed: over which stages, and what the ratio says.
RATIOS = (
    ("vistr literal", "efficientvis fast", ("model",), "EfficientVIS fast against VisTR literal, FPS, model only"),
    ("vistr", "efficientvis fast", ("model",), "EfficientVIS fast against VisTR, FPS, model only"),
    ("vistr", "efficientvis fast", STAGES, "EfficientVIS fast against VisTR, FPS, end to end"),
    ("vistr", "efficientvis", ("model",), "EfficientVIS plain against VisTR, FPS, model only"),
    ("vistr fast", "efficientvis fast", ("model",), "EfficientVIS fast against VisTR fast, FPS, model only"),
    ("efficientvis", "efficientvis fast", ("model",), "EfficientVIS fast against plain, FPS, model only"),
    ("efficientvis fast", "resnet50", ("model",), "time of EfficientVIS fast over that of its backbone alone, model only"),
)
QUICK_MODEL = dict(backbone="resnet18", hidden_dim=16, queries=3, iterations=2, attention_heads=2, ffn_dim=32, dynamic_dim=4)
QUICK_VISTR = dict(backbone="resnet18", hidden_dim=96, queries=3, encoder_layers=1, decoder_layers=1, attention_heads=2,
                   ffn_dim=32)


def build(case: str, frames: int, size: tuple[int, int], args: argparse.Namespace) -> nn.Module:
    """The network of a case, with random weights, on its device."""
    torch.manual_seed(0)
    shape = {"num_classes": CLASSES, "clip_length": frames}
    if case.startswith("vistr"):
        config = VisTRConfig(**(QUICK_VISTR if args.quick else {}), **shape)
    else:
        config = ModelConfig(**(QUICK_MODEL if args.quick else {"backbone": "resnet50"}), **shape)
    built = LiteralVisTR(config) if case == "vistr literal" else build_model(config)
    if isinstance(built, EfficientVIS):
        nn.init.constant_(built.proposal_NT4[..., 2:], args.proposals)
    model = built.eval().requires_grad_(False).to(args.device)
    if case.endswith("fast") or case == "resnet50":
        model = optimised(model, size, precision=args.precision)
    elif args.precision == "bf16":
        in_half_precision(model)
    return model


def video_pass(model: EfficientVIS | VisTR, watch: Stopwatch, files: list[Path], size: tuple[int, int]) -> dict[str, float]:
    """One clip from JPEGs to run lengths: seconds of each stage."""
    with Image.open(files[0]) as first:
        video_size = first.size[::-1]
    predict = vistr_clip.predict_clip if isinstance(model, VisTR) else clip.predict_alone
    watch.seconds = 0.0
    began = watch.now()
    pixels = torch.from_numpy(np.stack([read_frame(file, size) for file in files])).permute(0, 3, 1, 2)
    decoded = watch.now()
    found = predict(model, pixels, video_size, InferenceConfig(presence_threshold=0.0))
    ended = watch.now()
    if not found.present_NT.all():
        raise SystemExit("a tracklet is absent: the case did not do all its work")
    return {"decode": decoded - began, "model": watch.seconds, "post": ended - decoded - watch.seconds}


@torch.inference_mode()
def floor_pass(model: EfficientVIS, watch: Stopwatch, frames: int, size: tuple[int, int], device: str) -> dict[str, float]:
    """The optimised backbone's body alone on the same number of frames, as many at a time as in EfficientVIS."""
    pixels = torch.randn(frames, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    at_once = max(1, PIXELS_AT_ONCE[device.partition(":")[0]] // (size[0] * size[1]))
    watch.seconds = 0.0
    for part in pixels.split(at_once):
        model(part)
    return {"model": watch.seconds}


def work(case: str, frames: int, size: tuple[int, int], folder: Path, args: argparse.Namespace) -> None:
    """Takes one clip for each line of standard input, and answers with its seconds."""
    torch.set_num_threads(args.threads)
    files = sorted(folder.iterdir())[:frames]
    if case == "vistr literal":
        vistr_clip.TRACKLET_CHUNK = sys.maxsize  # all tracklets of a frame at once
    model = build(case, frames, size, args)
    if case == "resnet50":
        model = model.backbone.body
        if args.precision == "bf16":
            in_half_precision(model)
    gc.collect()
    watch = Stopwatch(model, args.device)

    def take() -> dict[str, float]:
        if case == "resnet50":
            return floor_pass(model, watch, frames, size, args.device)
        return video_pass(model, watch, files, size)

    for _ in sys.stdin:
        seconds = take()
        if watch.counts and args.compile:
            watch.compile(args.compile)
            watch.counts = False
            for _ in range(2):  # the first clip compiles, the second records CUDA graphs
                take()
        watch.counts = False
        answer = {"seconds": seconds, "operations": watch.operations, "peak_bytes": peak_bytes(args.device)}
        print(json.dumps(answer), flush=True)


def peak_operations(args: argparse.Namespace) -> dict[str, float]:
    """Operations per second of a large matrix product and of a 3x3 convolution like the backbone's, each the best of five."""
    kind = torch.bfloat16 if args.precision == "bf16" else torch.float32
    side = 256 if args.quick else 2048 if args.device == "cpu" else 8192
    frames, height, width = (1, 19, 34) if args.quick else (4, 75, 135)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=args.device, dtype=kind)

    a, b = noise(2, side, side)
    feature, kernel = (x.contiguous(memory_format=torch.channels_last)
                       for x in (noise(frames, 256, height, width), noise(256, 256, 3, 3)))
    tried = {"matmul": (lambda: a @ b, 2 * side**3),
             "conv3x3": (lambda: nn.functional.conv2d(feature, kernel, padding=1), 2 * 9 * 256**2 * frames * height * width)}
    return {name: operations / best_seconds(call, args.device, 5) for name, (call, operations) in tried.items()}


def best_seconds(call: Callable[[], Any], device: str, times: int) -> float:
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    seconds = []
    for _ in range(times + 1):
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])  # the first one warms up


def measure(frames: int, size: tuple[int, int], folder: Path, argv: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """All cases of one clip length and input size, clip by clip in turns."""
    peaks: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        workers = [Worker(case, ("benchmarks.speed", *argv, "--work", case, str(frames), f"{size[0]}x{size[1]}", str(folder)))
                   for case in args.case]
        for worker in workers:
            stack.callback(worker.close)
        for turn in range(args.rounds + 1):
            peaks.append(peak_operations(args))
            for worker in workers:
                worker.take()
                print(f"T={frames} {size[0]}x{size[1]}, round {turn}: {worker.name} "
                      f"{sum(worker.clips[-1]['seconds'].values()):.2f} s", file=sys.stderr, flush=True)
    # The machine's best, not what it could do while another program used it.
    peak = {name: max(one[name] for one in peaks) for name in peaks[0]}
    return {"frames": frames, "size": size, "gflops_peak": {name: value / 1e9 for name, value in peak.items()},
            "cases": {worker.name: _case(worker, frames, max(peak.values())) for worker in workers},
            "ratios": dict(_ratios({worker.name: worker for worker in workers}))}


def _case(worker: Worker, frames: int, peak: float) -> dict[str, Any]:
    taken = {stage: statistics.median(worker.seconds((stage,))) for stage in worker.clips[-1]["seconds"]}
    operations = worker.clips[0]["operations"]
    model, all_stages = worker.seconds(("model",)), worker.seconds(STAGES)
    found = {"seconds": taken, "rounds": [one["seconds"] for one in worker.clips[1:]],
             "fps_model": frames / statistics.median(model), "gflop": operations / 1e9,
             "share_of_peak": operations / statistics.median(model) / peak, "peak_gb": worker.clips[-1]["peak_bytes"] / 1e9}
    if len(taken) > 1:
        found["fps_model_post"] = frames / statistics.median(worker.seconds(("model", "post")))
        found["fps_end_to_end"] = frames / statistics.median(all_stages)
    return found


def _ratios(workers: dict[str, Worker]) -> Iterator[tuple[str, float]]:
    for slower, faster, stages, name in RATIOS:
        if slower in workers and faster in workers:
            pairs = zip(workers[slower].seconds(stages), workers[faster].seconds(stages), strict=True)
            yield name, statistics.median(a / b for a, b in pairs)


def table(found: dict[str, Any]) -> str:
    """One measurement as markdown."""
    peaks = ", ".join(f"{name} {value:.1f}" for name, value in found["gflops_peak"].items())
    lines = [f"T={found['frames']}, {found['size'][0]}x{found['size'][1]}; peak GFLOP/s: {peaks}", "",
             "| case | model, s | FPS, model | + post | end to end | GFLOP | % of peak | peak GB |",
             "| --- | --: | --: | --: | --: | --: | --: | --: |"]
    for name, case in found["cases"].items():
        further = [f"{case[key]:.2f}" if key in case else "" for key in ("fps_model_post", "fps_end_to_end")]
        lines.append(f"| {name} | {case['seconds']['model']:.2f} | {case['fps_model']:.2f} | {further[0]} | {further[1]} | "
                     f"{case['gflop']:.0f} | {100 * case['share_of_peak']:.0f} | {case['peak_gb']:.2f} |")
    return "\n".join([*lines, "", *(f"{name}: {ratio:.2f}" for name, ratio in found["ratios"].items())])


def compare_pooling(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of RoIAlign on 36 maps with ten boxes each, here and in torchvision."""
    from torchvision.ops import roi_align as theirs

    from effvis.model.roi_align import roi_align as ours

    feature = torch.randn(36, 256, 45, 80, device=args.device).contiguous(memory_format=torch.channels_last)
    corner = torch.rand(36, 10, 2, device=args.device) * torch.tensor([400.0, 200.0], device=args.device)
    boxes = [one for one in torch.cat((corner, corner + 150), dim=-1)]
    return {name: 1000 * best_seconds(lambda call=call: call(feature, boxes, 7, 1 / 8, 2, True), args.device, 10)
            for name, call in (("ours", ours), ("torchvision", theirs))}


def compare_ap(args: argparse.Namespace) -> dict[str, Any]:
    """AP of a model folder on a split, with the plain network and the fast ones, and how far apart their results are."""
    from effvis import model_file
    from effvis.data.youtube_vis import read_split
    from effvis.evaluation.video_ap import evaluate, keep_frames
    from effvis.inference.predictor import predict_linked, predict_split

    description = model_file.read(args.model)
    plain = model_file.predictor(description, args.model / model_file.WEIGHTS, device=args.device).model
    index = read_split(args.data)
    truth = json.loads((args.data / "instances.json").read_text(encoding="utf-8"))
    size = description.input_size
    networks = {"plain": plain, "fast": optimised(plain, widest(size), precision=args.precision)}
    if isinstance(plain, EfficientVIS):
        networks["fast, pooled first"] = optimised(plain, widest(size), precision=args.precision, pool_first=True)
    found: dict[str, Any] = {}
    expected = None
    for name, model in networks.items():
        if isinstance(model, VisTR) or description.inference.linking == "hand-craft":
            predict = vistr_clip.predict_clip if isinstance(model, VisTR) else clip.predict_alone
            predictions = predict_linked(model, index, description.inference, predict=predict, input_size=size)
        else:
            predictions = predict_split(model, index, description.inference, input_size=size)
        score = evaluate(keep_frames(truth, predictions.kept), predictions.results, allow_empty=True)
        expected = predictions.results if expected is None else expected
        found[name] = {"AP": score.metrics["AP"], "results": len(predictions.results), **apart(predictions.results, expected)}
    return found


def apart(results: list[dict], expected: list[dict]) -> dict[str, float]:
    """How many of how many masks differ, and by how much scores differ, result by result in their order."""
    pairs = list(zip(results, expected, strict=False))
    masks = [pair for one, other in pairs for pair in zip(one["segmentations"], other["segmentations"], strict=True)
             if pair != (None, None)]
    return {"masks": len(masks), "masks_differ": sum(a != b for a, b in masks),
            "scores_differ_by": max((abs(a["score"] - b["score"]) for a, b in pairs), default=0.0)}


def beside_each_other(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Measures methods, or the rows of tables.

    Raises:
        UserError: there is no such method, table or row, or the parameters are wrong.
    """
    from benchmarks import method_speed  # a process of each case begins with this module, and needs none of these
    from pipeline.settings.loading import load_params
    from pipeline.tables import speeds

    _refuse(parser, args, ("case", "size", "proposals", "compile", "roi_align", "model", "data", "quick"),
            "has no meaning with --methods or --rows")
    if len(args.frames) > 1:
        parser.error("--frames: a video has one length")
    params = load_params(args.params, [*args.set, *([] if args.profile is None else [f"profile={args.profile}"])])
    rows = method_speed.chosen(params, args.rows, methods.named(args.methods or methods.ALL))
    found = method_speed.measure(params, rows, args)
    print(method_speed.table(found))
    if args.out:
        speeds.write(args.out, found)
    return 0


def _refuse(parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Ends with an error if one of these options was given: it would have no effect."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} {why}")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", metavar="NAMES", help="measure these methods beside each other: "
                        f"{','.join(methods.names())}, or {methods.ALL}")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="measure the networks of these tables or rows")
    parser.add_argument("--objects", type=positive_int, default=5, help="with --methods or --rows: objects in each frame "
                        "(default: 5)")
    parser.add_argument("--fast", action="store_true", help="with --methods or --rows: as for pipeline.predict --fast")
    parser.add_argument("--profile", metavar="NAME", help="with --methods or --rows: the same as -S profile=NAME")
    parser.add_argument("--params", default="params.yaml", metavar="FILE", help="(default: params.yaml)")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="KEY=VALUE", help="another value of a parameter")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="cases to measure (default: all)")
    parser.add_argument("--frames", nargs="+", type=positive_int, default=[36], help="T, frames of a clip; with --methods or "
                        "--rows: of the video (default: 36)")
    parser.add_argument("--size", nargs="+", type=_size, default=[(300, 540)], metavar="HxW",
                        help="size of the input (default: 300x540)")
    parser.add_argument("--video-size", type=_size, metavar="HxW", help="size of the JPEGs (default: 720x1280; with "
                        "--methods or --rows: that of the data set, if it is drawn)")
    parser.add_argument("--proposals", type=float, default=1.0, metavar="SHARE",
                        help="sides of EfficientVIS's first proposals, as a share of the frame's (default: 1)")
    parser.add_argument("--rounds", type=positive_int, default=3, help="clips of each case after the first (default: 3)")
    parser.add_argument("--threads", type=int, default=processors(), help="number of threads (default: one per processor)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="(default: fp32)")
    parser.add_argument("--compile", choices=("default", "reduce-overhead", "max-autotune"),
                        help="torch.compile in this mode; reduce-overhead and max-autotune use CUDA graphs (default: none)")
    parser.add_argument("--roi-align", action="store_true", help="time RoIAlign against torchvision's instead")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="evaluate this model with both networks instead")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the split for --model")
    parser.add_argument("--quick", action="store_true", help="small networks, to see that all of it runs")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.methods is not None or args.rows is not None:
        return beside_each_other(parser, args)
    _refuse(parser, args, ("objects", "fast", "profile", "params", "set"), "belongs to --methods or --rows")
    if (args.model is None) != (args.data is None):
        parser.error("--model and --data belong together")
    if args.work:
        case, frames, size, folder = args.work
        work(case, int(frames), _size(size), Path(folder), args)
        return 0

    torch.set_num_threads(args.threads)
    found: dict[str, Any]
    if args.model:
        found = compare_ap(args)
        for name, path in found.items():
            print(f"{name}: AP {100 * path['AP']:.4f}, {path['results']} results; of {path['masks']} masks "
                  f"{path['masks_differ']} differ, scores by at most {path['scores_differ_by']:.1e}")
    elif args.roi_align:
        found = compare_pooling(args)
        print(", ".join(f"{name} {milliseconds:.3f} ms" for name, milliseconds in found.items()))
    else:
        found = {"device": device_name(args.device), "threads": args.threads, "torch": torch.__version__,
                 "precision": args.precision, "compile": args.compile, "clips": []}
        with tempfile.TemporaryDirectory() as folder:
            draw_frames(Path(folder), max(args.frames), *(args.video_size or (720, 1280)))
            for size in args.size:
                for frames in args.frames:
                    found["clips"].append(measure(frames, size, Path(folder), argv, args))
                    print(table(found["clips"][-1]), end="\n\n", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
