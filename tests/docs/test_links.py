"""Links that the site's builder does not see: those of README.md and CONTRIBUTING.md, and the pages of the navigation."""

import re

import pytest
import yaml
from pages import FENCE, PAGES, ROOT

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site's builder write them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_the_links_of_a_page_outside_the_site_lead_somewhere(name):
    text = (ROOT / name).read_text()
    for link in LINK.findall(FENCE.sub("", text)):
        if not link.startswith(("https://", "http://")):
            path, _, anchor = link.partition("#")
            target = ROOT / path if path else ROOT / name
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.read_text()), link


def test_contributing_has_no_relative_link():
    """It is also a page of the site, where a path from the project's folder leads nowhere."""
    links = LINK.findall(FENCE.sub("", (ROOT / "CONTRIBUTING.md").read_text()))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_every_page_is_in_the_navigation():
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    folder = ROOT / "docs"
    there = {page.relative_to(folder).as_posix() for page in PAGES if page.is_relative_to(folder)}
    assert sorted(pages(navigation)) == sorted(there)
