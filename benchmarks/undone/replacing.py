"""Puts something else in the place of an attribute, and the attribute back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the block ``owner.name`` is ``value``; afterwards the attribute is as it was, or not there if it was inherited.

    Args:
        owner: a module, a class or an object.

    Raises:
        AttributeError: there is no such attribute, so that nothing would be undone.
    """
    getattr(owner, name)
    own = vars(owner)
    inherited, before = name not in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
