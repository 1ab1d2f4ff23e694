"""Facts for users of the project: its license, and its citation."""

import tomllib

import yaml
from support.project import CHECKOUT


def test_the_license_is_whole_and_named_where_it_is_looked_for():
    text = (CHECKOUT / "LICENSE").read_text()
    assert "Apache License\n" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert all(f"   {number}. " in text for number in range(1, 10)), "a section is missing"
    assert "Copyright 2026 the EfficientVIS project's authors" in text and "[yyyy]" not in text
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    readme = (CHECKOUT / "README.md").read_text()
    assert "(LICENSE)" in readme and "(CITATION.cff)" in readme


def test_the_citation_has_what_its_format_requires():
    """See https://github.com/citation-file-format/citation-file-format/blob/main/schema-guide.md, version 1.2.0."""
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    for work, required in ((citation, ("cff-version", "message", "title", "authors")), (paper, ("type", "title", "authors"))):
        assert all(work[key] for key in required)
        for author in work["authors"]:
            assert set(author) in ({"name"}, {"family-names", "given-names"})
    assert paper["title"] in (CHECKOUT / "README.md").read_text()
    assert [author["family-names"] for author in paper["authors"]] == [
        "Wu", "Yarram", "Liang", "Lan", "Yuan", "Eledath", "Medioni"]
    assert (paper["type"], paper["year"]) == ("conference-paper", 2022) and "CVPR" in paper["collection-title"]
