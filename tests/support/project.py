"""A project in a temporary folder, of a size that trains in seconds, and content that tests put into it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]

# The tables that the fixture `reproduced` runs, and their rows.
REPRODUCED_ROWS = {"table1e": ("w/o CL", "w/ CL"), "table1h": ("Original FPS", "1.5 FPS")}

# Changes to the project's own params.yaml. All is as in the real project but small: two trainings of seconds per row.
TINY = {
    "shapes": {"train_videos": 6, "val_videos": 3, "test_videos": 0, "frames": 8, "height": 32, "width": 48, "min_radius": 5,
               "max_radius": 8},
    "input_size": [32, 48],
    "before_clips": False,
    "model": {"hidden_dim": 16, "attention_heads": 2, "ffn_dim": 32, "dynamic_dim": 4, "queries": 4, "iterations": 2,
              "roi_size": 4, "mask_roi_size": 4, "mask_convs": 1},
    "pretrain": {"source": "scratch", "dataset": "own",
                 "train": {"epochs": 2, "batch_size": 3, "lr_drop_epoch": 1.5, "warmup_steps": 1}},
    "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    "queryinst": {
        "model": {"hidden_dim": 16, "attention_heads": 2, "ffn_dim": 32, "dynamic_dim": 4, "queries": 4, "iterations": 2,
                  "roi_size": 4, "mask_roi_size": 4, "mask_convs": 1},
        "pretrain": {"source": "none", "dataset": "own"},
        "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    },
    "masktrack_rcnn": {
        "model": {"hidden_dim": 16, "anchor_scales": [3], "proposals": 10, "roi_size": 3, "mask_roi_size": 4, "box_dim": 16,
                  "mask_convs": 1, "track_dim": 8},
        "pretrain": {"source": "none", "dataset": "own"},
        "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1, "region_samples": 8},
    },
    "crossvis": {
        "model": {"hidden_dim": 16, "tower_convs": 1, "norm_groups": 4, "mask_branch_dim": 8, "mask_branch_convs": 1,
                  "embedding_dim": 8, "identities": 30},
        "pretrain": {"source": "none", "dataset": "own"},
        "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    },
    "vistr": {
        "model": {"queries": 4, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2, "ffn_dim": 32},
        "pretrain": {"source": "scratch", "dataset": "own",
                     "train": {"epochs": 2, "batch_size": 3, "lr_drop_epoch": 1.5, "warmup_steps": 1}},
        "train": {"epochs": 1, "batch_size": 2, "lr_drop_epoch": 0.8, "warmup_steps": 1},
    },
}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` overridden by ``above``, section by section."""
    result = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def write_params(folder: Path, **changes: Any) -> None:
    """Merges changes into a project's params.yaml."""
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(merged(yaml.safe_load(file.read_text()), changes)))


def put_evaluation(params, spec, ap, seconds=1.5, resampled=None, **others):
    """Puts a finished evaluation into the store, with numbers that are easy to recognise, and other metrics by name.

    ``resampled`` is AP on resamples of the videos, as fractions; without it, the evaluation is as if it had made none.
    """
    from effvis.evaluation.any_category import ANY_CATEGORY
    from effvis.evaluation.average_precision import METRICS
    from pipeline.runs.cells import RESAMPLED, resampled_text
    from pipeline.runs.store import RunStore

    metrics = {name: ap for name in METRICS} | {"APl": -1.0} | others
    if spec.start_on is not None:
        metrics = dict.fromkeys(METRICS, -1.0) | {ANY_CATEGORY: ap}
    report = {"metrics": metrics, "per_category": {}, "seconds": seconds, "frames_per_second": 10.0,
              "videos_seen": 24, **({} if resampled is None else {RESAMPLED: resampled_text(resampled)})}
    RunStore(params.runs_dir).write_evaluation(spec.train.key, spec.key, [], report)
