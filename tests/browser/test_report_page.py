"""The results page in a real browser: on a phone, on a wide screen, in the dark, on paper."""

import base64
import re

import pytest

WIDTHS = [400, 1400]
OVERFLOWS = """
const scrolls = (element) => element.closest(".scroll");
return [...document.querySelectorAll("body *")]
  .filter((element) => !scrolls(element) && element.getBoundingClientRect().right > innerWidth + 1)
  .map((element) => element.tagName + " " + element.textContent.slice(0, 40));
"""
OPEN_ALL = "document.querySelectorAll('details').forEach((details) => { details.open = true })"
FIRST_TABLE = 'document.querySelector("#answer table")'
CONTRAST = """
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
function ground(element) {
  for (let place = element; place; place = place.parentElement) {
    const found = parse(getComputedStyle(place).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
}
const low = [];
for (const element of document.querySelectorAll("h1, h2, h3, p, li, td, th button, caption, figcaption, a, summary, dd, code")) {
  const [first, second] = [parse(getComputedStyle(element).color), ground(element)].map(luminance).sort((a, b) => b - a);
  if ((first + 0.05) / (second + 0.05) < 4.5) low.push(element.tagName + " " + element.textContent.slice(0, 40));
}
return low;
"""


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
    assert widths
    assert all(widths)
    assert browser.messages() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser, page, scheme):
    browser.open(page, 1400, scheme=scheme)
    assert browser.ask("return getComputedStyle(document.body).backgroundColor === 'rgb(255, 255, 255)'") == (
        scheme == "light"
    )
    assert browser.ask(CONTRAST) == []


def test_a_click_on_a_header_sorts_by_the_number_and_a_second_one_turns_the_order(browser, page):
    browser.open(page, 1400)
    number = headings(browser).index("sparse_to_sparse")
    before = column(browser, number)
    values = [float(text.split()[0]) for text in before if text != "-"]
    assert values != sorted(values)
    assert "-" in before
    button = browser.driver.find_elements("css selector", "#answer table thead button")[number]
    for order, direction in ((sorted(values), "ascending"), (sorted(values, reverse=True), "descending")):
        button.click()
        after = column(browser, number)
        assert [float(text.split()[0]) for text in after if text != "-"] == order
        assert after[len(values) :] == ["-"] * (len(before) - len(values))  # what has no value comes last
        marks = browser.ask(
            f"return [...{FIRST_TABLE}.tHead.rows[0].cells].map((cell) => cell.getAttribute('aria-sort'))"
        )
        assert [mark for mark in marks if mark] == [direction]
        assert marks[number] == direction


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_the_keyboard_sorts_too_and_a_row_stays_whole(browser, page, key):
    browser.open(page, 1400)
    rows = f"return [...{FIRST_TABLE}.tBodies[0].rows].map((row) => row.textContent)"
    before = browser.ask(rows)
    number = headings(browser).index("sparsity, %")
    browser.driver.find_elements("css selector", "#answer table thead button")[number].send_keys(key)
    sparsities = [int(text) for text in column(browser, number)]
    assert sparsities == sorted(sparsities)
    assert sorted(browser.ask(rows)) == sorted(before)


def test_paper_has_every_section_and_no_control(browser, page):
    browser.open(page, 1400)
    closed = "return document.querySelectorAll('details:not([open])').length"
    assert browser.ask(closed) > 0
    browser.open(page, 800, medium="print")
    assert browser.ask(closed) == 0
    assert browser.ask("return [...document.querySelectorAll('tbody tr')].every((row) => row.offsetHeight > 0)")
    assert browser.ask("return getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("return [...document.querySelectorAll('.scroll')].every((box) => box.scrollWidth <= innerWidth)")


def test_a_print_has_as_many_sheets_as_one_of_the_page_with_everything_open(browser, page):
    browser.open(page, 1400, medium="")
    folded = sheets(browser)
    browser.ask(OPEN_ALL)
    assert folded == sheets(browser) > 1


def test_a_link_of_the_contents_leads_to_its_section(browser, page):
    browser.open(page, 400)
    targets = browser.ask("return [...document.querySelectorAll('nav a')].map((link) => link.hash.slice(1))")
    assert targets[0] == "answer"
    assert (
        browser.ask("return [...document.querySelectorAll('main > section')].map((section) => section.id)") == targets
    )
