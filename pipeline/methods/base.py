"""What a method says of itself, so that nothing else has to name it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from effvis.config import Config, InferenceConfig, OptimisationConfig

if TYPE_CHECKING:
    from effvis.model.conversion import Conversion

Linking = Literal["end-to-end", "hand-craft"]


class PretrainSettings(Config):
    """The training on single frames that trainings of a method start from; ``train`` is the method's to add."""

    source: str = Field(
        "auto", pattern=r"^(auto|shipped|scratch|none|.+\.safetensors)$",
        description="shipped: weights that come with the project; scratch: trained here first; auto: shipped ones where "
        "they fit, else trained here; none; or a file relative to params.yaml, as pipeline.import_weights writes it")


@dataclass(frozen=True)
class Published:
    """A published file of weights.

    Its name ends in the first 8 hex digits of its SHA-256. torchvision and DETR load theirs with ``check_hash=True``, which is
    this convention of torch.hub; mmdetection's tools/model_converters/publish_model.py gives names by it.

    Attributes:
        backbone: as in ``model.backbone``.
        what: it holds, in a few words.
        document: that gives the address.
        mib: its size as the document rounds it, or None where it says nothing.
        methods: the networks that it can be a start for.
    """

    url: str
    backbone: str
    what: str
    document: str
    mib: float | None = None
    methods: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def sha256(self) -> str:
        """The first 8 hex digits."""
        return self.file.removesuffix(".pth").rpartition("-")[2]


@dataclass(frozen=True)
class Comparison:
    """A figure that shows rows of a table beside each other, one strip of pictures for each.

    Attributes:
        name: unique on the page, as in its address.
        rows: ``<table>:<row's name>`` by the label of its strip.
    """

    name: str
    title: str
    text: str
    rows: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A method, by what the pipeline asks of it. Its network is registered in ``effvis.methods`` under the same name.

    Functions are looked at by their source: those that decide a result (``losses``, ``clips_per_video``, ``predict``) are part
    of the keys, with what they name in their module's imports. They stand at the top level of the method's file.

    Attributes:
        title: its name as people write it.
        settings: its section of the parameters: a configuration with ``model`` (which has ``resolve(num_classes, clip_length)``
            and gives the network's configuration), ``pretrain`` (a ``PretrainSettings`` with ``train``) and ``train``.
        section: the name of that section; empty: model, pretrain and train stand at the top of the parameters.
        derived: keys of its section that cannot be set, and what they follow from.
        row_keys: what rows of tables may set of it, of ``pipeline.settings.params.ROW_KEYS``.
        linkings: how tracklets of clips become tracklets of a video; another one that is asked for is replaced by the first.
        learns_correspondence: whether queries can learn to be handed on from clip to clip.
        train_config: the training that its settings ask for, as ``train_config(settings, correspondence)``.
        pretrain_config: the same for the training on single frames.
        clips_per_video: how many clips of a video a training looks at together, as
            ``clips_per_video(train, clip_length, longest_video)``.
        losses: of a network, as ``losses(model, train)``: called with a batch, and with ``whole`` where that is a part of one,
            the result gives losses by name.
        predict: predictions by score threshold, None where there is none to choose, as
            ``predict(model, index, inference, input_size, progress)``.
        training_code, evaluation_code: modules that decide a trained weight, and what it scores, besides those that all methods
            share and its own functions above.
        reads: whose published weights it can start from, in words.
        published: such files, by name.
        convert: published weights into those of a network that ``settings.model`` describes, as
            ``convert(published, settings, classes, clip_length, where, hint)``.
        starts_have_frames: whether a start depends on the clip length.
        comparisons: figures that compare it with others.
    """

    name: str
    title: str
    settings: type[Config]
    train_config: Callable[[Any, bool], OptimisationConfig]
    pretrain_config: Callable[[Any, bool], OptimisationConfig]
    clips_per_video: Callable[[Any, int, int], int]
    losses: Callable[[Any, Any], Callable[..., dict[str, Any]]]
    predict: Callable[..., dict[float | None, Any]]
    section: str = ""
    derived: Mapping[str, str] = field(default_factory=dict)
    row_keys: frozenset[str] = frozenset()
    linkings: tuple[Linking, ...] = ("hand-craft",)
    learns_correspondence: bool = False
    training_code: tuple[str, ...] = ()
    evaluation_code: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    published: Mapping[str, Published] = field(default_factory=dict)
    convert: Callable[[Mapping[str, Any], Any, int, int, Path, str], Conversion] | None = None
    starts_have_frames: bool = False
    comparisons: tuple[Comparison, ...] = ()

    @property
    def prefix(self) -> str:
        """What its keys in the parameters begin with."""
        return f"{self.section}." if self.section else ""

    def linked(self, inference: InferenceConfig) -> InferenceConfig:
        """The inference with a linking that the method has."""
        if inference.linking in self.linkings:
            return inference
        return inference.model_copy(update={"linking": self.linkings[0]})
