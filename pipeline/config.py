"""From params.yaml, a profile and a table to complete, frozen configurations.

``load_params`` merges and validates; ``load_table`` reads a table's rows; ``evaluation_spec`` turns what a row sets, in
the paper's terms, into one training and one evaluation, each with its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, PositiveInt, PrivateAttr

from effvis.config import Config, InferenceConfig, ModelConfig, TrainConfig, build
from effvis.data.shapes import ShapesConfig
from effvis.errors import UserError
from pipeline.keys import evaluation_code_digest, key, training_digest
from pipeline.specs import EvalSpec, TrainSpec

GENERATED_DATASETS = ("shapes-vis",)
# Fields of the configurations that are not anybody's to set, and what they follow from.
DERIVED = {
    "model.num_classes": "It follows from the dataset",
    "model.clip_length": "It follows from a row's T and from scale.T",
    "pretrain.train.correspondence": "Pretraining learns correspondence where the row does",
}


def _word(value: Any) -> Any:
    """YAML reads ``on`` and ``off`` as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class ModelSettings(ModelConfig):
    """``ModelConfig`` before the dataset and the row have said their part."""

    num_classes: int = 1
    clip_length: int = 1

    def resolve(self, num_classes: int, clip_length: int) -> ModelConfig:
        return ModelConfig(**{**self.model_dump(), "num_classes": num_classes, "clip_length": clip_length})


class TrainSettings(TrainConfig):
    """``TrainConfig`` before the data have decided whether correspondence has to be learned."""

    correspondence: Annotated[Literal["on", "off", "auto"], BeforeValidator(_word)] = "auto"

    def resolve(self, correspondence: bool) -> TrainConfig:
        return TrainConfig(**{**self.model_dump(), "correspondence": correspondence})


class PretrainSettings(Config):
    source: str = Field(
        "shipped", pattern=r"^(shipped|scratch|none|.+\.safetensors)$",
        description="shipped, scratch, none, or a file relative to params.yaml, as pipeline.import_weights writes it")
    train: TrainConfig = TrainConfig()


class IndexSettings(Config):
    clip_lengths: tuple[PositiveInt, ...] = ()


class ScaleSettings(Config):
    """The paper's clip lengths and what stands for them on this dataset."""

    T: dict[PositiveInt, PositiveInt] = {}


class ResourceSettings(Config):
    slots: PositiveInt = Field(2, description="runs side by side")
    threads: PositiveInt = Field(1, description="processor threads of each run")
    checkpoint_seconds: float = Field(30, gt=0)


class RowSettings(Config):
    """What a row of a table sets, in the paper's terms; what it leaves out is as in the parameters."""

    T: PositiveInt = Field(36, description="the paper's clip length, before scaling")
    cl: bool | None = Field(None, description="correspondence learning; None: train.correspondence")
    linking: Literal["end-to-end", "hand-craft"] | None = None
    test_fps: float | None = Field(None, gt=0)
    method: Literal["efficientvis", "vistr"] = "efficientvis"
    attention: Literal["ftsa", "ftsa-st", "spatial", "temporal", "joint"] | None = None
    dynamic_conv: Literal["temporal", "still"] | None = None
    query: Literal["time-disentangled", "time-shared"] | None = None
    augmentation: Literal["none", "multi-scale", "random-crop"] | None = Field(None, description="of the clip training")


class Params(Config):
    """params.yaml over its profile."""

    profile: str
    dataset: str
    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    results_dir: Path = Path("results")
    seeds: PositiveInt = 2
    tables: tuple[str, ...] = ()
    headline: RowSettings = RowSettings()
    shapes: ShapesConfig = ShapesConfig()
    index: IndexSettings = IndexSettings()
    input_size: tuple[PositiveInt, PositiveInt]
    model: ModelSettings
    pretrain: PretrainSettings = PretrainSettings()
    train: TrainSettings
    inference: InferenceConfig = InferenceConfig()
    scale: ScaleSettings = ScaleSettings()
    resources: ResourceSettings = ResourceSettings()
    _root: Path = PrivateAttr(default=Path("."))

    @property
    def root(self) -> Path:
        """The project's folder: where params.yaml lies. All folders of the parameters are absolute."""
        return self._root

    @property
    def dataset_folder(self) -> Path:
        """Holds train/ and val/."""
        return self._root / self._dataset_path

    @property
    def dataset_name(self) -> str:
        return self.dataset_folder.resolve().name

    @property
    def index_folder(self) -> Path:
        """Data sets of the same name have each their own: data/index/data/shapes-vis. dvc.yaml says the same."""
        path = self._dataset_path
        return self.data_dir / "index" / path.relative_to(path.anchor)

    @property
    def _dataset_path(self) -> Path:
        """Relative to the root, or absolute. The name of a generated data set stands for its folder."""
        if self.dataset not in GENERATED_DATASETS:
            return Path(self.dataset)
        folder = self.data_dir / self.dataset
        return folder.relative_to(self._root) if folder.is_relative_to(self._root) else folder

    def clip_length(self, published: int) -> int:
        """What stands for a clip length of the paper."""
        return self.scale.T.get(published, published)


