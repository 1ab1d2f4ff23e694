"""All settings: params.yaml over its profile, and the settings of a table's row over both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, PrivateAttr, create_model, field_validator, model_validator

from effvis.config import Backbone, Config, InferenceConfig, build, later
from effvis.data.sizes import InputSize
from effvis.data.synthetic.shapes import ShapesConfig
from effvis.errors import UserError
from pipeline import methods
from pipeline.methods.base import OWN
from pipeline.settings.sources import SOURCES
from pipeline.system.files import user_cache

GENERATED_DATASET = "shapes-vis"  # the data set that params.yaml draws; others may differ from it
# Keys of a table's row that some methods do not have.
ROW_KEYS = ("cl", "attention", "dynamic_conv", "query")
# Fields of the configurations that nobody may set, and what they follow from.
DERIVED = {
    method.prefix + name: reason
    for method in methods.everyone()
    for name, reason in {
        "model.num_classes": "It follows from the dataset",
        "model.clip_length": "It follows from a row's T and from scale.T",
        **method.derived,
    }.items()
}
# Keys that a row's ``params`` may set: those that decide a training or an evaluation, and so its key.
OF_A_RUN = tuple(
    method.prefix + section
    for method in methods.everyone() for section in ("inference.", "model.", "train.", "pretrain.train."))


class IndexSettings(Config):
    clip_lengths: tuple[PositiveInt, ...] = ()


class ArchiveSettings(Config):
    location: str = Field(min_length=1, description="an address, or a file or folder relative to params.yaml")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$", description="the checksum's first 8 hex digits or more")
    size: PositiveInt | None = Field(None, description="the size in bytes")


class SourceSettings(Config):
    """The source of a data set that is neither drawn here nor the user's own folder."""

    page: str | None = Field(None, description="where to register for it, for people")
    archives: tuple[ArchiveSettings, ...] = ()


class HoldoutSettings(Config):
    """Training videos to validate on instead of the validation split: a fraction of them, or those that a file lists."""

    fraction: float | None = Field(None, gt=0, lt=1)
    seed: int = 0
    file: str | None = Field(None, min_length=1, description="relative to params.yaml; {dataset}: the data set's name")
    without: str | None = later(None, min_length=1, description="a list of videos like file: they are neither trained on nor "
                                "validated on, and the fraction is of the others")

    @model_validator(mode="after")
    def _one_of_both(self):
        if (self.fraction is None) == (self.file is None):
            raise ValueError("needs either fraction or file")
        if self.without is not None and self.fraction is None:
            raise ValueError("without goes with fraction; a file lists all videos itself")
        return self


class ScaleSettings(Config):
    """Replacements here for the paper's values; clip lengths that are not listed stay as they are."""

    T: dict[PositiveInt, PositiveInt] = {}
    backbone: dict[Literal["R50", "R101"], Backbone] = {"R50": "resnet50", "R101": "resnet101"}
    dataset: dict[Literal["youtube-vis-2019", "youtube-vis-2021"], str] = {}


class ResourceSettings(Config):
    slots: PositiveInt | None = Field(None, description="how many runs go on side by side; None: as many as the machine holds")
    workers_per_run: PositiveInt = Field(1, description="processes that share each run's batches or videos; it affects "
                                         "results only by rounding")
    threads: PositiveInt = Field(1, description="processor threads of each worker")
    memory_gib: float = Field(2.0, gt=0, description="main memory of each worker")
    gpus_per_worker: int = Field(0, ge=0, le=1, description="1: each worker has its own GPU; 0: it runs on processors")
    accumulate: PositiveInt = Field(1, description="parts into which each worker splits its share of a batch, to save memory; "
                                    "it affects results only by rounding")
    prefetch: bool = Field(False, description="whether a further thread of each run prepares the next batch in the meantime")
    checkpoint_seconds: float = Field(30, gt=0)
    snapshots: int = Field(0, ge=0, le=12, description="how many weights to keep, after a half, a quarter, an eighth, … of the "
                           "training, for learning curves")


