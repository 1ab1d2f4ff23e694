"""Evaluates a model that was given as a file or a folder: no training of the store belongs to it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from effvis.model_file import predictor
from pipeline.engine.prediction import predict
from pipeline.engine.scoring import scored
from pipeline.engine.training import set_up_torch
from pipeline.grid.rows import evaluation_digest
from pipeline.identity.digests import key
from pipeline.indexing.read import load_index
from pipeline.runs.store import read_evaluation, write_evaluation
from pipeline.scheduling.machine import device

if TYPE_CHECKING:
    from effvis.data.dataset import DatasetIndex
    from effvis.model_file import ModelFile
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params


def evaluate_given(
    params: Params, description: ModelFile, weights: Path, out: Path, *, report: OnProgress | None = None
) -> dict[str, Any]:
    """The content of ``metrics.json`` in ``out``, computed on the validation split unless it is there already.

    The network, its input size and its linking are those of the description; results and metrics are written as for a run.

    Args:
        weights: the safetensors file that the description belongs to.
        out: a folder that is new, empty or holds this very evaluation.
        report: called with ``step`` and ``total``, in videos.

    Raises:
        UserError: the model does not know the data set's categories, its weights are not the described ones, ``out`` holds
            something else, or the data set is not indexed.
    """
    index = load_index(params, "val")
    _check_labels(description, weights, index)
    network = description.model_dump(mode="json", include={"method", "model", "input_size", "inference", "sha256"})
    own = key({**network, "evaluation_digest": evaluation_digest(description.method, index.digest)})
    found = read_evaluation(out)
    if found is not None and found.get("evaluation") == own:
        return found
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "--out", "holds something else than this evaluation", "Remove it, or choose another folder")
    set_up_torch(params)
    model = predictor(description, weights, device=str(device(params.resources))).model
    began = time.monotonic()
    predictions = predict(model, description.method, index, description.inference, description.input_size,
                          lambda done, total: report({"step": done, "total": total}) if report else None)
    facts = scored(params, index, predictions, description.inference, time.monotonic() - began)
    return write_evaluation(out, predictions.results, {
        "evaluation": own, "weights_sha256": description.sha256, "method": description.method,
        "dataset": {"name": params.dataset_name, "val_digest": index.digest}, **facts})


def _check_labels(description: ModelFile, weights: Path, index: DatasetIndex) -> None:
    """Outputs are told apart by their order alone, so both have to name the same categories in the same order."""
    here, there = ([category.name for category in categories] for categories in (index.categories, description.labels))
    if here != there:
        missing, unknown = ([name for name in one if name not in other] for one, other in ((here, there), (there, here)))
        differences = [f"{what} {', '.join(names)}"
                       for what, names in (("it lacks", missing), ("only it has", unknown)) if names]
        raise UserError(weights.parent, "labels", f"the model's categories are not those of the videos in {index.images}: "
                        + ("; ".join(differences) or "their order differs"),
                        "Evaluate it on a data set with its categories (-S dataset=…), or train it on this one")