def load_params(path: str | Path = "params.yaml", overrides: Iterable[str] = ()) -> Params:
    """Reads the parameters: the profile, over it the file, over that ``key=value`` overrides with dotted keys.

    A null in the file leaves what the profile has: dvc exp run -S sets only keys that are in the file.

    Raises:
        UserError: names the file at fault (or the command line) and the dotted key.
    """
    path = Path(path).resolve()
    given = _without_nulls(_read_mapping(path, "Run in the project's folder or give --params FILE"))
    command_line = _parse_overrides(overrides)
    name = _merge(given, command_line).get("profile")
    profiles = path.parent / "experiments" / "profiles"
    profile = profiles / f"{name}.yaml"
    if not isinstance(name, str) or profile not in profiles.glob("*.yaml"):
        known = ", ".join(sorted(file.stem for file in profiles.glob("*.yaml"))) or f"none in {profiles}"
        raise UserError(path, "profile", f"there is no profile {name!r}", f"Known profiles: {known}")
    layers = [("command line", command_line), (path, given), (profile, _read_mapping(profile, "Restore it"))]
    merged: dict[str, Any] = {}
    for _, values in reversed(layers):
        merged = _merge(merged, values)
    try:
        for dotted, reason in DERIVED.items():
            if _mentions(merged, dotted):
                raise UserError(path, dotted, "cannot be set", f"Remove it. {reason}")
        params = build(Params, merged, where=path)
    except UserError as error:
        where = next((name for name, values in layers if _mentions(values, error.key)), path)
        raise UserError(where, error.key, error.problem, error.remedy) from None
    folders = {name: path.parent / getattr(params, name) for name in ("data_dir", "runs_dir", "results_dir")}
    params = params.model_copy(update=folders)
    params._root = path.parent
    return params


class _RowFile(Config):
    name: str
    set: dict[str, Any] = {}
    published: dict[Literal["AP", "AP50", "AP75", "AR1", "AR10"], float] = {}
    not_run: str | None = None


