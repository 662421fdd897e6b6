"""The results page in a real browser: on a phone, on a wide screen, in the dark, on paper."""

import base64
import re

import pytest

WIDTHS = [400, 1400]
OVERFLOWS = """
return [...document.querySelectorAll("body *")]
  .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.tagName + " " + element.textContent.slice(0, 40));
"""
OPEN_ALL = "document.querySelectorAll('details').forEach((details) => { details.open = true })"
FIRST_TABLE = 'document.querySelector("main table")'


def column(browser, number: int) -> list[str]:
    """Return the texts of a column of the answer's table, as they stand."""
    return browser.ask(f"return [...{FIRST_TABLE}.tBodies[0].rows].map((row) => row.cells[{number}].textContent)")


def sheets(browser) -> int:
    """Return how many sheets the page has as a PDF."""
    printed = base64.b64decode(browser.driver.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    return len(re.findall(rb"/Type\s*/Page\b", printed))


def headings(browser) -> list[str]:
    """Return the names of the columns of the answer's table."""
    return browser.ask(f"return [...{FIRST_TABLE}.tHead.rows[0].cells].map((cell) => cell.textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_every_figure_is_loaded_and_the_console_is_silent(browser, page, width, scheme):
    browser.open(page, width, scheme=scheme)
    assert browser.ask("return innerWidth") == width
    assert browser.ask("return document.documentElement.scrollWidth") <= width
    browser.ask(OPEN_ALL)
    assert browser.ask("return document.documentElement.scrollWidth") <= width
    assert browser.ask(OVERFLOWS) == []
    widths = browser.ask("return [...document.images].map((image) => image.naturalWidth)")
    assert widths and all(widths)
    assert browser.messages() == []


def test_a_click_on_a_header_sorts_by_the_number_and_a_second_one_turns_the_order(browser, page):
    browser.open(page, 1400)
    number = headings(browser).index("value")
    values = [float(text.split()[0]) for text in column(browser, number)]
    assert values != sorted(values)
    button = browser.driver.find_elements("css selector", "main table thead button")[number]
    for order, direction in ((sorted(values), "ascending"), (sorted(values, reverse=True), "descending")):
        button.click()
        after = column(browser, number)
        assert [float(text.split()[0]) for text in after] == order
        cells = f"[...{FIRST_TABLE}.tHead.rows[0].cells]"
        marks = browser.ask(f"return {cells}.map((cell) => cell.getAttribute('aria-sort'))")
        assert [mark for mark in marks if mark] == [marks[number]] == [direction]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_answer_begins_on_the_first_screen_and_above_what_was_asked(browser, page, width):
    browser.open(page, width)
    top = "return document.querySelector('{}').getBoundingClientRect().top"
    assert browser.ask(top.format(".sentences li")) < 450 < browser.ask(top.format("dl"))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_shows_every_cell_with_its_column_s_name(browser, page, width):
    browser.open(page, width)
    browser.ask(OPEN_ALL)
    assert browser.ask("return [...document.querySelectorAll('td')].every((cell) => cell.offsetHeight > 0)")
    cells = f"[...{FIRST_TABLE}.tBodies[0].rows[0].cells]"
    labels = browser.ask(f"return {cells}.map((cell) => getComputedStyle(cell, '::before').content)")
    names = [f'"{name}"' for name in headings(browser)]
    # On a phone the heading is in the cell, and elsewhere above it.
    assert labels == (names if width == 400 else ["none"] * len(names))


def test_paper_has_the_answer_and_what_was_opened(browser, page):
    browser.open(page, 1400, medium="")
    folded = sheets(browser)
    browser.ask(OPEN_ALL)
    assert 1 <= folded < sheets(browser)
    browser.open(page, 800, medium="print")
    # A fault stays open.
    shown = (
        "return [...document.querySelectorAll('details')]"
        ".filter((part) => part.offsetHeight > 0).map((part) => part.open)"
    )
    assert browser.ask(shown) == [True] * len(browser.ask(shown))
    assert browser.ask("return [...document.querySelectorAll('.answer tr')].every((row) => row.offsetHeight > 0)")


@pytest.mark.parametrize("page", ["small"], indirect=True)
def test_the_default_study_prints_on_one_sheet(browser, page):
    browser.open(page, 1400, medium="")
    assert sheets(browser) == 1
