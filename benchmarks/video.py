"""Peak memory and processor time of pipeline.predict on one long video file.

    python -m benchmarks.video --frames 3000
    python -m benchmarks.video --frames 3000 --made-queryinst

A drawn video is enlarged to the wanted size and written as an mp4; the command then runs on it in a process of its own, with
the headline run, or what stands for it, unless --model names another model, and keeps every tracklet (--score 0). The processor
time per frame is that of tracking, in the first and in the last third of the video: it must not grow.

--made-queryinst takes a QueryInst with 100 queries and made-up weights, of a size that a processor can do, which sees about 12
objects in every frame.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from resource import struct_rusage

import numpy as np
from PIL import Image

from effvis.data.synthetic.shapes import ShapesConfig, draw_video
from effvis.video import writing_video


def write_drawn(file: Path, frames: int, height: int, width: int) -> None:
    drawn = draw_video(ShapesConfig(frames=frames), "val", 0)
    with writing_video(file, height=height, width=width, fps=25) as write:
        for frame in drawn.frames_LHW3:
            write(np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)))


def write_queryinst(folder: Path) -> None:
    """A model's folder with a small QueryInst from random numbers."""
    import torch
    from safetensors.torch import save

    from effvis.methods import build_model
    from effvis.model_file import describe, write
    from effvis.queryinst.config import QueryInstConfig

    torch.manual_seed(0)
    config = QueryInstConfig(num_classes=80, backbone="resnet18", hidden_dim=64, dynamic_dim=16, ffn_dim=256,
                             iterations=3)
    model = build_model(config).requires_grad_(False)
    model.proposal_NT4.copy_(torch.rand_like(model.proposal_NT4) * 0.5 + 0.25)
    for interaction in model.interactions:
        torch.nn.init.normal_(interaction.class_logits.weight, std=0.17)
        torch.nn.init.constant_(interaction.class_logits.bias, -4.0)
    content = save(model.state_dict())
    weights = folder.with_suffix(".safetensors")
    weights.write_bytes(content)
    labels = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    write(folder, describe({
        "method": config.method, "model": config.model_dump(mode="json"), "input_size": [96, 160], "labels": labels,
        "inference": {"presence_threshold": 0.3}, "sha256": hashlib.sha256(content).hexdigest()}, where=folder), weights)


def predict(arguments: list[str], notes: Path) -> None:
    """Runs the command, and notes the processor time at every frame of its two readings, by the label of their bars."""
    from pipeline import predict

    seconds: dict[str, list[float]] = {}

    @contextlib.contextmanager
    def noted(label: str) -> Iterator[Callable[..., None]]:
        times = seconds.setdefault(label, [])
        yield lambda *_: times.append(time.process_time())

    predict.progress_bar = noted
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        predict.main(arguments)
    notes.write_text(json.dumps(seconds))


def apart(work: Callable[[], None]) -> struct_rusage:
    """Runs work in a process of its own: what this process ever held would count as its children's peak. What it used."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(1)
    return used


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="frames of the video (default: 300)")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", metavar="MODEL", default="headline", help="as for pipeline.predict (default: headline)")
    model.add_argument("--made-queryinst", action="store_true", help="a QueryInst with made-up weights")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video, notes, out = folder / "drawn.mp4", folder / "notes.json", folder / "out"
        apart(lambda: write_drawn(video, args.frames, args.height, args.width))
        if args.made_queryinst:
            args.model = str(folder / "model")
            apart(lambda: write_queryinst(Path(args.model)))
        used = apart(lambda: predict([str(video), "--out", str(out), "--score", "0", "--model", args.model], notes))
        tracking = np.diff(json.loads(notes.read_text())["tracking"]) * 1000
        sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in sorted(out.iterdir()))
        objects = (out / "drawn_tracklets.csv").read_text().count("\n") - 1
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    third = len(tracking) // 3
    print(f"{args.frames} frames of {args.width}x{args.height}, {objects / args.frames:.1f} objects in each: "
          f"peak {peak / 1e9:.3f} GB, {used.ru_utime + used.ru_stime:.0f} s of processor time; {sizes}")
    if third:
        print(f"tracking: {tracking[:third].mean():.1f} ms of processor time per frame in the first third, "
              f"{tracking[-third:].mean():.1f} ms in the last")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