class _TableFile(Config):
    title: str
    caption: str = ""
    rows: tuple[_RowFile, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        set: as the table's file has it, in the paper's terms.
        published: the paper's numbers in percent.
        not_run: why this project has no number for it, or None.
        evaluations: one per seed; empty where it is not run.
    """

    table: str
    name: str
    set: Mapping[str, Any]
    published: Mapping[str, float]
    not_run: str | None
    evaluations: tuple[EvalSpec, ...]


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    caption: str
    rows: tuple[Row, ...]


def known_tables(params: Params) -> list[str]:
    return sorted(file.stem for file in (params.root / "experiments").glob("table*.yaml"))


def load_table(params: Params, name: str) -> Table:
    """Reads experiments/<name>.yaml; every row with its evaluations, one per seed.

    Raises:
        UserError: no such table, something in it is wrong, or the dataset is not indexed yet.
    """
    if name not in known_tables(params):
        raise UserError(params.root / "experiments", name, "there is no such table",
                        f"Known tables: {', '.join(known_tables(params)) or 'none'}")
    path = params.root / "experiments" / f"{name}.yaml"
    table = build(_TableFile, _read_mapping(path, "Restore it"), where=path)
    rows = []
    for number, row in enumerate(table.rows):
        settings = build(RowSettings, row.set, where=path, prefix=f"rows.{number}.set")
        if settings.method != "efficientvis" and row.not_run is None:
            raise UserError(path, f"rows.{number}.set.method", f"{settings.method} is not implemented",
                            "Say so in the row's not_run")
        seeds = () if row.not_run is not None else range(params.seeds)
        evaluations = tuple(evaluation_spec(params, settings, seed) for seed in seeds)
        rows.append(Row(name, row.name, row.set, row.published, row.not_run, evaluations))
    return Table(name, table.title, table.caption, tuple(rows))


def load_grid(params: Params, name: str) -> tuple[Row, ...]:
    """The rows of a table; see ``load_table``."""
    return load_table(params, name).rows


def headline_spec(params: Params, seed: int = 0) -> EvalSpec:
    """The run that pipeline.train trains by default."""
    return evaluation_spec(params, params.headline, seed)


def find_evaluation(params: Params, row: str | None, seed: int = 0) -> EvalSpec:
    """The evaluation of ``<table>:<row's name>`` for one seed; without a row, of the headline run.

    Raises:
        UserError: no such row, or it is not run.
    """
    if row is None:
        return headline_spec(params, seed)
    table, _, name = row.partition(":")
    rows = {found.name: found for found in load_grid(params, table)}
    if name not in rows or rows[name].not_run is not None:
        runnable = ", ".join(repr(found.name) for found in rows.values() if found.not_run is None)
        raise UserError("--row", row, f"{table} has no such row to run", f"Its rows are {runnable}")
    return evaluation_spec(params, RowSettings(**rows[name].set), seed)


def evaluation_spec(params: Params, settings: RowSettings, seed: int) -> EvalSpec:
    """What a row means for one seed: its training, that one's start, and its evaluation.

    Raises:
        UserError: the dataset is not indexed yet, or no shipped weights fit.
    """
    inference = _override(params.inference, settings, "linking", "test_fps")
    return _evaluation(params, _train_spec(params, settings, seed), inference)


def pretrained_evaluation(params: Params, spec: TrainSpec) -> EvalSpec:
    """The evaluation of a pretraining: end-to-end, one frame per clip."""
    return _evaluation(params, spec, params.inference)


def evaluation_digest(validation_digest: str) -> str:
    """Of the validation split and the code that predicts and scores."""
    return key({"code": evaluation_code_digest(), "data": validation_digest})


def _evaluation(params: Params, spec: TrainSpec, inference: InferenceConfig) -> EvalSpec:
    from pipeline.index import dataset_facts

    return EvalSpec(spec, inference, evaluation_digest(dataset_facts(params).digests["val"]))


def pretrain_spec(params: Params, correspondence: bool, model: ModelSettings | None = None) -> TrainSpec:
    """The training on single frames that every row with or without correspondence learning starts from.

    Args:
        model: of the row; by default the parameters'. All that are the same network at T=1 share one training.
    """
    from pipeline.index import dataset_facts

    dataset = dataset_facts(params)
    return TrainSpec(
        kind="pretrain", model=(model or params.model).resolve(len(dataset.categories), 1).at_one_frame(),
        train=params.pretrain.train.model_copy(update={"correspondence": correspondence}), seed=0, input_size=params.input_size,
        dataset_name=params.dataset_name, dataset_digest=dataset.digests["train"], code_digest=training_digest())


def _train_spec(params: Params, settings: RowSettings, seed: int) -> TrainSpec:
    from pipeline.index import dataset_facts

    dataset = dataset_facts(params)
    clip_length = params.clip_length(settings.T)
    correspondence = settings.cl
    if correspondence is None:
        word = params.train.correspondence
        correspondence = dataset.longest_video["train"] > clip_length if word == "auto" else word == "on"
    model = _override(params.model, settings, "attention", "dynamic_conv", "query")
    train = _override(params.train, settings, "augmentation")
    init, parent = _start(params, model, correspondence)
    return TrainSpec(
        kind="train", model=model.resolve(len(dataset.categories), clip_length),
        train=train.resolve(correspondence), seed=seed, input_size=params.input_size, dataset_name=params.dataset_name,
        dataset_digest=dataset.digests["train"], code_digest=training_digest(), init=init, parent=parent)


def _override(config: Config, settings: RowSettings, *names: str) -> Any:
    """The configuration with what the row sets of these keys."""
    return config.model_copy(update={
        name: getattr(settings, name) for name in names if getattr(settings, name) is not None})


def _start(params: Params, model: ModelSettings, correspondence: bool) -> tuple[str | None, TrainSpec | None]:
    from pipeline import shipped

    if params.pretrain.source == "none":
        return None, None
    if params.pretrain.source == "shipped":
        return shipped.find(model.resolve(1, 1), correspondence), None
    if params.pretrain.source != "scratch":
        return shipped.file_start(params.root / params.pretrain.source), None
    parent = pretrain_spec(params, correspondence, model)
    return f"run:{parent.key}", parent


def _read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(path, "(file)", f"cannot be read: {error.strerror}", remedy) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(path, "(file)", f"is not YAML: {error}", "Correct it") from None
    if not isinstance(values, dict):
        raise UserError(path, "(file)", "is not a mapping of keys to values", "Write it as key: value lines")
    return values


def _parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for text in overrides:
        dotted, equals, value = text.partition("=")
        try:
            nested = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not all(dotted.split(".")):
            raise UserError("command line", f"-S {text}", "is not an override", "Write it as -S train.epochs=2")
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        result = _merge(result, nested)
    return result


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section; anything that is no section replaces as a whole."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without keys that have no value, also in sections; lists stay as they are."""
    return {name: _without_nulls(value) if isinstance(value, Mapping) else value
            for name, value in values.items() if value is not None}


def _mentions(values: Any, dotted: str) -> bool:
    """Whether the values have the dotted key; of a place inside a list, whether they have the list."""
    for part in dotted.split("."):
        if isinstance(values, list):
            return True
        if not isinstance(values, Mapping):
            return False
        values = {str(name): value for name, value in values.items()}
        if part not in values:
            return False
        values = values[part]
    return True
