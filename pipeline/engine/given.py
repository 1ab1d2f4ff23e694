"""Evaluates a model that was given as a file or a folder into a folder of the user's; the run store has no part in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.errors import UserError
from pipeline.engine.prediction import predict_here
from pipeline.engine.scoring import scored
from pipeline.grid.rows import given_evaluation
from pipeline.indexing.read import load_index
from pipeline.runs.store import read_evaluation, write_evaluation

if TYPE_CHECKING:
    from effvis.model_file import ModelFile
    from pipeline.scheduling.progress import OnProgress
    from pipeline.settings.params import Params


def evaluate_given(
    params: Params, description: ModelFile, weights: Path, out: Path, *, report: OnProgress | None = None
) -> dict[str, Any]:
    """The content of ``metrics.json`` in ``out``, computed on the measured split unless it is there already.

    The network, its input size and its linking are those of the description; results and metrics are written as for a run.
    The key is that of a table's row with the same weights.

    Args:
        weights: the safetensors file that the description belongs to.
        out: a folder that is new, empty or holds this very evaluation.
        report: called with ``step`` and ``total``, in videos.

    Raises:
        UserError: the model does not know the data set's categories, its weights are not the described ones, ``out`` holds
            something else, or the data set is not indexed.
    """
    spec = given_evaluation(params, description, weights)
    index = load_index(params, spec.split)
    found = read_evaluation(out)
    if found is not None and found.get("evaluation") == spec.key:
        return found
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(out, "--out", "holds something else than this evaluation", "Remove it, or choose another folder")
    predictions, seconds = predict_here(params, spec, index, report)
    facts = scored(params, index, predictions, spec.inference, seconds)
    return write_evaluation(out, predictions.results, {
        "evaluation": spec.key, "weights_sha256": description.sha256, "method": description.method,
        "dataset": {"name": params.dataset_name, "split": spec.split, "digest": index.digest}, **facts})