class RowSettings(Config):
    """The settings of a table's row, in the paper's terms; settings that it leaves out are as in the parameters."""

    T: PositiveInt = Field(36, description="the paper's clip length, before scaling")
    cl: bool | None = Field(None, description="correspondence learning; None: train.correspondence")
    linking: Literal["end-to-end", "hand-craft"] | None = None
    test_fps: float | None = Field(None, gt=0)
    method: str = methods.DEFAULT
    attention: Literal["ftsa", "ftsa-st", "spatial", "temporal", "joint"] | None = None
    dynamic_conv: Literal["temporal", "still"] | None = None
    query: Literal["time-disentangled", "time-shared"] | None = None
    augmentation: Literal["none", "multi-scale", "random-crop"] | None = Field(None, description="in clip training")
    backbone: Literal["R50", "R101"] | None = Field(None, description="the paper's backbone, before scaling")
    dataset: Literal["youtube-vis-2019", "youtube-vis-2021"] | None = Field(None, description="the paper's, before scaling")
    params: dict[str, Any] = Field({}, description="parameters that differ from params.yaml, by dotted key")
    weights: str | None = Field(None, min_length=1, description="a model's folder, or a safetensors file with its config.yaml "
                                "beside it, to be evaluated without a training; relative to params.yaml")

    @field_validator("method")
    @classmethod
    def _is_a_method(cls, method: str) -> str:
        if method not in methods.names():
            raise ValueError(f"there is no such method; the methods are {', '.join(methods.names())}")
        return method

    @model_validator(mode="after")
    def _sets_what_its_method_has(self):
        method = methods.get(self.method)
        foreign = [name for name in ROW_KEYS if name not in method.row_keys and getattr(self, name) is not None]
        if self.linking not in (None, *method.linkings):
            foreign.append(f"{self.linking} linking")
        if foreign:
            raise ValueError(f"{method.title} has no {', '.join(foreign)}")
        return self


