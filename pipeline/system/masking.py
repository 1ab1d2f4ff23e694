"""Addresses as they may be shown: without the name, password or token in them."""

from __future__ import annotations

import re

# What stands before the host, as in postgresql://name:password@host, and what a web address is asked with.
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@]*@", re.IGNORECASE)
_QUERY = re.compile(r"(https?://[^\s?#]*\?)[^\s#]*", re.IGNORECASE)


def masked(text: str) -> str:
    """A text with *** for whatever secret an address in it may hold."""
    return _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text))
