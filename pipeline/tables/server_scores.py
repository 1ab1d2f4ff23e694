"""results/server/<evaluation key>.json: small, committed files with a competition server's scores of an evaluation's results.

They are separate from cells, so that nobody takes a server's number for one that was measured here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from effvis.config import Config
from effvis.errors import UserError
from pipeline.system.files import json_bytes, write_atomically
from pipeline.system.models import read_model

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

# The servers' names for the 12 numbers, in lower case and reduced to letters and digits.
_NAMES = {
    "AP": ("ap", "map", "segmmap"), "AP50": ("ap50", "map50", "segmmap50"), "AP75": ("ap75", "map75", "segmmap75"),
    "APs": ("aps", "maps", "apsmall", "segmmaps"), "APm": ("apm", "mapm", "apmedium", "segmmapm"),
    "APl": ("apl", "mapl", "aplarge", "segmmapl"), "AR1": ("ar1",), "AR10": ("ar10",), "AR100": ("ar100",),
    "ARs": ("ars", "arsmall"), "ARm": ("arm", "armedium"), "ARl": ("arl", "arlarge"),
}
_METRICS = {alias: metric for metric, aliases in _NAMES.items() for alias in aliases}


class ServerScores(Config):
    """The file's content: the evaluation's keys, and the server's numbers as fractions, or -1 where one is undefined."""

    evaluation: str
    run: str
    seed: int
    dataset: str
    source: Literal["server"] = "server"
    metrics: dict[str, float]


def read(file: Path) -> dict[str, float]:
    """The numbers in a server's scores.txt, lines of ``name: value``, as fractions by our names.

    If one is above 1, all are percentages. -1, which marks an undefined number, stays. Lines with other names are left out.

    Raises:
        UserError: the file cannot be read, a value is not a number or out of range, a number occurs twice, or AP is missing.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({getattr(error, 'strerror', None) or 'not text'})"
        raise UserError(file, "(file)", problem, "Give the scores.txt of the server's output") from None
    values: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        name, separator, text = line.partition(":")
        metric = _METRICS.get(re.sub(r"[^a-z0-9]", "", name.lower()))
        if not separator or metric is None:
            continue
        if metric in values:
            raise UserError(file, f"line {number}", f"{metric} occurs twice", "Keep the lines of one submission")
        values[metric] = _value(text, file, number)
    if "AP" not in values:
        raise UserError(file, "AP", "no line gives it", "Write lines of name: value, with AP or mAP among the names")
    percent = max(values.values()) > 1
    return {metric: values[metric] / (100 if percent and values[metric] >= 0 else 1) for metric in _NAMES if metric in values}


def _value(text: str, file: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= 100 or value == -1):
        raise UserError(file, f"line {line}", f"{text.strip()!r} is not a score", "Write a fraction, or percent")
    return value


def keep(params: Params, spec: EvalSpec, metrics: Mapping[str, float]) -> Path:
    """Writes the server's scores of an evaluation; returns the file.

    Raises:
        UserError: the file already holds other scores of this evaluation.
    """
    file = _file(params, spec.key)
    earlier = find_scores(params, spec.key)
    if earlier is not None and earlier != metrics:
        raise UserError(file, "metrics", "the server said something else of this evaluation before",
                        "The same results score the same: see which file is this row's, and remove the wrong one")
    file.parent.mkdir(parents=True, exist_ok=True)
    scores = ServerScores(evaluation=spec.key, run=spec.train.key, seed=spec.train.seed, dataset=spec.train.dataset_name,
                          metrics=metrics)
    write_atomically(file, json_bytes(scores.model_dump(mode="json")))
    return file


def find_scores(params: Params, evaluation: str) -> dict[str, float] | None:
    """The server's scores of the evaluation with this key, as fractions; None if there are none.

    Raises:
        UserError: the file is damaged.
    """
    file = _file(params, evaluation)
    if not file.exists():
        return None
    return read_model(ServerScores, file, "Restore it from git, or remove it and give the scores anew").metrics


def file_of(params: Params, evaluation: str) -> tuple[Path, ...]:
    """The file of an evaluation, if there is one; otherwise nothing."""
    file = _file(params, evaluation)
    return (file,) if file.is_file() else ()


def _file(params: Params, evaluation: str) -> Path:
    return params.results_dir / "server" / f"{evaluation}.json"
