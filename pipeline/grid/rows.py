"""Turns params.yaml, a profile and a table into complete, frozen configurations.

``load_params`` merges and validates; ``load_table`` reads a table's rows; ``evaluation_spec`` turns the settings of a row, in
the paper's terms, into one training and one evaluation, each with its key. A row of given weights has no training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from effvis.config import Config, HandcraftConfig, InferenceConfig, OptimisationConfig, build
from effvis.errors import UserError
from pipeline import methods
from pipeline.grid import choices, given, imagenet, linking, starts
from pipeline.grid.before_clips import before_clips
from pipeline.grid.table_file import Row, RowFile, Table, TableFile
from pipeline.identity.digests import evaluation_code_digest, key, training_digest
from pipeline.identity.specs import EvalSpec, GivenSpec, TrainSpec
from pipeline.indexing.read import dataset_facts, measured_split
from pipeline.settings.loading import read_mapping, with_values
from pipeline.settings.params import ROW_KEYS, Params, RowSettings

if TYPE_CHECKING:
    from pathlib import Path

    from effvis.model_file import ModelFile


def known_tables(params: Params) -> list[str]:
    """The names of all tables, including a comparison that the paper makes only in its text (text31)."""
    files = (params.root / "experiments").glob("*.yaml")
    return sorted(file.stem for file in files if file.stem.startswith(("table", "text")))


def load_table(params: Params, name: str) -> Table:
    """Reads experiments/<name>.yaml: every row with its evaluations, one per seed, or one of weights that were given.

    Raises:
        UserError: there is no such table, something in it is wrong, or the dataset is not indexed yet.
    """
    table, all_settings = _read_table(params, name)
    rows = []
    for row, settings in zip(table.rows, all_settings, strict=True):
        trained = settings.weights is None
        seeds = () if row.not_run is not None else range(params.seeds if trained else 1)
        evaluations = tuple(evaluation_spec(params, settings, seed) for seed in seeds)
        columns = {column: str(value) for column, value in row.columns.items()}
        shares = range(1, params.resources.snapshots + 1) if table.curves and trained else ()
        curve = tuple(replace(spec, halvings=halvings) for spec in evaluations for halvings in shares)
        wanted = evaluations if params.before_clips else ()
        starts_of = tuple(before_clips(_of_row(params, settings), settings, spec) for spec in wanted)
        rows.append(Row(name, row.name, columns, row.set, row.published, row.not_run, evaluations, curve, starts_of))
    return Table(name, table.title, table.caption, tuple(rows), table.convergence)


def datasets_of(params: Params, tables: Iterable[str]) -> list[Params]:
    """The parameters for each data set that rows of these tables are run on, or that their start is trained on here.

    Raises:
        UserError: there is no such table, something in it is wrong, or the parameters have no replacement for a data set.
    """
    wanted = {}
    for name in tables:
        table, all_settings = _read_table(params, name)
        for row, settings in zip(table.rows, all_settings, strict=True):
            if row.not_run is None:
                wanted |= {one.dataset_folder: one for one in datasets_of_row(params, settings)}
    return list(wanted.values())


def datasets_of_row(params: Params, settings: RowSettings, seeds: Iterable[int] | None = None) -> list[Params]:
    """The parameters for the data set that a row is run on and, where no shipped weights do, for that of its pretraining.

    Args:
        seeds: that it is run with; by default all of the parameters.

    Raises:
        UserError: something in the row is wrong.
    """
    own = params.with_dataset(settings.dataset)
    params = _of_row(params, settings)
    pictures = params.of_pretraining(settings.method)
    if settings.weights is not None or pictures is params:
        return [own]
    source, model = params.of_method(settings.method).pretrain.source, _network(params, settings)
    trained = source == "scratch" or source == "auto" and any(
        _shipped(params, model, False, seed) is None for seed in (range(params.seeds) if seeds is None else seeds))
    return [own, pictures] if trained else [own]


def _read_table(params: Params, name: str) -> tuple[TableFile, list[RowSettings]]:
    """A table's file, and the settings of each of its rows."""
    if name not in known_tables(params):
        raise UserError(params.root / "experiments", name, "there is no such table",
                        f"Known tables: {', '.join(known_tables(params)) or 'none'}")
    path = params.root / "experiments" / f"{name}.yaml"
    table = build(TableFile, read_mapping(path, "Restore it"), where=path)
    all_settings = [build(RowSettings, row.set, where=path, prefix=f"rows.{number}.set")
                    for number, row in enumerate(table.rows)]
    for number, settings in enumerate(all_settings):
        row, prefix = table.rows[number], f"rows.{number}.set"
        with_values(params, settings.params, where=path, prefix=f"{prefix}.params")
        if settings.weights is not None and row.not_run is None:
            given.check_row(params, row, settings, where=path, prefix=prefix)
    return table, all_settings


def load_grid(params: Params, name: str) -> tuple[Row, ...]:
    """The rows of a table; see ``load_table``."""
    return load_table(params, name).rows


