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

from effvis.errors import UserError

if TYPE_CHECKING:
    from pipeline.methods.base import Method

__path__ = extend_path(__path__, __name__)
DEFAULT = "efficientvis"  # the method of rows that name none
ALL = "all"  # stands for every method
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


def named(text: str, where: str = "--methods") -> tuple[str, ...]:
    """The methods that a list with commas names, each once; ``all`` in it means every method.

    Args:
        where: the option or the file that the list is from, for the error message.

    Raises:
        UserError: there is no such method.
    """
    wanted = dict.fromkeys(name.strip() for name in text.split(","))
    for name in wanted:
        if name not in (ALL, *names()):
            raise UserError(where, name, "there is no such method", f"The methods are {', '.join(names())}, or {ALL}")
    return names() if ALL in wanted else tuple(wanted)


def everyone() -> tuple[Method, ...]:
    """All methods, loaded."""
    return tuple(get(name) for name in names())
