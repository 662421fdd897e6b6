"""The pages name what is there: links, files, versions, and what they show of results."""

import re
import tomllib
from dataclasses import replace

import pandas as pd
import pytest
import sparseft
import yaml
from analysis.frames import make_study
from cffconvert import Citation
from pages import FENCE, OUTSIDE, ROOT, blocks
from sparseft.analysis.tables import write_tables

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
FOLDERS = ("", "docs", "lib/sparseft", "rules", "workflow/scripts")
# The page writes capitals for a name of your own.
NAMES = re.findall(r"\b[a-z_][a-z_0-9/]*(?:\.py|\.smk|\.yaml|\.md|/)(?=[\s`,;:)]|$)", ARCHITECTURE, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site's builder write them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_links_of_a_page_outside_the_site_lead_somewhere(name):
    """CONTRIBUTING.md is also a page of the site, where a path from the project's folder leads nowhere."""
    for link in LINK.findall(FENCE.sub("", (ROOT / name).read_text())):
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists() and not (path and name == "CONTRIBUTING.md"), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_every_file_that_the_page_on_the_architecture_names_is_there():
    assert len(set(NAMES)) > 30
    assert [name for name in NAMES if not any((ROOT / folder / name).exists() for folder in FOLDERS)] == []


def test_all_places_name_the_same_version_licence_and_authors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    text = (ROOT / "CITATION.cff").read_text()
    Citation(text).validate()
    citation = yaml.safe_load(text)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert newest == citation["version"] == sparseft.__version__
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sparseft.__version__"}
    assert citation["license"] == project["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["project"]["authors"]
    ]


def test_the_example_in_pandas_joins_the_tables(tmp_path, monkeypatch):
    (tmp_path / "results/analysis").mkdir(parents=True)
    study = make_study()
    # Each run has a memory of its own, so that a wrong join is seen.
    runs = study.runs.assign(peak_memory_bytes=range(len(study.runs)))
    write_tables(replace(study, runs=runs), tmp_path / "results/analysis")
    monkeypatch.chdir(tmp_path)
    (example,) = (block.text for block in blocks(ROOT / "docs/reading_results.md") if block.language == "python")
    names = {}
    exec(example, names)
    assert len(names["points"]) == len(study.curves)
    pd.testing.assert_series_equal(names["points"]["peak_memory_bytes"], runs["peak_memory_bytes"], check_dtype=False)
