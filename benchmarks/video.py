"""Peak memory and processor time of pipeline.predict on one long video file.

    python -m benchmarks.video --frames 3000

A drawn video is enlarged to the wanted size and written as an mp4; the command then runs on it in a process of its own,
with the weights that come with the project unless --model names others, and keeps every tracklet (--score 0).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from effvis.data.synthetic.shapes import ShapesConfig, draw_video
from effvis.video import writing_video


def write_drawn(file: Path, frames: int, height: int, width: int) -> None:
    drawn = draw_video(ShapesConfig(frames=frames), "val", 0)
    with writing_video(file, height=height, width=width, fps=25) as write:
        for frame in drawn.frames_LHW3:
            write(np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)))


def apart(work: Callable[[], None]) -> None:
    """Runs work in a process of its own: what this process ever held would count as its children's peak."""
    child = os.fork()
    if not child:
        work()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the video could not be written")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.video", description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=300, help="frames of the video (default: 300)")
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=854)
    parser.add_argument("--model", metavar="KEY_OR_FOLDER", help="as for pipeline.predict")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = folder / "drawn.mp4"
        apart(lambda: write_drawn(video, args.frames, args.height, args.width))
        command = [sys.executable, "-m", "pipeline.predict", str(video), "--out", str(folder / "out"), "--score", "0"]
        process = subprocess.Popen([*command, *(["--model", args.model] if args.model else [])], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            return 1
        sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in sorted((folder / "out").iterdir()))
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{args.frames} frames of {args.width}x{args.height}: peak {peak / 1e9:.3f} GB, "
          f"{used.ru_utime + used.ru_stime:.0f} s of processor time; {sizes}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
