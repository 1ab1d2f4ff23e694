"""Self-contained pages from the templates in pipeline/reporting/pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, *, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The HTML of a template. A missing value is an error, and no value can become markup."""
    environment = Environment(loader=PackageLoader("pipeline.reporting", "pages"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters |= filters or {}
    return environment.get_template(template).render(**values)
