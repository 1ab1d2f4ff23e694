"""Runs as they are in the store, without having been run."""

import numpy as np
import torch

from effvis.evaluation.average_precision import METRICS
from pipeline.runs.log import RunLog
from pipeline.runs.store import RunStore


def train(params, spec, steps, finish=True):
    """Writes the files that a training leaves, without the training."""
    store = RunStore(params.runs_dir)
    store.begin(spec.key, spec.describe())
    log = RunLog(store.folder(spec.key))
    log.resume()
    for step in range(1, steps + 1):
        log.append({"step": step, "time": 1e9 + step, "lr": 0.1, "loss": 1 / step, "loss_focal": float(np.float32(0.1))})
    log.close()
    if finish:
        facts = {"seconds": 1.0, "peak_memory_mib": 700, "git": {"commit": "abc"}}
        store.finish(spec.key, {"w": torch.ones(3)}, facts)


def evaluate(params, spec, ap=0.25):
    """Writes the files that an evaluation leaves: ``ap`` as AP, a quarter for all other metrics, and no large instances."""
    metrics = dict.fromkeys(METRICS, 0.25) | {"AP": ap, "APl": -1.0}
    report = {"evaluation": spec.key, "metrics": metrics, "per_category": {"ring": {"AP": 0.5}}, "seconds": 2.0,
              "frames_per_second": 9.0, "videos_seen": 4, "inference": spec.inference.model_dump(mode="json")}
    RunStore(params.runs_dir).write_evaluation(spec.train.key, spec.key, [], report)


def steps_done(folder):
    """The number of steps in a run's history."""
    return (folder / "history.jsonl").read_bytes().count(b"\n")


def saved_at(folder):
    """The steps of a run's checkpoints, newest last."""
    return [int(file.stem.removeprefix("step_")) for file in sorted((folder / "checkpoint").glob("step_*.pt"))]
