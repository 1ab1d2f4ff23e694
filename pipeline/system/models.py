"""JSON files as pydantic models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from effvis.config import ConfigT, build
from effvis.errors import UserError


def read_json_file(file: Path, remedy: str) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", remedy) from None
    except (ValueError, RecursionError) as error:
        raise UserError(file, "(top)", f"unreadable JSON ({error})", remedy) from None


def read_model(kind: type[ConfigT], file: Path, remedy: str) -> ConfigT:
    """Reads a JSON file as a model.

    Raises:
        UserError: for the reasons of ``read_json_file``, or something in the file is wrong; the error names the key.
    """
    return as_model(kind, read_json_file(file, remedy), file, remedy)


def as_model(kind: type[ConfigT], content: Any, file: Path, remedy: str) -> ConfigT:
    """A file's content as a model.

    Raises:
        UserError: something in it is wrong; the error names the file, the key and this remedy.
    """
    if not isinstance(content, dict):
        raise UserError(file, "(top)", "is no JSON object", remedy)
    try:
        return build(kind, content, where=file)
    except UserError as error:
        raise UserError(file, error.key, error.problem, remedy) from None
