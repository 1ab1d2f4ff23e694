"""Masks addresses for display: they show no name, password or token."""

from __future__ import annotations

import re

# The part before the host, as in postgresql://name:password@host, and the query of a web address.
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?#]*\?)[^\s#]*", re.IGNORECASE)


def masked(text: str) -> str:
    """The text, with *** in place of any secret that an address in it may hold."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