class _SharedParams(Config):
    """All parameters except the methods' own sections."""

    profile: str
    dataset: str
    data_dir: Path = Path("data")
    runs_dir: Path = Path("runs")
    results_dir: Path = Path("results")
    storage_path: str | None = Field(None, min_length=1, description="where runs are copied to and fetched from: an address "
                                     "such as s3://bucket/folder, or a folder")
    cache_dir: Path | None = Field(None, description="where published weights are kept; None: in the "
                                   "user's cache folder")
    seeds: PositiveInt = 2
    methods: str = Field(methods.ALL, description="methods whose rows dvc.yaml runs, with commas, or all")
    tables: tuple[str, ...] = ()
    before_clips: bool = Field(True, description="also evaluate what rows of tables start from (docs/evaluation.md)")
    headline: RowSettings = RowSettings()
    shapes: ShapesConfig = ShapesConfig()
    generated: dict[str, dict[str, Any]] = Field({}, description="further drawn data sets, as differences from shapes")
    sources: dict[str, SourceSettings] = Field({}, description="published data sets, by the name of their folder in data_dir")
    holdout: HoldoutSettings | None = None
    split: Literal["val", "test"] | None = Field(None, description="what tables, the headline run and pipeline.evaluate are "
                                                 "measured on; None: test if the data set has one with instances, else val")
    index: IndexSettings = IndexSettings()
    input_size: InputSize
    inference: InferenceConfig = InferenceConfig()
    scale: ScaleSettings = ScaleSettings()
    resources: ResourceSettings = ResourceSettings()
    _root: Path = PrivateAttr(default=Path("."))
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, text: str) -> str:
        try:
            methods.named(text)
        except UserError as error:
            raise ValueError(f"{error.problem}: {error.key!r}. {error.remedy}") from None
        return text

    @field_validator("headline")
    @classmethod
    def _headline_is_trained(cls, headline: RowSettings) -> RowSettings:
        if headline.weights is not None:
            raise ValueError("the headline run is trained here: weights belong in a row of a table")
        return headline

    @property
    def root(self) -> Path:
        """The project's folder, which holds params.yaml. All folders of the parameters are absolute."""
        return self._root

    def gives(self, dotted: str) -> bool:
        """Whether params.yaml, the command line or a row sets this key or one inside it. The profile does not count."""
        return any(key == dotted or key.startswith(f"{dotted}.") for key in self._given)

    @property
    def cache_folder(self) -> Path:
        return self.cache_dir or user_cache() / "effvis"

    @property
    def dataset_folder(self) -> Path:
        """The folder that holds train/, val/ and, if there is one, test/."""
        return self._root / self._dataset_path

    @property
    def dataset_name(self) -> str:
        """The data set's name for people, with the holdout, if there is one."""
        name = self.dataset_folder.resolve().name
        if self.holdout is None:
            return name
        if self.holdout_file is not None:
            return f"{name} (holdout {self.holdout_file.name})"
        without = "" if self.left_out_file is None else f", without {self.left_out_file.name}"
        return f"{name} (holdout {self.holdout.fraction:g}, seed {self.holdout.seed}{without})"

    @property
    def holdout_file(self) -> Path | None:
        return None if self.holdout is None else self._list_of_videos(self.holdout.file)

    @property
    def left_out_file(self) -> Path | None:
        """The list of the videos that are neither trained on nor validated on."""
        return None if self.holdout is None else self._list_of_videos(self.holdout.without)

    def _list_of_videos(self, file: str | None) -> Path | None:
        return None if file is None else self._root / file.replace("{dataset}", self.dataset_folder.resolve().name)

    @property
    def index_folder(self) -> Path:
        """The index's folder, e.g. data/index/data/shapes-vis: data sets of the same name do not share one. dvc.yaml agrees."""
        path = self._dataset_path
        return self.data_dir / "index" / path.relative_to(path.anchor)

    @property
    def _dataset_path(self) -> Path:
        """A path relative to the root, or absolute. The name of a generated or published data set stands for its folder."""
        if self.dataset not in (*self.generated_names, *self.published_names):
            return Path(self.dataset)
        folder = self.data_dir / self.dataset
        return folder.relative_to(self._root) if folder.is_relative_to(self._root) else folder

    @property
    def generated_names(self) -> tuple[str, ...]:
        """The names of the data sets that are drawn here."""
        return (GENERATED_DATASET, *self.generated)

    @property
    def generated_name(self) -> str | None:
        """The name of the data set if it is drawn here."""
        return next((name for name in self.generated_names if self.dataset_folder == self.data_dir / name), None)

    @property
    def published_names(self) -> tuple[str, ...]:
        """The names of the data sets that are imported from archives."""
        return tuple({**SOURCES, **self.sources})

    @property
    def published_name(self) -> str | None:
        """The name of the data set if it is imported from archives."""
        return next((name for name in self.published_names if self.dataset_folder == self.data_dir / name), None)

    @property
    def shapes_config(self) -> ShapesConfig:
        """The configuration from which the data set is drawn, if it is drawn here.

        Raises:
            UserError: its entry under ``generated`` is wrong.
        """
        values = self.shapes.model_dump() | self.generated.get(self.generated_name, {})
        return build(ShapesConfig, values, where=self.root / "params.yaml", prefix=f"generated.{self.generated_name}")

    def with_dataset(self, published: str | None) -> Params:
        """The same parameters with the data set that replaces one of the paper's; None keeps the parameters' own.

        Raises:
            UserError: the parameters have no replacement for it.
        """
        if published in self.scale.dataset:
            return self.model_copy(update={"dataset": self.scale.dataset[published]})
        if published in (None, "youtube-vis-2019"):
            return self
        raise UserError("params.yaml", "scale.dataset", f"nothing stands for {published}",
                        f"Name a data set for it, as in scale: {{dataset: {{{published}: data/{published}}}}}")

    def of_pretraining(self, method: str) -> Params:
        """The same parameters with the data set that what a method's trainings start from is trained on; these themselves if
        it is their own. No videos of another data set are set aside."""
        dataset = self.of_method(method).pretrain.dataset
        return self if dataset == OWN else self.model_copy(update={"dataset": dataset, "holdout": None})

    def of_dataset(self, name: str) -> Params:
        """The same parameters for the data set of this name: theirs, one in ``scale.dataset``, or one of a pretraining.

        Raises:
            UserError: there is no data set of this name.
        """
        known = [self, *(self.model_copy(update={"dataset": dataset}) for dataset in self.scale.dataset.values()),
                 *(self.of_pretraining(method.name) for method in methods.everyone())]
        for params in known:
            if params.dataset_name == name:
                return params
        raise UserError("params.yaml", "dataset", f"{name} is not among the data sets here",
                        f"There are {', '.join(dict.fromkeys(params.dataset_name for params in known))}")

    def on_val(self) -> Params:
        """The same parameters for whoever chooses something: measured on val, and never on test."""
        return self.model_copy(update={"split": "val"})

    def of_method(self, name: str) -> Any:
        """A method's ``model``, ``pretrain`` and ``train``: its section, or these parameters if it has no section."""
        section = methods.get(name).section
        return getattr(self, section) if section else self

    def input_size_of(self, name: str) -> InputSize:
        """The size of a method's input: its section's, or that of the parameters."""
        return getattr(self.of_method(name), "input_size", None) or self.input_size

    def inference_of(self, name: str) -> InferenceConfig:
        """The inference of a method: that of the parameters, with what its section sets, and with a linking that it has."""
        method, own = methods.get(name), getattr(self.of_method(name), "inference", self.inference)
        values = {} if own is self.inference else own.model_dump(exclude_none=True)
        return method.inference(**{**method.linked(self.inference).model_dump(), **values})

    def clip_length(self, published: int) -> int:
        """The clip length that replaces one of the paper's."""
        return self.scale.T.get(published, published)


def _with_methods() -> type[_SharedParams]:
    """The parameters with the settings of each method, in its section or at the top."""
    at_the_top = tuple(method.settings for method in methods.everyone() if not method.section)
    sections = {method.section: (method.settings, method.settings()) for method in methods.everyone() if method.section}
    return create_model("Params", __base__=(_SharedParams, *at_the_top), __module__=__name__, __doc__=(
        "params.yaml over its profile: what all methods share, and the settings of each."), **sections)


Params = _with_methods()
