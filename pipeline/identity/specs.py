"""Complete, frozen specifications of trainings, given weights and evaluations; each knows its key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from effvis.config import Config, InferenceConfig, OptimisationConfig
from effvis.data.sizes import InputSize, written
from pipeline.identity.digests import key


@dataclass(frozen=True)
class TrainSpec:
    """One training, fully specified.

    Args:
        kind: a word for people only; the same training has the same key with either.
        model: the network, with the dataset's number of classes and the clip length in frames. It says which method is trained.
        input_size: (height, width) that frames are resized to, or the rule by which they keep their ratio.
        dataset_name: the data set's name, for people; the digest decides.
        dataset_digest: digest of the training split.
        code_digest: digest of the code that trains.
        init: the weights it starts from: None, ``shipped:<name>@<sha256>`` ``run:<key of the parent>``,
            ``file:<sha256>`` or ``imagenet:<backbone>@<sha256>``.
        parent: the training whose weights it starts from, if there is one.
        categories: the names of its classes, for whatever starts from it; they follow from the data set.
        key: 16 hex digits, computed.
    """

    kind: Literal["pretrain", "train"]
    model: Config
    train: OptimisationConfig
    seed: int
    input_size: InputSize
    dataset_name: str
    dataset_digest: str
    code_digest: str
    init: str | None = None
    parent: TrainSpec | None = None
    categories: tuple[str, ...] = ()
    key: str = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "key", key(self._facts()))

    @property
    def method(self) -> str:
        return self.model.method

    @property
    def correspondence(self) -> bool:
        """Whether queries learn to carry over from clip to clip, in a method that has such queries."""
        return getattr(self.train, "correspondence", False)

    def _facts(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
            "seed": self.seed,
            "input_size": written(self.input_size),
            "init": self.init,
            "dataset_digest": self.dataset_digest,
            "code_digest": self.code_digest,
        }

    def describe(self) -> dict[str, Any]:
        """The whole specification as plain values: the content of a run's ``config.yaml``."""
        return {"key": self.key, "kind": self.kind, "dataset": self.dataset_name, **self._facts()}


def steps_after(total: int, halvings: int) -> int:
    """The number of steps, at least one, after which 1/2**halvings of a training of ``total`` steps is done."""
    return max(1, total >> halvings)


@dataclass(frozen=True)
class GivenSpec:
    """Weights that no training of ours made, in an evaluation's place for a training.

    Args:
        model, input_size: the network and the size of its input, as their description says.
        sha256: of the file.
        weights: the file; where it lies is not in the key.
        dataset_name: the name of the data set that they are evaluated on, for people; the digest decides.
        dataset_digest: digest of the split that they are evaluated on.
        key: 16 hex digits, computed.
    """

    kind: ClassVar[str] = "given"
    parent: ClassVar[None] = None
    seed: ClassVar[int] = 0  # there is one evaluation; where results are paired by seed, it counts as the first

    model: Config
    input_size: InputSize
    sha256: str
    weights: Path
    dataset_name: str
    dataset_digest: str
    key: str = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "key", key(self._facts()))

    @property
    def method(self) -> str:
        return self.model.method

    def _facts(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "model": self.model.model_dump(mode="json"),
            "input_size": written(self.input_size),
            "sha256": self.sha256,
            "dataset_digest": self.dataset_digest,
        }

    def describe(self) -> dict[str, Any]:
        """The whole specification as plain values, in the form of ``TrainSpec.describe``."""
        return {"key": self.key, "kind": self.kind, "dataset": self.dataset_name, **self._facts()}


@dataclass(frozen=True)
class EvalSpec:
    """One evaluation of a training's weights, or of weights that were given.

    Args:
        train: what the weights come from.
        evaluation_digest: digest of the split and of the code that predicts and scores.
        halvings: the weights are those after 1/2**halvings of the training, a point of its learning curve; 0 is its end.
        split: the split's name, to find its videos; in the key its digest stands for it.
        start_on: the weights are the start of other trainings, evaluated on the data set of this name (for people; the digest
            decides), whose categories may be others: only AP with categories ignored counts. None: on the data set that
            ``train`` names.
        key: 16 hex digits, computed.
    """

    train: TrainSpec | GivenSpec
    inference: InferenceConfig
    evaluation_digest: str
    halvings: int = 0
    split: Literal["val", "test"] = "val"
    start_on: str | None = None
    key: str = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "key", key(self._facts()))

    def _facts(self) -> dict[str, Any]:
        return {
            "train_key": self.train.key,
            "inference": self.inference.model_dump(mode="json"),
            "evaluation_digest": self.evaluation_digest,
            **({"halvings": self.halvings} if self.halvings else {}),
            **({"categories": "ignored"} if self.start_on is not None else {}),
        }

    def describe(self) -> dict[str, Any]:
        """The whole specification as plain values."""
        return {"key": self.key, **self._facts()}
