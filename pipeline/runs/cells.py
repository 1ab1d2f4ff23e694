"""results/cells/<evaluation key>.json: one small, committed file per finished evaluation. Tables are made from them alone.

A cell counts as done wherever its weights are, so a grid can be spread over machines and days, and tables can be made on a
machine that trained nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.runs.store import RunStore
from pipeline.system.files import write_atomically

if TYPE_CHECKING:
    from pipeline.identity.specs import EvalSpec
    from pipeline.settings.params import Params

_PARTS = {"evaluation", "run", "seed", "config", "metrics", "times"}


def find(params: Params, spec: EvalSpec) -> dict[str, Any] | None:
    """The evaluation's cell: the committed one, or else one made from the run store, or else None.

    Returns:
        ``evaluation`` and ``run`` (keys), ``seed``, ``config`` (of the training and the inference), ``metrics`` (the 12
        numbers as fractions, -1 where undefined), ``ap_by_threshold`` (hand-craft linking only), ``times`` (the seconds of
        training and evaluation and their pace), and ``made`` (the training's peak memory, machine, state of the checkout
        and package versions).
    """
    cell = _read(_file(params, spec))
    return cell if cell is not None and cell["evaluation"] == spec.key else _from_store(params, spec)


def read_all(params: Params) -> Iterator[dict[str, Any]]:
    """Every committed cell that can be read, in the order of the files' names."""
    for file in sorted((params.results_dir / "cells").glob("*.json")):
        cell = _read(file)
        if cell is not None:
            yield cell


def write(params: Params, spec: EvalSpec) -> None:
    """Writes the cell of an evaluation that is in the store; an existing cell stays as it is."""
    file = _file(params, spec)
    cell = find(params, spec)
    if cell is not None and cell != _read(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(cell, indent=2) + "\n").encode())


def _file(params: Params, spec: EvalSpec) -> Path:
    return params.results_dir / "cells" / f"{spec.key}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """The content of a cell's file; None if it is absent or broken (a merge conflict), so that it is made again."""
    try:
        cell = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return cell if isinstance(cell, dict) and _PARTS <= cell.keys() else None


def _from_store(params: Params, spec: EvalSpec) -> dict[str, Any] | None:
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
            "train_cpu_seconds": trained.get("cpu_seconds"),
            "train_clips_per_second": trained.get("clips_per_second"),
            "evaluate_seconds": report["seconds"],
            "frames_per_second": report["frames_per_second"],
        },
        "made": {
            "peak_memory_mib": trained.get("peak_memory_mib"),
            # A machine's name belongs in the run store only, because cells are public.
            "host": {name: value for name, value in trained.get("host", {}).items() if name != "name"},
            "git": trained.get("git"),
            "packages": trained.get("packages"),
        },
    }
