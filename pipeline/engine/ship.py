"""Adds the weights of a pretraining to those that come with the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from effvis.data.sizes import written
from pipeline.engine.run import evaluate_run
from pipeline.engine.training import final_loss
from pipeline.grid import starts
from pipeline.grid.rows import pretrained_evaluation
from pipeline.runs.store import RunStore

if TYPE_CHECKING:
    from pipeline.identity.specs import TrainSpec
    from pipeline.settings.params import Params


def ship(
    params: Params, spec: TrainSpec, name: str, command: str, *, folder: Path = starts.FOLDER
) -> dict[str, Any]:
    """Copies a finished pretraining into the project, with its configuration and its scores at one frame per clip on val of
    its own data set.

    Returns:
        The facts that were written beside the weights.

    Raises:
        UserError: the run is not finished or its weights are too large to ship.
    """
    store = RunStore(params.runs_dir)
    metrics = evaluate_run(params, pretrained_evaluation(params.on_val(), spec))["metrics"]
    trained_on = params.of_dataset(spec.dataset_name)
    drawn = {"shapes": trained_on.shapes_config.model_dump(mode="json")} if trained_on.generated_name is not None else {}
    facts = {
        "command": command,
        "run": spec.key,
        "method": spec.method,
        "correspondence": spec.correspondence,
        "seed": spec.seed,
        "steps": store.done(spec.key)["steps"],
        "metrics": {"AP": round(100 * metrics["AP"], 2), "final_loss": round(final_loss(store.folder(spec.key)), 4)},
        "dataset": {"name": spec.dataset_name, "digest": spec.dataset_digest, **drawn},
        "categories": list(spec.categories),
        "input_size": written(spec.input_size),
        "model": spec.model.model_dump(mode="json"),
        "train": spec.train.model_dump(mode="json"),
        "code_digest": spec.code_digest,
    }
    starts.ship(name, store.weights_file(spec.key), facts, folder=folder)
    return facts
