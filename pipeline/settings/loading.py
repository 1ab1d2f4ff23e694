"""Merges and validates params.yaml over its profile, and overrides over both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from effvis.config import build
from effvis.errors import UserError
from pipeline.settings.params import DERIVED, OF_A_RUN, Params

# A table of a thousand rows takes seconds without the C library; both loaders are safe.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_params(path: str | Path = "params.yaml", overrides: Iterable[str] = ()) -> Params:
    """Reads the parameters: the profile, then the file over it, then ``key=value`` overrides with dotted keys over both.

    A null in the file keeps the profile's value: dvc exp run -S sets only keys that are in the file.

    Raises:
        UserError: something is wrong; the error names the file at fault (or the command line) and the dotted key.
    """
    path = Path(path).resolve()
    given = _without_nulls(read_mapping(path, "Run in the project's folder or give --params FILE"))
    command_line = _parse_overrides(overrides)
    name = _merge(given, command_line).get("profile")
    profiles = path.parent / "experiments" / "profiles"
    profile = profiles / f"{name}.yaml"
    if not isinstance(name, str) or profile not in profiles.glob("*.yaml"):
        known = ", ".join(sorted(file.stem for file in profiles.glob("*.yaml"))) or f"none in {profiles}"
        raise UserError(path, "profile", f"there is no profile {name!r}", f"Known profiles: {known}")
    layers = [("command line", command_line), (path, given), (profile, read_mapping(profile, "Restore it"))]
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
    for name in ("data_dir", "runs_dir", "results_dir", "cache_dir"):
        if "://" in str(merged.get(name, "")):
            where = next(where for where, values in layers if name in values)
            raise UserError(where, name, f"{merged[name]} is an address, not a folder", "Name a folder, on a cluster one that "
                            "all nodes mount: an object store has no file locks. For a copy in one, set storage_path "
                            "(docs/cluster.md)")
    folders = {name: path.parent / getattr(params, name) for name in ("data_dir", "runs_dir", "results_dir")}
    if params.cache_dir is not None:
        folders["cache_dir"] = path.parent / params.cache_dir
    params = params.model_copy(update=folders)
    params._root = path.parent
    params._given = frozenset(_leaves(_merge(given, command_line)))
    return params


def with_values(params: Params, values: Mapping[str, Any], *, where: object, prefix: str) -> Params:
    """The same parameters with other values of some dotted keys, as in ``{"train.lr": 1e-3}``.

    Args:
        where, prefix: the values' file and the section in it, for the error message.

    Raises:
        UserError: a key is unknown or has no effect on a run, or its value is wrong.
    """
    if not values:
        return params
    merged = params.model_dump()
    for dotted, value in values.items():
        if dotted in DERIVED:
            raise UserError(where, f"{prefix}.{dotted}", "cannot be set", f"Remove it. {DERIVED[dotted]}")
        if not dotted.startswith(OF_A_RUN):
            raise UserError(where, f"{prefix}.{dotted}", "is not what a run is made of",
                            f"Such keys begin with {', '.join(OF_A_RUN)}")
        merged = _merge(merged, _nested(dotted, value))
    try:
        changed = build(Params, merged, where=where)
    except UserError as error:
        raise UserError(where, f"{prefix}.{error.key}", error.problem, error.remedy) from None
    changed._root = params.root
    changed._given = params._given | set(values)
    return changed


def read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    """The content of a YAML file that is a mapping.

    Raises:
        UserError: the file cannot be read (the error has this remedy), or its content is something else.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
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
        result = _merge(result, _nested(dotted, nested))
    return result


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys of all values that are no sections."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _nested(dotted: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for ``a.b``."""
    for part in reversed(dotted.split(".")):
        value = {part: value}
    return value


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section; a value that is not a section replaces the other one as a whole."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without keys that are null, also in sections; lists stay as they are."""
    return {name: _without_nulls(value) if isinstance(value, Mapping) else value
            for name, value in values.items() if value is not None}


def _mentions(values: Any, dotted: str) -> bool:
    """Whether the values have the dotted key; for a place inside a list, whether they have the list."""
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
