"""Weights that were not trained here: their description, and whether they fit a data set.

A description is the config.yaml in the model's folder, or beside a safetensors file. Keys are made of it alone; the weights
themselves need be there only when they are evaluated.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import methods
from pipeline.grid import starts
from pipeline.identity.specs import GivenSpec
from pipeline.indexing.read import dataset_facts, measured_split
from pipeline.system.files import file_sha256

if TYPE_CHECKING:
    from effvis.config import InferenceConfig
    from effvis.model_file import ModelFile
    from pipeline.grid.table_file import RowFile
    from pipeline.settings.params import Params, RowSettings

# What a row may set beside its weights; all else follows from their description.
_BESIDE = ("weights", "dataset", "linking", "test_fps")
CONFIG = "config.yaml"


def check_row(params: Params, row: RowFile, settings: RowSettings, *, where: Path, prefix: str) -> None:
    """Refuses a row of given weights that sets what they do not depend on, or whose weights are not there.

    Args:
        where, prefix: the table's file and the row's ``set`` in it, for the error message.

    Raises:
        UserError: names the table's file, the row and the key.
    """
    others = [name for name in row.set if name not in _BESIDE]
    if others:
        name = f"params.{next(iter(settings.params))}" if others[0] == "params" and settings.params else others[0]
        raise UserError(where, f"{prefix}.{name}", f"{row.name!r} evaluates weights, on which this has no bearing",
                        f"Remove it, or the weights. The network, its input size and its inference are those of the weights' "
                        f"{CONFIG}; beside weights a row may set {', '.join(_BESIDE[1:])}")
    path = params.root / settings.weights
    if not (path.is_dir() or path.parent.is_dir() and path.suffix == ".safetensors"):
        raise UserError(where, f"{prefix}.weights", f"{row.name!r}: there is no folder {path}", "Give the folder of a "
                        f"model, or a .safetensors file with its {CONFIG} beside it, relative to params.yaml "
                        "(docs/evaluation.md)")
    description, _ = described(path)
    linkings = methods.get(description.method).linkings
    if settings.linking not in (None, *linkings):
        raise UserError(where, f"{prefix}.linking", f"{row.name!r}: {methods.get(description.method).title} has no "
                        f"{settings.linking} linking", f"Give {' or '.join(linkings)}")


def described(path: Path) -> tuple[ModelFile, Path]:
    """The description of a model's folder or of a safetensors file under any name, and the weights' file.

    Raises:
        UserError: it is another kind of file, or nothing describes it.
    """
    from effvis.model_file import WEIGHTS, read

    if path.is_dir():
        return read(path), path / WEIGHTS
    if path.suffix != ".safetensors":
        raise UserError(path, "(file)", "is not a .safetensors file", "Convert a checkpoint with python -m "
                        "pipeline.import_weights, or give the folder of an exported model")
    if not (path.parent / CONFIG).is_file():
        raise UserError(path.parent / CONFIG, "(file)", f"is missing: nothing describes the network of {path.name}",
                        "Write it with method, model, input_size, labels and the file's sha256 (docs/evaluation.md), or give "
                        "the folder of a model: pipeline.import_weights and pipeline.export write one with --out FOLDER")
    return read(path.parent), path


def given_spec(params: Params, description: ModelFile, weights: Path) -> GivenSpec:
    """Described weights, to be evaluated on the parameters' data set. The weights themselves are not read.

    Outputs are told apart by their order alone, so model and data set have to name the same categories in the same order.

    Raises:
        UserError: the categories differ, or the data set is not indexed.
    """
    facts = dataset_facts(params)
    here, there = list(facts.categories), [category.name for category in description.labels]
    if here != there:
        missing, unknown = ([name for name in one if name not in other] for one, other in ((here, there), (there, here)))
        differences = [f"{what} {', '.join(names)}"
                       for what, names in (("it lacks", missing), ("only it has", unknown)) if names]
        raise UserError(weights.parent, "labels", f"the model's categories are not those of {params.dataset_folder}: "
                        + ("; ".join(differences) or "their order differs"),
                        "Evaluate it on a data set with its categories (-S dataset=…), or train it on this one")
    return GivenSpec(description.model, description.input_size, description.sha256, weights, params.dataset_name,
                     facts.digests[measured_split(params)])


def inference_of(description: ModelFile, settings: RowSettings) -> InferenceConfig:
    """The description's inference, with what a row sets."""
    own = {name: value for name in ("linking", "test_fps") if (value := getattr(settings, name)) is not None}
    return description.inference.model_copy(update=own)


def check_weights(spec: GivenSpec) -> None:
    """Checks that the weights are there, and are still those that the evaluation was planned with.

    Raises:
        UserError: names the file.
    """
    if not spec.weights.is_file():
        raise UserError(spec.weights, "(file)", "is not there: these weights are to be evaluated", "Put the file there")
    if file_sha256(spec.weights) != spec.sha256:
        raise UserError(spec.weights, "sha256", f"these are not the weights {spec.sha256[:12]}… that {CONFIG} described when "
                        "the evaluation was planned", f"Restore the file, or correct sha256 in {CONFIG}, and start again")
    if starts.is_shipped(spec.weights):
        return
    description, _ = described(spec.weights)
    check_meaning(spec.weights, description)


def check_meaning(weights: Path, description: ModelFile) -> None:
    """Refuses converted weights that fit the described network and mean something else in it.

    Raises:
        UserError: the rows of classes, or what is said about them, are others.
    """
    where = weights.parent / CONFIG
    starts.check_form(weights, description.model, where=where, prefix="model.")
    starts.check_classes(weights, [label.name for label in description.labels], where=where)
