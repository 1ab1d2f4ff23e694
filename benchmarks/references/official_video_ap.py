"""The official evaluator (github.com/youtubevos/cocoapi), from a checkout of it, made to run under Python 3 and NumPy 2.

Its text is changed in this way before it runs: masks come from the installed pycocotools, Matplotlib is not imported (it draws
nothing here), and two uses of NumPy that no longer work are replaced.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from types import SimpleNamespace

from effvis.evaluation.average_precision import METRICS

CHANGES = (
    (r"from \. import mask", "from pycocotools import mask"),
    (r"(?m)^(import|from) matplotlib.*$", ""),
    (r"np\.float\b", "float"),
    (r"np\.round\(", "round("),  # NumPy's gives a float, which linspace does not accept as a number of points
)


def evaluate_files(ground_truth: str, results: str, checkout: str) -> dict[str, float]:
    """The 12 numbers, by our names.

    Args:
        checkout: the folder of the repository, with PythonAPI/pycocotools in it.
    """
    package = Path(checkout, "PythonAPI", "pycocotools")
    api, evaluator = _run(package / "ytvos.py").YTVOS, _run(package / "ytvoseval.py").YTVOSeval
    with contextlib.redirect_stdout(io.StringIO()):
        truth = api(ground_truth)
        evaluation = evaluator(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(METRICS, map(float, evaluation.stats), strict=True))


def _run(file: Path) -> SimpleNamespace:
    text = file.read_text(encoding="utf-8")
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    names = {"__name__": file.stem}
    exec(compile(text, str(file), "exec"), names)
    return SimpleNamespace(**names)
