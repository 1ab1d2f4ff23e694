"""Pretrained weights that come with the project: effvis/pretrained/<name>.safetensors, each with <name>.yaml beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from safetensors import SafetensorError, safe_open

from effvis.config import Config
from effvis.errors import UserError
from pipeline import methods
from pipeline.system.files import file_sha256, write_atomically

if TYPE_CHECKING:
    from torch import nn

    from effvis.model.conversion import Conversion
    from pipeline.settings.params import Params

FOLDER = Path(__file__).resolve().parents[2] / "effvis" / "pretrained"
LARGEST_BYTES = 4 * 10**6
# The one key of a converted file's metadata: with several, their order would differ from file to file.
_CONVERSION = "conversion"
# Where networks keep the body of their backbone: below its pyramid or, without one, at the top.
_BODIES = ("backbone.body.", "body.")
# What ``pretrain.source`` may say instead of a file's name.
WORDS = ("auto", "shipped", "scratch", "none")


class NothingFits(UserError):
    """No shipped weights fit the wanted network."""


class Initial(NamedTuple):
    """Weights to start from.

    Attributes:
        classes: the names of the classes that rows of class layers belong to; a network of other classes takes the rows of
            its own by name, and learns the others anew. Without names, rows are taken as they are.
        of_body: they are those of the backbone's body alone, under its names; the network's other weights stay as they are.
    """

    weights: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    of_body: bool = False

    def load_into(self, model: nn.Module, categories: Sequence[str]) -> list[str]:
        """Starts a network of these categories, and returns what ``load_initial`` does.

        Raises:
            ValueError: as from ``load_initial``.
        """
        if self.of_body:
            return self._load_into_body(model)
        if not self.classes or self.classes == tuple(categories):
            return model.load_initial(self.weights)
        from effvis.model.class_rows import in_order

        own = model.state_dict()
        weights = in_order(self.weights, own, theirs=self.classes, ours=categories)
        anew = [name for name in weights if name.startswith(getattr(model, "class_layers", ())) and name in own]
        return [*model.load_initial({**weights, **{name: own[name] for name in anew}}), *anew]

    def _load_into_body(self, model: nn.Module) -> list[str]:
        own = model.state_dict()
        prefix = next(prefix for prefix in _BODIES if any(name.startswith(prefix) for name in own))
        weights = {f"{prefix}{name}": value for name, value in self.weights.items()}
        return model.load_initial({**own, **weights}) + [name for name in own if name not in weights]


class StartRequired(UserError):
    """A training would start from nothing where the parameters forbid it."""


def is_required(model: Config) -> StartRequired:
    """The error for a network that would start from nothing, with the way to what its method's authors start from."""
    method = methods.get(model.method)
    key, name = f"{method.prefix}pretrain.source", method.usual_start.get(model.backbone, "weights")
    source = f"{name.partition('-')[0]}-{{backbone}}.safetensors"
    return StartRequired("params.yaml", key, f"is none, but {method.prefix}pretrain.required is true: the {model.backbone} of "
                         f"{method.title} would be trained from nothing",
                         f"{_conversion(model, file_name(source, model))}, and set {key}: {source}")


def _conversion(model: Config, out: str) -> str:
    """What to do for a file of weights that a network's training can start from."""
    method = methods.get(model.method)
    name = method.usual_start.get(model.backbone)
    if name is None:
        return f"Convert weights of a {model.backbone} into {out} (docs/weights.md)"
    options = "" if method.name == methods.DEFAULT else f" --method {method.name}"
    return (f"Run python -m pipeline.import_weights --published {name}{options} -S {method.prefix}model.backbone="
            f"{model.backbone} --out {out}, which downloads {method.published[name].url} or, with --from FILE, takes your copy")


def refusals(params: Params) -> dict[str, StartRequired]:
    """The methods whose rows would be refused because they have no start, each with its error."""
    found = {name: params.of_method(name) for name in methods.names()}
    return {name: is_required(settings.model.resolve(1, 1)) for name, settings in found.items()
            if settings.pretrain.required and settings.pretrain.source == "none"}


