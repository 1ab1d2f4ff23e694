"""Reads checkpoints saved by PyTorch, with what training frameworks put beside the weights; no code of a file ever runs.

Frameworks save more than tensors: mmengine its histories of losses, many their command line, numpy numbers or paths. PyTorch's
``weights_only`` refuses a file that names any such class. Here a class or function that a file names is never looked up: an
empty class stands in for it, which forgets whatever it is given. So the tensors can be read, and the rest is left out.
"""

from __future__ import annotations

import pickle
import pickletools
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch

from effvis.errors import UserError

REMEDY = "Give the file as it was published, or its weights saved as .safetensors"
# What frameworks save of Python's own library. Anything else of it has no business beside weights, and the file is refused.
_HARMLESS = {
    "argparse.Namespace", "types.SimpleNamespace", "builtins.getattr", "builtins.frozenset", "builtins.slice",
    "collections.deque", "collections.defaultdict", "functools.partial",
    "datetime.datetime", "datetime.date", "datetime.timedelta", "datetime.timezone", "uuid.UUID",
    *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local")
      for kind in ("", "Pure", "Posix", "PurePosix", "Windows", "PureWindows")),
}
# A file in PyTorch's old format begins with this many pickles: magic number, protocol, system, content, keys of the storages.
_LEGACY_PICKLES = 5


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        content: the file's object; what is not plain in it is a ``StandIn``.
        left_out: the names of the classes and functions that stand-ins replace, sorted.
    """

    content: Any
    left_out: tuple[str, ...]


class StandIn:
    """Takes the place of whatever a file names: it accepts all arguments and any state, and keeps nothing."""

    def __new__(cls, *_: Any) -> StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def load(path: Path) -> Checkpoint:
    """The content of a checkpoint, in PyTorch's format or its old one (before 1.6), on the processor.

    Raises:
        UserError: the file cannot be read, is of another kind, or holds what is not data. It names the object.
    """
    try:
        left_out = {written: name for written, name in sorted(_named(path)) if _is_left_out(name)}
        stand_ins = {name: _stand_in(name) for name in left_out.values()}
        # PyTorch translates some of the names that Python 2's library has, and looks the others up as they are written.
        accepted = stand_ins | {written: stand_ins[name] for written, name in left_out.items()}
        with torch.serialization.safe_globals([(stand_in, name) for name, stand_in in accepted.items()]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(path, "(file)", f"cannot be read: {error.strerror or error}", REMEDY) from None
    except Exception as error:  # damaged pickles raise nearly any error: IndexError, TypeError, UnicodeDecodeError, …
        raise UserError(path, "(file)", f"holds no plain weights: {_reason(error)}", REMEDY) from None
    return Checkpoint(content, tuple(sorted(stand_ins)))


def _named(path: Path) -> set[tuple[str, str]]:
    """Every class and function that a file's pickle names, as written and by Python 3's name, read without executing it."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            return {names for _ in range(_LEGACY_PICKLES) for names in _globals(file)}
        with zipfile.ZipFile(file) as archive:
            records = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            found: set[tuple[str, str]] = set()
            for record in records:
                with archive.open(record) as content:
                    found.update(_globals(content))
            return found


def _globals(file: BinaryIO) -> Iterator[tuple[str, str]]:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "GLOBAL":
            module, name = argument.split(" ", 1)
            # Pickles of protocol 2, PyTorch's, name Python's library as it was called in Python 2.
            own = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}", ".".join(own)


def _is_left_out(name: str) -> bool:
    """Whether a stand-in replaces a name; PyTorch decides about its own, and refuses the others."""
    top = name.partition(".")[0]
    return name in _HARMLESS or (top != "torch" and top not in sys.stdlib_module_names)


def _stand_in(name: str) -> type[StandIn]:
    module, _, own = name.rpartition(".")
    return type(own, (StandIn,), {"__module__": module})  # the name shows in PyTorch's messages


def _reason(error: Exception) -> str:
    """What is wrong, on one line. PyTorch wraps it in a page of advice with colours; the error behind that is plain."""
    plain = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    text = str(plain).partition("\n")[0].partition(" was not an allowed global")[0]
    text = text.replace("Unsupported global: GLOBAL ", "it names ")
    return "".join(letter for letter in text if letter.isprintable()) or type(plain).__name__
