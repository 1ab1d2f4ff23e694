"""CPU time and memory of the evaluator, beside a literal transcription of the protocol (reference_video_ap.py).

    python benchmarks/evaluator.py GT.json RESULTS.json
    python benchmarks/evaluator.py --problem ../shared/oracle/speed/speed_problem.py

Each is run in processes of its own, one after the other and in turns, because times on a busy machine drift; the least
is reported. CPU seconds include starting Python, imports and reading the files; the last line is what reading the two
files with the json module alone takes.
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
    "literal": "import sys; from reference_video_ap import evaluate_files; metrics = evaluate_files(*sys.argv[1:])['metrics']",
    "json only": "import sys, json; data = [json.loads(open(path, 'rb').read()) for path in sys.argv[1:]]; metrics = None",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="ground truth and results")
    parser.add_argument("--problem", type=Path, help="a script that writes gt.json and pred.json into a given folder")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args(argv)
    if (args.problem is None) == (len(args.files) != 2):
        parser.error("give either two files or --problem")
    with tempfile.TemporaryDirectory() as folder:
        if args.problem is not None:
            subprocess.run([sys.executable, args.problem, folder], check=True, stdout=sys.stderr)
            args.files = [Path(folder, "gt.json"), Path(folder, "pred.json")]
        report([{name: measure(code, args.files) for name, code in CONTENDERS.items()} for _ in range(args.repeat)])
    return 0


def measure(code: str, files: list[Path]) -> tuple[float, int, dict | None]:
    """CPU seconds, peak bytes and the metrics of one process."""
    run = subprocess.run([sys.executable, "-c", code + MEASURE, *map(str, files)], check=True, capture_output=True, text=True,
                         env={"PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"})
    return tuple(json.loads(run.stdout))


def report(rounds: list[dict[str, tuple[float, int, dict | None]]]) -> None:
    least = {name: min(one[name][0] for one in rounds) for name in CONTENDERS}
    for name in CONTENDERS:
        memory = max(one[name][1] for one in rounds)
        print(f"{name:10} {least[name]:6.2f} s CPU {memory / 1e6:6.0f} MB peak")
    print(f"effvis takes 1/{least['literal'] / least['effvis']:.1f} of the CPU time of the literal transcription")
    ours, literal = rounds[0]["effvis"][2], rounds[0]["literal"][2]
    print("metrics agree exactly" if ours == literal else f"metrics differ: {ours} and {literal}")


if __name__ == "__main__":
    sys.exit(main())
