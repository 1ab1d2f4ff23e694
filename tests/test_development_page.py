"""docs/development.md says what to touch for each kind of addition; these tests hold the page and the code together."""

import dataclasses
import re
from typing import get_args

import pytest
import yaml
from support.project import CHECKOUT

from effvis import methods as networks
from effvis.config import Backbone
from effvis.model.backbone import BUILDERS
from pipeline.grid.table_file import TableFile
from pipeline.methods.base import Method
from pipeline.settings.params import ROW_KEYS, Params, RowSettings

PAGE = (CHECKOUT / "docs" / "development.md").read_text(encoding="utf-8")


def section(heading):
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def words(text):
    return set(re.findall(r"`([\w.]+)`", text))


@pytest.mark.parametrize("kind", [
    "A row of a table", "A data set", "A method", "A backbone", "A setting or an ablation switch"])
def test_each_kind_has_its_section(kind):
    anchor = kind.lower().replace(" ", "-")
    assert section(kind) and f"](#{anchor})" in PAGE


def test_every_file_that_it_names_is_there():
    paths = set(re.findall(r"`((?:effvis|pipeline|tests|experiments|benchmarks)/[\w/.]+\.(?:py|yaml))`", PAGE))
    assert len(paths) > 8 and [path for path in paths if not (CHECKOUT / path).is_file()] == []
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", PAGE)} - {""}
    assert [link for link in links if not (CHECKOUT / "docs" / link).is_file()] == []


def test_a_row_sets_what_the_page_lists():
    assert set(RowSettings.model_fields) - {"params"} <= words(section("A row of a table"))
    assert {"rows", "set"} <= words(section("A row of a table")) and "rows" in TableFile.model_fields
    assert set(ROW_KEYS) <= set(RowSettings.model_fields)


def test_data_sets_are_added_where_the_page_says():
    assert {"sources", "generated"} <= words(section("A data set")) & set(Params.model_fields)


def test_a_method_has_both_of_its_places_and_every_field_is_described():
    for name in networks.names():
        assert (CHECKOUT / "effvis" / name / "method.py").is_file()
        assert (CHECKOUT / "pipeline" / "methods" / f"{name}.py").is_file()
    for kind in (Method, networks.Method):
        described = kind.__doc__.partition("Attributes:")[2]
        fields = {field.name for field in dataclasses.fields(kind)} - {"name"}
        assert {name for name in fields if not re.search(rf"\b{name}\b.*:", described)} == set()


def test_backbones_are_one_list_and_one_table_of_builders():
    assert tuple(BUILDERS) == get_args(Backbone)
    assert {"effvis.config.Backbone", "BUILDERS"} <= words(section("A backbone"))
    files = (file for package in ("effvis", "pipeline") for file in (CHECKOUT / package).glob("**/*.py"))
    written = [str(file.relative_to(CHECKOUT)) for file in files if '"tiny-deep"' in file.read_text()]
    assert sorted(written) == ["effvis/config.py", "effvis/model/backbone.py"]


def test_the_example_of_a_setting_is_how_settings_are_made():
    assert "= later(" in section("A setting or an ablation switch")
    assert "later(" in (CHECKOUT / "effvis" / "config.py").read_text()


def test_a_table_s_file_is_what_the_page_calls_it():
    for file in (CHECKOUT / "experiments").glob("table*.yaml"):
        assert "rows" in yaml.safe_load(file.read_text())
