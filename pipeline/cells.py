"""results/cells/<evaluation key>.json: one small, committed file per finished evaluation. Tables are made of them alone.

A cell counts as done wherever its weights are, so that a grid can be spread over machines and days, and a table be made
where nothing was trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import Params
    from pipeline.specs import EvalSpec


def find(params: Params, spec: EvalSpec) -> dict[str, Any] | None:
    """The evaluation's cell: the committed one, else what the run store has of it, else None.

    Returns:
        ``evaluation`` and ``run`` (keys), ``seed``, ``config`` (of the training and the inference), ``metrics`` (the 12
        numbers as fractions, -1 where undefined), ``ap_by_threshold`` (hand-craft linking only), and in ``times`` the
        seconds of training and evaluation and the frames per second.
    """
    return _read(_file(params, spec), spec) or _from_store(params, spec)


def write(params: Params, spec: EvalSpec) -> None:
    """Writes the cell of an evaluation that is in the store; one that is there already stays as it is."""
    from pipeline.store import write_atomically

    file = _file(params, spec)
    cell = find(params, spec)
    if cell is not None and _read(file, spec) is None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(cell, indent=2) + "\n").encode())


def _file(params: Params, spec: EvalSpec) -> Path:
    return params.results_dir / "cells" / f"{spec.key}.json"


def _read(file: Path, spec: EvalSpec) -> dict[str, Any] | None:
    """None for one that is absent, broken (a merge conflict) or not of this evaluation: it is made again."""
    try:
        cell = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(cell, dict) and cell.get("evaluation") == spec.key and isinstance(cell.get("metrics"), dict)
    return cell if whole else None


def _from_store(params: Params, spec: EvalSpec) -> dict[str, Any] | None:
    from pipeline.store import RunStore

    store = RunStore(params.runs_dir)
    report = store.evaluation(spec.train.key, spec.key)
    if report is None:
        return None
    trained = store.done(spec.train.key) or {}
    return {
        "evaluation": spec.key,
        "run": spec.train.key,
        "seed": spec.train.seed,
        "config": {"train": spec.train.describe(), "inference": spec.inference.model_dump(mode="json")},
        "metrics": report["metrics"],
        **{name: report[name] for name in ("threshold", "ap_by_threshold", "videos_seen") if name in report},
        "times": {
            "train_seconds": trained.get("seconds"),
            "evaluate_seconds": report["seconds"],
            "frames_per_second": report["frames_per_second"],
        },
    }