def given(params: Params, model: Config) -> str | None:
    """The user's own weights that a network starts from, as ``file:<sha256>``; None if ``pretrain.source`` names no file.

    Raises:
        UserError: there is no such file, its network is of another form, or a start is required and there is none.
    """
    settings = params.of_method(model.method).pretrain
    if settings.source == "none" and settings.required:
        raise is_required(model)
    if settings.source in WORDS:
        return None
    prefix = methods.get(model.method).prefix
    path, key = params.root / file_name(settings.source, model), f"{prefix}pretrain.source"
    if not path.is_file():
        raise UserError("params.yaml", key, f"there is no file {path}", f"{_conversion(model, path.name)}; or correct the path")
    found = file_start(path, key=key)
    check_form(path, model, where="params.yaml", prefix=f"{prefix}model.")
    return found


def file_name(source: str, model: Config) -> str:
    """The name of the user's own weights for this network: ``{backbone}`` in ``pretrain.source`` stands for its backbone."""
    return source.replace("{backbone}", model.backbone)


def find_shipped(
    model: Config, correspondence: bool, *, seed: int = 0, drawn: Mapping[str, Any] | None = None, folder: Path = FOLDER
) -> str | None:
    """The shipped pretraining of a network, as ``shipped:<name>@<sha256>``; None if there is none.

    Args:
        model: the network at any clip length; its configuration at one frame decides.
        correspondence: whether the weights must be pretrained with correspondence learning.
        seed: of the pretraining.
        drawn: what the data set that they must be trained on is drawn from; None: it may be any.

    Raises:
        UserError: its weights are not those that its description names.
    """
    wanted = _at_one_frame(model)
    for description in sorted(folder.glob("*.yaml")):
        facts = _read(description)
        same_kind = (facts["method"], facts["correspondence"], facts["seed"]) == (model.method, correspondence, seed)
        same_data = drawn is None or facts["dataset"].get("shapes") == drawn
        if same_kind and same_data and _at_one_frame(type(model)(**facts["model"])) == wanted:
            return f"shipped:{description.stem}@{_checked_sha256(description, facts)}"
    return None


def none_fits(
    correspondence: bool, seed: int, dataset: str, *, key: str = "pretrain.source", folder: Path = FOLDER
) -> NothingFits:
    """The error for when ``find_shipped`` finds nothing and nothing else is accepted; ``key`` names the setting that requires
    it."""
    names = ", ".join(sorted(description.stem for description in folder.glob("*.yaml")))
    learning = "with" if correspondence else "without"
    return NothingFits(
        "params.yaml", key,
        f"no shipped weights fit this model, pretrained with seed {seed} on {dataset} {learning} correspondence learning "
        f"(there are: {names or 'none'})",
        f"Set {key} to auto or scratch, and they are trained here")


def load(init: str, *, folder: Path = FOLDER) -> Initial:
    """The weights of a ``shipped:<name>@<sha256>``.

    Raises:
        UserError: the weights are missing, or they are not the ones that ``init`` names.
    """
    from safetensors.torch import load_file

    path, sha256 = _named(init, folder)
    if not path.is_file() or file_sha256(path) != sha256:
        raise UserError(path, "sha256", f"these are not the weights {sha256[:12]}… that the run starts from",
                        "Restore the file from the project's repository")
    return Initial(load_file(path), tuple(_read(path.with_suffix(".yaml"))["categories"]))


def described(init: str, *, folder: Path = FOLDER) -> tuple[Path, Mapping[str, Any]]:
    """The file of a ``shipped:<name>@<sha256>``, and the description beside it.

    Raises:
        UserError: the description is incomplete.
    """
    path, _ = _named(init, folder)
    return path, _read(path.with_suffix(".yaml"))


def is_shipped(weights: Path) -> bool:
    """Whether a file of weights came with the project, in which case nothing but its own description says what it is."""
    return weights.parent == FOLDER


def _named(init: str, folder: Path) -> tuple[Path, str]:
    name, _, sha256 = init.removeprefix("shipped:").partition("@")
    return folder / f"{name}.safetensors", sha256


def file_start(path: Path, *, key: str = "pretrain.source") -> str:
    """The user's own weights to start from, as ``file:<sha256>``: moving the file does not make another run.

    Args:
        key: the setting that names the file.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError("params.yaml", key, f"there is no file {path}",
                        "Convert published weights with python -m pipeline.import_weights, or correct the path")
    stat = path.stat()
    return f"file:{_sha256_of_version(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))}"


def metadata(conversion: Conversion) -> dict[str, str]:
    """A safetensors file's metadata that says what ``Conversion.form`` does, and which classes the rows belong to."""
    return {_CONVERSION: json.dumps({"form": dict(conversion.form), "classes": list(conversion.by_name)}, sort_keys=True)}


