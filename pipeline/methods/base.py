"""The description that each method gives of itself, so that no other code has to name the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from effvis.config import Config, InferenceConfig, OptimisationConfig

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion

Linking = Literal["end-to-end", "hand-craft"]
OWN = "own"
"""What ``pretrain.dataset`` says for the data set of the training itself."""


class PretrainSettings(Config):
    """Settings of the training on single frames that a method's trainings start from; each method adds ``train``."""

    source: str = Field(
        "auto", pattern=r"^(auto|shipped|scratch|none|.+\.safetensors)$",
        description="shipped: weights that come with the project; scratch: weights trained here first; auto: shipped if "
        "they fit, else scratch; none; or a file relative to params.yaml, as pipeline.import_weights writes it; {backbone} in "
        "its name stands for the row's model.backbone")
    start: Literal["none", "imagenet"] = Field(
        "none", description="what that training itself starts from. imagenet: the backbone has ImageNet's weights, from an "
        "installed package (pipeline/grid/imagenet.py); none: all weights are random")
    dataset: str = Field(
        OWN, min_length=1, description="the data set that weights are trained on here, as in params.dataset: of still pictures "
        "or videos, with categories of its own; own: the data set of the training that starts from them")
    required: bool = Field(False, description="none is refused: a row must start from something")


@dataclass(frozen=True)
class Published:
    """A published file of weights.

    Its name ends in the first 8 hex digits of its SHA-256. This is torch.hub's convention: torchvision and DETR load their
    files with ``check_hash=True``, and mmdetection's tools/model_converters/publish_model.py names files in this way.

    Attributes:
        backbone: its backbone, as in ``model.backbone``.
        what: its content in a few words.
        document: the document that gives the address.
        mib: its size as the document rounds it, or None if the document gives no size.
        methods: the methods whose networks can start from it.
        model: the method of which it is a whole model, which commands take as ``--model``; None if it is a start alone.
    """

    url: str
    backbone: str
    what: str
    document: str
    mib: float | None = None
    methods: tuple[str, ...] = ()
    model: str | None = None

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first 8 hex digits."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


@dataclass(frozen=True)
class Classes:
    """The classes of a network that published weights are converted for.

    Attributes:
        names: their names in order, or none where only the number is known.
        published: the names that the published file gives its own classes, in order, or none.
    """

    number: int
    names: tuple[str, ...] = ()
    published: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A figure that shows rows of a table beside each other, with one strip of pictures for each row.

    Attributes:
        name: a name that is unique on the page, as in the figure's address.
        rows: ``<table>:<row's name>`` of each row, by the label of its strip.
    """

    name: str
    title: str
    text: str
    rows: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """Everything that the pipeline needs from a method. Its network is registered in ``effvis.methods`` under the same name.

    The source of the functions that decide a result (``losses``, ``clips_per_video``, ``predict``) is part of the keys, with
    the imports of their module that they use. These functions stand at the top level of the method's file.

    Attributes:
        title: its name as people write it.
        settings: its section of the parameters: a configuration with ``model`` (which has ``resolve(num_classes, clip_length)``
            and gives the network's configuration), ``pretrain`` (a ``PretrainSettings`` with ``train``) and ``train``. A
            section may have ``input_size`` and ``inference`` too, which replace what the parameters set for all methods.
        section: the name of that section; if empty, model, pretrain and train stand at the top of the parameters.
        derived: keys of its section that cannot be set, and what they follow from.
        row_keys: those of ``pipeline.settings.params.ROW_KEYS`` that a table's rows may set for this method.
        inference: the class of its settings of inference; with fields of its own, its section's ``inference`` sets them.
        linkings: ways to link tracklets of clips into tracklets of a video; the first one replaces any that is not listed.
        learns_correspondence: whether queries can learn to carry over from clip to clip.
        train_config: the training that its settings ask for, as ``train_config(settings, correspondence)``.
        pretrain_config: the same for the training on single frames or, with ``pretrain.dataset``, on still pictures.
        on_pictures: the network that is trained on still pictures, from a row's: networks that pictures cannot tell apart are
            the same one there.
        clips_per_video: how many clips of a video a training looks at together, as
            ``clips_per_video(train, clip_length, longest_video)``.
        losses: a network's loss function, as ``losses(model, train)``. The result is called with a batch or, for a part of a
            batch, also with ``counts``, and gives losses by name.
        predict: the predictions of a split, as ``predict(model, index, inference, input_size, progress)``.
        training_code, evaluation_code: modules that decide a trained weight, and what it scores, besides those that all methods
            share and its own functions above.
        reads: the published weights that it can start from, in words.
        published: such files, by name.
        published_settings: parameters of its section that what is converted from published weights has, as ``-S`` takes them.
        models: the names of those that are whole models of the method, converted by ``effvis/<method>/convert.py``.
        convert: converts published weights to those of a network that ``settings.model`` describes, as
            ``convert(published, settings, classes, clip_length, where, hint)``; without a clip length, it is the file's or 1.
        class_names: the names of a published file's classes in the order of their rows, as
            ``class_names(published, named, where=file, hint=hint)``, from those that the file lists; None: exactly those.
        usual_start: the name in ``published`` of what its authors start from, by backbone.
        links_starts: whether its ``predict`` can link what a start, a network of single frames, finds in each frame.
        starts_have_frames: whether a start depends on the clip length.
        comparisons: figures that compare this method with others.
    """

    name: str
    title: str
    settings: type[Config]
    train_config: Callable[[Any, bool], OptimisationConfig]
    pretrain_config: Callable[[Any, bool], OptimisationConfig]
    clips_per_video: Callable[[Any, int, int], int]
    losses: Callable[[Any, Any], Callable[..., dict[str, Any]]]
    predict: Callable[..., Any]
    on_pictures: Callable[[Any], Any] = methodcaller("at_one_frame")
    section: str = ""
    derived: Mapping[str, str] = field(default_factory=dict)
    row_keys: frozenset[str] = frozenset()
    inference: type[InferenceConfig] = InferenceConfig
    linkings: tuple[Linking, ...] = ("hand-craft",)
    learns_correspondence: bool = False
    training_code: tuple[str, ...] = ()
    evaluation_code: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    published_settings: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    convert: Callable[[Mapping[str, Any], Any, Classes, int | None, Path, str], Conversion] | None = None
    class_names: Callable[..., Sequence[str]] | None = None
    usual_start: Mapping[str, str] = field(default_factory=dict)
    links_starts: bool = False
    starts_have_frames: bool = False
    comparisons: tuple[Comparison, ...] = ()

    @property
    def as_published(self) -> list[str]:
        """``published_settings`` by their keys in the parameters."""
        return [f"{self.prefix}{name}={value}" for name, value in self.published_settings.items()]

    @property
    def prefix(self) -> str:
        """The beginning of its keys in the parameters."""
        return f"{self.section}." if self.section else ""

    def linked(self, inference: InferenceConfig) -> InferenceConfig:
        """The inference, with a linking that the method has."""
        if inference.linking in self.linkings:
            return inference
        return inference.model_copy(update={"linking": self.linkings[0]})