def headline_spec(params: Params, seed: int = 0) -> EvalSpec:
    """The run that pipeline.train trains by default."""
    return evaluation_spec(params, params.headline, seed)


def find_evaluation(params: Params, row: str | None, seed: int = 0) -> EvalSpec:
    """The evaluation of ``<table>:<row's name>`` for one seed; without a row, that of the headline run.

    Raises:
        UserError: there is no such row, or it is not run.
    """
    return evaluation_spec(params, params.headline if row is None else _find(params, row)[1], seed)


def find_row(params: Params, row: str | None) -> RowSettings:
    """The settings of a row that is trained, ``<table>:<row's name>``; without a row, those of the headline run.

    Raises:
        UserError: there is no such row, or it is not trained.
    """
    return params.headline if row is None else find_in_table(params, row)[1]


def find_in_table(params: Params, row: str) -> tuple[RowFile, RowSettings]:
    """The row ``<table>:<row's name>`` as it is written, and its settings.

    Raises:
        UserError: there is no such row, or it is not trained.
    """
    written, settings = _find(params, row)
    if settings.weights is not None:
        raise UserError("--row", row, f"is not trained here: its weights are given ({settings.weights})",
                        "Name a row without weights")
    return written, settings


def _find(params: Params, row: str) -> tuple[RowFile, RowSettings]:
    table, _, name = row.partition(":")
    runnable = {found.name: (found, settings) for found, settings in runnable_rows(params, table)}
    if name not in runnable:
        raise UserError("--row", row, f"{table} has no such row to run", f"Its rows are {', '.join(map(repr, runnable))}")
    return runnable[name]


def runnable_rows(params: Params, table: str) -> list[tuple[RowFile, RowSettings]]:
    """The rows of a table that are run, each as it is written, and its settings.

    Raises:
        UserError: there is no such table, or something in it is wrong.
    """
    file, all_settings = _read_table(params, table)
    return [(row, settings) for row, settings in zip(file.rows, all_settings, strict=True) if row.not_run is None]


def network(params: Params, settings: RowSettings) -> Config:
    """The network of a row, before its data set has decided the number of classes."""
    return _network(_of_row(params, settings), settings)


def evaluation_spec(params: Params, settings: RowSettings, seed: int) -> EvalSpec:
    """The meaning of a row for one seed: its training, the training's start, and its evaluation.

    Raises:
        UserError: the dataset is not indexed yet, no shipped weights fit, or given weights do not fit the dataset.
    """
    params = _of_row(params, settings)
    if settings.weights is not None:
        description, weights = given.described(params.root / settings.weights)
        return _evaluation(params, given.given_spec(params, description, weights), given.inference_of(description, settings))
    params = choices.applied(params, settings)
    inference = _override(params.inference_of(settings.method), settings, "linking", "test_fps")
    return _evaluation(params, _train_spec(params, settings, seed), _with_chosen_linking(params, settings, inference))


def with_choices(params: Params, settings: RowSettings) -> RowSettings:
    """The settings of a row that itself sets what was chosen for its family, for parameters to which the choice does not apply.

    Args:
        params: those to which it applies.
    """
    return settings.model_copy(update={"params": {**choices.taken(_of_row(params, settings), settings), **settings.params}})


def _with_chosen_linking(params: Params, settings: RowSettings, inference: InferenceConfig) -> InferenceConfig:
    """The inference with the hand-crafted linking that was chosen for the row; linking that the parameters set counts more."""
    own = params.gives("inference.handcraft") or inference.handcraft != HandcraftConfig()
    if inference.linking != "hand-craft" or own:
        return inference
    found = linking.chosen(params, settings.method, settings.T)
    return inference if found is None else inference.model_copy(update={"handcraft": found})


def _of_row(params: Params, settings: RowSettings) -> Params:
    return with_values(params.with_dataset(settings.dataset), settings.params, where="a row", prefix="set.params")


def pretrained_evaluation(params: Params, spec: TrainSpec) -> EvalSpec:
    """The evaluation of a pretraining at one frame per clip, on its own data set, with its method's way of linking."""
    return _evaluation(params.of_dataset(spec.dataset_name), spec, params.inference_of(spec.method))


def given_evaluation(params: Params, description: ModelFile, weights: Path) -> EvalSpec:
    """The evaluation of described weights on the parameters' data set.

    Raises:
        UserError: the model does not know the data set's categories, or the data set is not indexed.
    """
    return _evaluation(params, given.given_spec(params, description, weights), description.inference)


def evaluation_digest(method: str, split_digest: str) -> str:
    """Digest of the split that is evaluated and of the code that predicts and scores."""
    return key({"code": evaluation_code_digest(method), "data": split_digest})


def _evaluation(params: Params, spec: TrainSpec | GivenSpec, inference: InferenceConfig) -> EvalSpec:
    split = measured_split(params)
    return EvalSpec(spec, inference, evaluation_digest(spec.method, dataset_facts(params).digests[split]), split=split)