def _metadata_of(path: Path) -> Mapping[str, Any]:
    """What ``metadata`` wrote, or the same of nothing."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {"form": {}, "classes": [], **json.loads((file.metadata() or {}).get(_CONVERSION, "{}"))}
    except SafetensorError as error:
        raise UserError(path, "(file)", f"is not a safetensors file: {error}",
                        "Convert a checkpoint with python -m pipeline.import_weights") from None


def check_form(path: Path, model: Config, *, where: object, prefix: str) -> None:
    """Refuses converted weights that fit a network and mean something else in it.

    Args:
        where: the file that describes the network.
        prefix: the beginning of the network's keys in that file.

    Raises:
        UserError: the file says that its network has another setting, or is not a safetensors file.
    """
    for name, value in _metadata_of(path)["form"].items():
        if getattr(model, name) != value:
            raise UserError(where, prefix + name, f"the weights of {path.name} were made with {json.dumps(value)}, this "
                            f"network with {json.dumps(getattr(model, name))}, where they mean something else",
                            f"Set {prefix}{name}: {json.dumps(value)}")


def check_classes(path: Path, categories: Sequence[str], *, where: object) -> None:
    """Refuses names for rows of classes that were carried over to other names, or to another order.

    Args:
        where: the file that names the classes.

    Raises:
        UserError: the converted file names other classes.
    """
    classes = _metadata_of(path)["classes"]
    if classes and classes != list(categories):
        raise UserError(where, "labels", f"are not the classes that the rows of {path.name} were converted for",
                        f"List, in this order: {', '.join(classes)}")


def load_file_start(path: Path, init: str) -> Initial:
    """The weights of a ``file:<sha256>``.

    Raises:
        UserError: the file has changed since the run was planned.
    """
    from safetensors.torch import load_file

    if file_start(path) != init:
        raise UserError(path, "sha256", "the file changed after the run was planned", "Start again")
    return Initial(load_file(path), tuple(_metadata_of(path)["classes"]))


def ship(name: str, weights: Path, facts: Mapping[str, Any], *, folder: Path = FOLDER) -> Path:
    """Copies weights into the project in half precision, with ``facts`` (model, correspondence, command, …) beside them.

    Half precision halves the file; a start for further training needs no more digits.

    Raises:
        UserError: they are larger than the project may ship.
    """
    from safetensors.torch import load_file, save

    content = save({key: value.half() for key, value in load_file(weights).items()})
    if len(content) > LARGEST_BYTES:
        raise UserError(weights, "size", f"{len(content)} bytes are more than the {LARGEST_BYTES} that may be shipped",
                        "Ship a smaller model")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.safetensors"
    write_atomically(target, content)
    described = {**facts, "sha256": file_sha256(target)}
    write_atomically(folder / f"{name}.yaml", yaml.safe_dump(described, sort_keys=False, width=120).encode())
    return target


def _read(description: Path) -> Mapping[str, Any]:
    facts = _parsed(description.read_text(encoding="utf-8"))
    for key in ("method", "model", "correspondence", "seed", "dataset", "categories", "sha256"):
        if not isinstance(facts, dict) or key not in facts:
            raise UserError(description, key, "is missing", "Restore the file from the project's repository")
    return facts


@cache
def _sha256_of_version(path: Path, version: tuple[int, ...]) -> str:
    """The checksum of a file, once per version: every row and seed of a grid asks for it."""
    return file_sha256(path)


@cache
def _parsed(text: str) -> Any:
    return yaml.safe_load(text)


def _at_one_frame(model: Config) -> dict[str, Any]:
    # Class heads are learned anew for other classes, so the number of classes does not distinguish networks.
    return model.at_one_frame().model_dump(mode="json", exclude={"num_classes"})


def _checked_sha256(description: Path, facts: Mapping[str, Any]) -> str:
    weights = description.with_suffix(".safetensors")
    if not weights.is_file() or file_sha256(weights) != facts["sha256"]:
        raise UserError(weights, "sha256", f"is not the file that {description.name} describes",
                        "Restore the file from the project's repository")
    return facts["sha256"]
