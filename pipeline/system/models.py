"""JSON files as pydantic models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from effvis.config import ConfigT, build
from effvis.errors import UserError


def read_json_file(file: Path, remedy: str) -> Any:
    """What a file holds.

    Raises:
        UserError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(file, "(file)", f"cannot be read: {error.strerror}", f"{remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(file, "(top)", f"unreadable JSON ({error})", remedy) from None


def read_model(kind: type[ConfigT], file: Path, remedy: str) -> ConfigT:
    """What a file holds, as a model.

    Raises:
        UserError: as ``read_json_file``, or something in it is wrong: names the key.
    """
    return as_model(kind, read_json_file(file, remedy), file, remedy)


def as_model(kind: type[ConfigT], content: Any, file: Path, remedy: str) -> ConfigT:
    """The content of a file as a model.

    Raises:
        UserError: something in it is wrong: names the file, the key and this remedy.
    """
    if not isinstance(content, dict):
        raise UserError(file, "(top)", "is no JSON object", remedy)
    try:
        return build(kind, content, where=file)
    except UserError as error:
        raise UserError(file, error.key, error.problem, remedy) from None
