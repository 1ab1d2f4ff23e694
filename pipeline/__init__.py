"""Orchestration: each command is ``python -m pipeline.<command>``."""

from pkgutil import extend_path

# Files pipeline/methods/<method>.py elsewhere on Python's path are methods, too: see pipeline/methods.
__path__ = extend_path(__path__, __name__)