def pretrain_spec(params: Params, settings: RowSettings, seed: int = 0) -> TrainSpec:
    """The training that a row of this seed would start from if nothing were shipped: on single frames of its videos or, with
    ``pretrain.dataset``, on still pictures.

    All rows with the same network there share it; on frames of their videos, those that learn correspondence another one.
    """
    params = _of_row(params, settings)
    return _pretrain_spec(params, _network(params, settings), _correspondence(params, settings), seed)


def find_shipped(params: Params, settings: RowSettings, seed: int = 0) -> str | None:
    """The shipped weights that a row of this seed would start from, as ``shipped:<name>@<sha256>``; None if there are none."""
    params = _of_row(params, settings)
    of_pictures = params.of_pretraining(settings.method) is not params
    return _shipped(params, _network(params, settings), not of_pictures and _correspondence(params, settings), seed)


def _pretrain_spec(params: Params, model: Config, correspondence: bool, seed: int) -> TrainSpec:
    method = methods.get(model.method)
    settings, pictures = params.of_method(method.name), params.of_pretraining(method.name)
    init = None if settings.pretrain.start == "none" else imagenet.start(model, key=f"{method.prefix}pretrain.start")
    if pictures is not params:  # there is no second clip to hand anything on to
        model, correspondence = method.on_pictures(model), False
    return _spec(pictures, "pretrain", model, 1, method.pretrain_config(settings, correspondence), seed, init)


def _shipped(params: Params, model: Config, correspondence: bool, seed: int) -> str | None:
    pictures = params.of_pretraining(model.method)
    if pictures is params:
        return starts.find_shipped(model.resolve(1, 1), correspondence, seed=seed)
    drawn = pictures.shapes_config.model_dump(mode="json") if pictures.generated_name is not None else {}
    return starts.find_shipped(methods.get(model.method).on_pictures(model).resolve(1, 1), False, seed=seed, drawn=drawn)


def _train_spec(params: Params, settings: RowSettings, seed: int) -> TrainSpec:
    method = methods.get(settings.method)
    model, correspondence = _network(params, settings), _correspondence(params, settings)
    train = method.train_config(params.of_method(method.name), correspondence)
    init, parent = _start(params, model, correspondence, seed)
    return _spec(params, "train", model, params.clip_length(settings.T), _override(train, settings, "augmentation"), seed,
                 init, parent)


def _network(params: Params, settings: RowSettings) -> Config:
    """The network of the parameters, with the row's settings."""
    model = params.of_method(settings.method).model
    if settings.backbone is not None:
        model = model.model_copy(update={"backbone": params.scale.backbone[settings.backbone]})
    return _override(model, settings, *(name for name in ROW_KEYS if name in type(model).model_fields))


def _spec(
    params: Params, kind: Literal["pretrain", "train"], model: Config, clip_length: int,
    train: OptimisationConfig, seed: int, init: str | None = None, parent: TrainSpec | None = None,
) -> TrainSpec:
    dataset = dataset_facts(params)
    resolved = model.resolve(len(dataset.categories), clip_length)
    return TrainSpec(
        kind=kind, model=resolved.at_one_frame() if kind == "pretrain" else resolved, train=train, seed=seed,
        input_size=params.input_size_of(model.method), dataset_name=params.dataset_name,
        dataset_digest=dataset.digests["train"], code_digest=training_digest(model.method), init=init, parent=parent,
        categories=dataset.categories)


def _correspondence(params: Params, settings: RowSettings) -> bool:
    """Whether CL is learned: as the row says, else as the parameters say, else if the data need it (Sec. 3.3)."""
    if not methods.get(settings.method).learns_correspondence:
        return False
    if settings.cl is not None:
        return settings.cl
    if params.train.correspondence == "auto":
        return dataset_facts(params).longest_video["train"] > params.clip_length(settings.T)
    return params.train.correspondence == "on"


def _override(config: Config, settings: RowSettings, *names: str) -> Any:
    """The configuration with the row's values of these keys."""
    return config.model_copy(update={
        name: getattr(settings, name) for name in names if getattr(settings, name) is not None})


def _start(
    params: Params, model: Config, correspondence: bool, seed: int
) -> tuple[str | None, TrainSpec | None]:
    """The start of a training: its name for the key, and the training that makes it, if there is one.

    Seed s starts from seed s of what is trained before it, so that seeds say how certain the whole way is.
    """
    source, setting = params.of_method(model.method).pretrain.source, f"{methods.get(model.method).prefix}pretrain.source"
    given = starts.given(params, model)
    if given is not None or source == "none":
        return given, None
    if source != "scratch":
        found = _shipped(params, model, correspondence, seed)
        if found is not None:
            return found, None
        if source == "shipped":
            raise starts.none_fits(correspondence, seed, params.of_pretraining(model.method).dataset_name, key=setting)
    parent = _pretrain_spec(params, model, correspondence, seed)
    return f"run:{parent.key}", parent
