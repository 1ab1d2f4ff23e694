"""Maps the categories of one data set to those of another, and renumbers results accordingly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field, StrictInt, field_validator

from effvis.config import Config
from effvis.data.dataset import Category
from effvis.data.parsing import annotation_file
from effvis.errors import UserError
from effvis.model.categories import plain
from pipeline.system.models import read_model

if TYPE_CHECKING:
    from pipeline.settings.params import Params


class _Entry(Config):
    model_config = ConfigDict(extra="ignore")

    id: StrictInt
    name: str


class _Listed(Config):
    """The categories in a file of annotations."""

    model_config = ConfigDict(extra="ignore")

    categories: tuple[_Entry, ...] = Field(min_length=1)

    @field_validator("categories")
    @classmethod
    def _each_once(cls, categories: tuple[_Entry, ...]) -> tuple[_Entry, ...]:
        names, ids = set(), set()
        for entry in categories:
            if plain(entry.name) in names or entry.id in ids:
                raise ValueError(f"{entry.name} ({entry.id}) is listed twice; give each category its own id and name")
            names.add(plain(entry.name))
            ids.add(entry.id)
        return categories


def mapping(source: Iterable[Category], target: Iterable[Category], same: Mapping[str, str]) -> dict[int, int]:
    """Ids in ``target`` by ids in ``source``, for the categories that both have.

    Args:
        same: names in ``source``, each with the name in ``target`` for the same category.

    Raises:
        UserError: a name in ``same`` does not exist, or two categories would become one.
    """
    source, target = tuple(source), tuple(target)
    ids = {plain(category.name): category.id for category in target}
    renamed = {plain(old): plain(new) for old, new in same.items()}
    for names, known in ((renamed, {plain(category.name) for category in source}), (renamed.values(), ids)):
        for name in names:
            if name not in known:
                raise UserError("--same", name, "is no category of this data set", f"There are {', '.join(sorted(known))}")
    found: dict[int, int] = {}
    for category in source:
        number = ids.get(renamed.get(plain(category.name), plain(category.name)))
        if number in found.values():
            raise UserError("--same", category.name, "another category is mapped to the same one", "Leave one of them out")
        if number is not None:
            found[category.id] = number
    return found


def renumber(
    results: Iterable[Any], numbers: Mapping[int, int], source: Iterable[Category], file: Path
) -> list[dict[str, Any]]:
    """Results with the new ids of their categories; results whose category has no new id are left out.

    Raises:
        UserError: the category of a result is not in ``source``.
    """
    known = {category.id for category in source}
    renumbered = []
    for i, result in enumerate(results):
        number = result.get("category_id") if isinstance(result, dict) else None
        if type(number) is not int or number not in known:
            raise UserError(file, f"[{i}].category_id", f"{number!r} is no category of FROM",
                            "Give the data set that the results are of as FROM")
        if number in numbers:
            renumbered.append({**result, "category_id": numbers[number]})
    return renumbered


def read_categories(params: Params, given: str) -> tuple[Category, ...]:
    """The categories of a JSON file, or of the training split of a data set.

    Raises:
        UserError: there are no categories, or something is wrong with them.
    """
    folder = params.model_copy(update={"dataset": given}).dataset_folder / "train"
    file = Path(given) if given.endswith(".json") else annotation_file(folder)
    if file is None:
        raise UserError(folder, given, "there are no annotations of train", "Take the data set in, or give a JSON file")
    remedy = "Give annotations in the YouTube-VIS format, with \"categories\": [{\"id\": 1, \"name\": \"person\"}]"
    return tuple(Category(entry.id, entry.name) for entry in read_model(_Listed, file, remedy).categories)
