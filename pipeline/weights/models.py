"""Finds the trained model for a command: a folder, a published model, a run, or weights that come with the project."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from effvis.errors import UserError
from pipeline.grid import given, starts
from pipeline.grid.rows import datasets_of_row, find_evaluation
from pipeline.identity.specs import GivenSpec
from pipeline.indexing.read import FACTS, dataset_facts, load_index
from pipeline.runs.store import RunStore
from pipeline.settings.loading import load_params, read_mapping
from pipeline.system.cli import DEFAULT_PARAMS
from pipeline.weights import shipped_model
from pipeline.weights.published import REGISTRY, model_names

if TYPE_CHECKING:
    from effvis.config import InferenceConfig
    from effvis.model_file import ModelFile
    from pipeline.settings.params import Params


# What --model calls the headline run or, if it is not trained, the shipped weights that fit its network.
HEADLINE = "headline"
ADVICE = ("it follows what moves or stands out, as \"object\", and knows no categories; people, dogs, cars and the rest of "
          "COCO's 80 classes are followed with --model queryinst-r50")


class Found(NamedTuple):
    """A model that was found.

    Attributes:
        weights: the model's safetensors file.
        text: a description for people.
        advice: what else a user of pipeline.predict should know; empty for nothing.
    """

    description: ModelFile
    weights: Path
    text: str
    advice: str = ""


def find_model_for_video(options: argparse.Namespace) -> Found:
    """As ``find_model`` but, if the arguments name none, the network for photographs that comes with the project.

    A headline run comes first if it was trained on data of the user's own: on a data set that is not drawn here.

    Raises:
        UserError: as from ``find_model``.
    """
    if options.model is not None or options.row is not None or shipped_model.folder_of(shipped_model.PHOTO) is None:
        return find_model(options)
    if Path(options.params) == Path(DEFAULT_PARAMS) and not options.set and not Path(DEFAULT_PARAMS).exists():
        return _of_shipped_model(shipped_model.PHOTO)  # outside a project nothing was trained
    params = load_params(options.params, options.set)
    drawn = params.with_dataset(params.headline.dataset).generated_name is not None
    return (None if drawn else _headline(params, options.seed)) or _of_shipped_model(shipped_model.PHOTO)


def find_model(options: argparse.Namespace) -> Found:
    """The model that the arguments name.

    Raises:
        UserError: there is no such model, or it cannot be described.
    """
    if options.model is not None and options.row is not None:
        raise UserError("command line", "--model", "is given together with --row", "Give one of them")
    if options.model is not None and not _is_run(Path(options.model)) and Path(options.model).exists():
        return _of_path(Path(options.model))
    if options.model in REGISTRY:
        return _of_published(options)
    if options.model == shipped_model.PHOTO and shipped_model.folder_of(options.model) is not None:
        return _of_shipped_model(options.model)
    params = load_params(options.params, options.set)
    if options.model not in (None, HEADLINE):
        folder = Path(options.model).resolve() if _is_run(Path(options.model)) else params.runs_dir / options.model
        if not folder.is_dir():
            runs = ", ".join(sorted(file.parent.name for file in params.runs_dir.glob("*/done.json"))) or "none"
            names = (*model_names(), HEADLINE, *filter(shipped_model.folder_of, (shipped_model.PHOTO,)))
            raise UserError("--model", options.model, "is no folder or file of a model and no run's key",
                            f"Finished runs in {params.runs_dir}: {runs}. Names of models: {', '.join(names)}")
        return _of_run(params, RunStore(folder.parent), folder.name)
    if options.row is not None:
        spec = find_evaluation(params, options.row, options.seed)
        if isinstance(spec.train, GivenSpec):
            given.check_weights(spec.train)
            found = _of_path(spec.train.weights)
            return found._replace(description=found.description.model_copy(update={"inference": spec.inference}))
        return _of_run(params, RunStore(params.runs_dir), spec.train.key, spec.inference)
    return _headline(params, options.seed) or _of_shipped(params)


def _headline(params: Params, seed: int) -> Found | None:
    """The headline run; None if it is not trained."""
    if not all((one.index_folder / FACTS).is_file() for one in datasets_of_row(params, params.headline, [seed])):
        return None
    spec, store = find_evaluation(params, None, seed), RunStore(params.runs_dir)
    if not store.is_done(spec.train.key):
        return None
    found = _of_run(params, store, spec.train.key, spec.inference)
    return found._replace(text=f"the headline run, {found.text}")


def _of_shipped_model(name: str) -> Found:
    """A whole model that comes with the project.

    Raises:
        UserError: its folder is incomplete.
    """
    folder = shipped_model.folder_of(name)
    description, weights = given.described(folder)
    dataset = description.provenance["dataset"]["name"]
    return Found(description, weights, f"{name}, which comes with the project, trained on {dataset}", ADVICE)


def _of_published(options: argparse.Namespace) -> Found:
    """A published model, with the input size and the inference of the parameters."""
    from pipeline.weights import published_model

    name = options.model
    params = published_model.settings_of(name, options)
    folder = published_model.model_folder(name, params)
    description, weights = given.described(folder)
    own = {"input_size": params.input_size_of(description.method), "inference": params.inference_of(description.method)}
    return Found(description.model_copy(update=own), weights, f"{name} ({REGISTRY[name].what}), {folder}")


def _is_run(folder: Path) -> bool:
    return (folder / "done.json").is_file()


def _of_path(path: Path) -> Found:
    """The model of a folder, or of a safetensors file under any name with its description beside it.

    Raises:
        UserError: it is another kind of file, or nothing describes it.
    """
    description, weights = given.described(path)
    if weights == path:
        given.check_meaning(weights, description)
    return Found(description, weights, f"{path}, {_score_text(description.provenance)}")


def _of_run(params: Params, store: Any, run: str, inference: InferenceConfig | None = None) -> Found:
    """A finished run with the inference of its row or, without a row, that of the parameters.

    Raises:
        UserError: the run is not finished, or its data set, which names its classes, is not here.
    """
    from effvis.model_file import describe

    done = store.require_done(run)
    file = store.folder(run) / "config.yaml"
    config = read_mapping(file, "Train the run again")
    if inference is None:
        inference = params.inference_of(config["method"])
    report = _best_report(store, run, inference)
    description = describe({
        "method": config["method"], "input_size": config["input_size"], "model": config["model"],
        "inference": inference.model_dump(mode="json"), "labels": _labels(params, config, file), "sha256": done["sha256"],
        "provenance": {
            "run": run, "seed": config["seed"], "init": config["init"], "steps": done.get("steps"),
            "dataset": {"name": config["dataset"], "digest": config["dataset_digest"]},
            "code_digest": config["code_digest"], "metrics": report and report["metrics"],
            "evaluation": report and report["evaluation"], "split": report and report.get("split", "val"),
            "git": done.get("git"), "packages": done.get("packages")},
    }, where=file)
    return Found(description, store.weights_file(run), f"run {run}, {_score_text(description.provenance)}")


def _best_report(store: Any, run: str, inference: InferenceConfig) -> Mapping[str, Any] | None:
    """The evaluation of the whole training with this inference, on test before val; those of snapshots saw fewer videos."""
    wanted = inference.model_dump(mode="json")
    reports = [report for report in store.evaluations(run) if report["inference"] == wanted]
    return max(reports, key=lambda report: (report["videos_seen"], report.get("split") == "test"), default=None)


def _labels(params: Params, config: Mapping[str, Any], file: Path) -> list[dict[str, Any]]:
    params = params.of_dataset(config["dataset"])
    if dataset_facts(params).digests["train"] != config["dataset_digest"]:
        raise UserError(file, "dataset_digest", f"the {config['dataset']} that is here is not the one that the run was trained "
                        "on, so that its classes have no names", "Restore that data set, or export the run where it is")
    return [{"id": category.id, "name": category.name} for category in load_index(params, "val").categories]


def _of_shipped(params: Params) -> Found:
    """The pretraining that fits the parameters' network.

    Raises:
        UserError: no pretraining fits.
    """
    from effvis.model_file import describe

    name = starts.find_shipped(params.model.resolve(1, 1), correspondence=True)
    if name is None:
        raise UserError(params.root / "params.yaml", "headline", "this run is not trained, and no weights that come with the "
                        "project fit its network", "Train it with python -m pipeline.train, or give --model")
    weights, facts = starts.described(name)
    categories = facts["categories"]
    description = describe({
        "method": facts["method"], "input_size": facts["input_size"], "model": facts["model"],
        "inference": params.inference.model_dump(mode="json"),
        "labels": [{"id": number, "name": category} for number, category in enumerate(categories, 1)],
        "sha256": facts["sha256"],
        "provenance": {
            "shipped": weights.stem, "run": facts["run"], "steps": facts["steps"],
            "dataset": {name: facts["dataset"][name] for name in ("name", "digest")}, "code_digest": facts["code_digest"],
            "metrics": {"AP": facts["metrics"]["AP"] / 100}},
    }, where=weights.with_suffix(".yaml"))
    text = (f"{weights.stem}, which comes with the project (trained on single frames; the headline run, python -m "
            f"pipeline.train, is better), {_score_text(description.provenance)}")
    return Found(description, weights, text)


def _score_text(provenance: Mapping[str, Any]) -> str:
    metrics, dataset = provenance.get("metrics"), (provenance.get("dataset") or {}).get("name", "unknown data")
    on_test = ", its test videos" if provenance.get("split") == "test" else ""
    return f"AP {100 * metrics['AP']:.1f} on {dataset}{on_test}" if metrics else f"trained on {dataset}, not evaluated"
