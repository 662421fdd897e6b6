"""Every file and folder that the page on the architecture names is there."""

import re

import pytest
from pages import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
FOLDERS = ("", "lib/sparseft", "rules", "workflow/scripts")
# The page writes capitals for a name of your own.
NAMES = sorted(set(re.findall(r"\b[a-z_][a-z_0-9/]*(?:\.py|\.smk|\.yaml|\.md|/)(?=[\s`,;:)]|$)", PAGE, re.MULTILINE)))


def test_the_page_names_files():
    assert len(NAMES) > 30


@pytest.mark.parametrize("name", NAMES)
def test_a_named_file_exists(name):
    assert any((ROOT / folder / name).exists() for folder in FOLDERS) or (ROOT / "docs" / name).exists()


def test_the_folders_are_those_of_the_import_contract_in_its_order():
    contract = (ROOT / "pyproject.toml").read_text().partition("layers = [")[2].partition("\n]")[0]
    layers = [re.findall(r"[a-z_]+", line) for line in contract.splitlines() if line.strip()]
    drawing = PAGE.partition("The folders of the library")[2].partition("```text\n")[2].partition("```")[0]
    lines = drawing.splitlines()
    places = []
    for names in layers:
        own = [next(n for n, line in enumerate(lines) if re.search(rf"\b{name}(/|\.py)", line)) for name in names]
        places.append(min(own))
        assert len(set(own)) == 1, names
    assert places == sorted(places)
    assert len(places) == len(lines)
