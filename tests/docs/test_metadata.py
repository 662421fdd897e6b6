"""The metadata of the project are valid and agree with one another."""

import re
import tomllib

import sparseft
import yaml
from cffconvert import Citation
from pages import ROOT

CITATION = (ROOT / "CITATION.cff").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_citation_is_valid():
    Citation(CITATION).validate()


def test_all_places_name_the_same_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == yaml.safe_load(CITATION)["version"] == sparseft.__version__
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sparseft.__version__"}


def test_all_places_name_the_same_licence_and_authors():
    citation, project = yaml.safe_load(CITATION), PROJECT["project"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert "Apache License" in (ROOT / project["license-files"][0]).read_text()
