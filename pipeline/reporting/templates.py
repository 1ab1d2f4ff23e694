"""Pages from the templates in pipeline/reporting/pages: each one file that needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The HTML of a template. What is missing is an error, and nothing that is shown can become markup."""
    environment = Environment(loader=PackageLoader("pipeline.reporting", "pages"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)
