"""CPU time and memory of the evaluator, beside the official one and a literal transcription of the protocol.

    python -m benchmarks.evaluator --problem problem.py --official COCOAPI
    python -m benchmarks.evaluator GT.json RESULTS.json

COCOAPI is a checkout of github.com/youtubevos/cocoapi; without --official the transcription in references/ stands
for it. Each is run in processes of its own, one after the other and in turns, because times on a busy machine drift; the
least is reported. CPU seconds include starting Python, imports and reading the files; the line "json only" is what reading
the two files with the json module alone takes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEASURE = "; import json, resource; u = resource.getrusage(resource.RUSAGE_SELF); " \
    "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss * 1024, metrics]))"
CONTENDERS = {
    "effvis": "import sys; from effvis.evaluation.video_ap import evaluate; metrics = evaluate(*sys.argv[1:]).metrics",
    "literal": "import sys; from benchmarks.references.reference_video_ap import evaluate_files; "
               "metrics = evaluate_files(*sys.argv[1:])['metrics']",
    "official": "import sys; from benchmarks.references.official_video_ap import evaluate_files; "
                "metrics = evaluate_files(*sys.argv[1:])",
    "json only": "import sys, json; data = [json.loads(open(path, 'rb').read()) for path in sys.argv[1:]]; metrics = None",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="ground truth and results")
    parser.add_argument("--problem", type=Path, help="a script that writes gt.json and pred.json into a given folder")
    parser.add_argument("--videos", type=int, help="with --problem: how many (default: the script's own)")
    parser.add_argument("--official", type=Path, metavar="COCOAPI", help="a checkout of the official evaluator")
    parser.add_argument("--alone", action="store_true", help="measure effvis alone, on a problem that takes the others long")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args(argv)
    if args.official and not (args.official / "PythonAPI" / "pycocotools" / "ytvoseval.py").is_file():
        parser.error(f"{args.official} is no checkout of youtubevos/cocoapi")
    if (args.problem is None) == (len(args.files) != 2):
        parser.error("give either two files or --problem")
    with tempfile.TemporaryDirectory() as folder:
        if args.problem is not None:
            size = [] if args.videos is None else [str(args.videos)]
            subprocess.run([sys.executable, args.problem, folder, *size], check=True, stdout=sys.stderr)
            args.files = [Path(folder, "gt.json"), Path(folder, "pred.json")]
        names = ["effvis"] if args.alone else ["effvis", "official" if args.official else "literal", "json only"]
        files = {name: [*args.files, *([args.official] if name == "official" else [])] for name in names}
        report([{name: measure(CONTENDERS[name], files[name]) for name in names} for _ in range(args.repeat)])
    return 0


def measure(code: str, files: list[Path]) -> tuple[float, int, dict | None]:
    """CPU seconds, peak bytes and the metrics of one process."""
    run = subprocess.run([sys.executable, "-c", code + MEASURE, *map(str, files)], check=True, capture_output=True, text=True,
                         env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    return tuple(json.loads(run.stdout))


def report(rounds: list[dict[str, tuple[float, int, dict | None]]]) -> None:
    least = {name: min(one[name][0] for one in rounds) for name in rounds[0]}
    for name, seconds in least.items():
        memory = max(one[name][1] for one in rounds)
        print(f"{name:10} {seconds:6.2f} s CPU {memory / 1e6:6.0f} MB peak")
    for other in least.keys() & {"literal", "official"}:
        ratios = sorted(one[other][0] / one["effvis"][0] for one in rounds)
        print(f"effvis takes 1/{least[other] / least['effvis']:.1f} of the CPU time of {other} "
              f"(round by round 1/{ratios[0]:.1f} to 1/{ratios[-1]:.1f})")
        ours, theirs = rounds[0]["effvis"][2], rounds[0][other][2]
        print("metrics agree exactly" if ours == theirs else f"metrics differ: {ours} and {theirs}")


if __name__ == "__main__":
    sys.exit(main())
