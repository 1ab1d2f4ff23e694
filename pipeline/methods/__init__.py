"""The methods that can be trained and compared: one file each, which defines ``METHOD`` (``pipeline.methods.base.Method``).

Files of the same kind elsewhere on Python's path (``<somewhere>/pipeline/methods/<method>.py``) count as well, so that a new
method needs no change in this project. Listing the names loads no method.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import extend_path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.methods.base import Method

__path__ = extend_path(__path__, __name__)
DEFAULT = "efficientvis"  # the method of rows that name none
_SHARED = ("__init__", "base")


@cache
def names() -> tuple[str, ...]:
    """The names of all methods, the default first, the others in alphabetical order."""
    found = {file.stem for place in __path__ for file in Path(place).glob("*.py")} - {*_SHARED, DEFAULT}
    return (DEFAULT, *sorted(found))


def get(name: str) -> Method:
    """The method of this name.

    Raises:
        LookupError: there is no such method.
    """
    if name not in names():
        raise LookupError(f"there is no method {name!r}; there are {', '.join(names())}")
    return import_module(f"pipeline.methods.{name}").METHOD


def everyone() -> tuple[Method, ...]:
    """All methods, loaded."""
    return tuple(get(name) for name in names())
