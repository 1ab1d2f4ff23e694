"""What a published file decides about QueryInst's network; effvis/model/convert.py puts its weights into their places."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from effvis.model.conversion import recognise
from effvis.model.convert import SOURCES
from effvis.queryinst.config import QueryInstConfig


def published_form(
    published: Mapping[str, Tensor], config: QueryInstConfig, *, where: object, hint: str = ""
) -> QueryInstConfig:
    """The configuration with as many queries as the file has proposals; a file without any leaves it as it is.

    Args:
        where: the file, for error messages.
        hint: what else to say where the names are unknown.

    Raises:
        UserError: the names come from no known source.
    """
    source, published = recognise(published, SOURCES, where=where, hint=hint)
    queries = next((len(value) for name, value in published.items() if source.place(name) == "query_NTC"), config.queries)
    return config.model_copy(update={"queries": queries})
