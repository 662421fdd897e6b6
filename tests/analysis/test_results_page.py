"""The results page: the numbers that are on it, and what may never be in it."""

import base64
import hashlib
import json
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatch
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from sparseft.analysis import experiments, memo, report
from sparseft.analysis.columns import STUDY_TABLES
from sparseft.analysis.derived import derive
from sparseft.analysis.judgement import judge_runs
from sparseft.analysis.markdown_html import sections
from sparseft.analysis.plots import write_plots
from sparseft.analysis.records import read_runs
from sparseft.study import grid
from sparseft.study.grid import Run

pytestmark = pytest.mark.process  # the figures are drawn by processes
ROOT = Path(__file__).parents[2]
RUN = "m-t-random-sparsity50-sparse_to_dense-seed0"
VOID = {"meta", "img", "br", "hr"}


@dataclass
class Element:
    """Hold an element of a page with its text."""

    tag: str
    attributes: dict[str, str | None]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts).strip()


class Page(HTMLParser):
    """Read a page into its elements, in their order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        assert not self._open, "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.texts.append(data)

    def of(self, *tags: str) -> list[Element]:
        """Return the elements of these tags."""
        return [element for element in self.elements if element.tag in tags]


def write(folder: Path, out: str = "out", *, plot: bool = True) -> str:
    """Write the page of the runs in a folder, with what it is made from, and return it."""
    judged, gaps = judge_runs(read_runs(folder / "runs")[0]), read_runs(folder / "runs")[1]
    derived = derive(judged, 0.02, gaps)
    place = folder / out
    place.mkdir()
    plots = write_plots(derived.points, derived.best, derived.layers, place / "plots", 1) if plot else []
    experiments.write_experiments(place / "EXPERIMENTS.md", judged, gaps, derived, 0.02, plots=[])
    memo.write_memo(place / "correctness_memo.md", judged, gaps)
    report.write_report(place / grid.REPORT, judged, gaps, derived, 0.02, plots)
    return (place / grid.REPORT).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def study(write_grid, tmp_path_factory) -> Path:
    """Return the folder of a study of two models, with its page."""
    folder = tmp_path_factory.mktemp("study")
    write_grid(folder / "runs", models=2, tasks=["boolq_mini"], sparsities=[50], seeds=1, layers=7)
    write(folder)
    return folder


@pytest.fixture(scope="module")
def text(study) -> str:
    """Return the page of the study."""
    return (study / "out" / grid.REPORT).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    """Return the elements of the study's page."""
    return Page(text)


def test_the_same_runs_give_the_same_bytes(write_run, tmp_path):
    write_run(RUN, 0.5)
    assert write(tmp_path, "a") == write(tmp_path, "b")


def test_the_answer_has_the_value_of_every_run(study, text):
    answer = Page(text[text.index("<table>") : text.index("</table>") + len("</table>")])
    header = [element.text for element in answer.of("th")]
    cells = [element.text for element in answer.of("td")]
    rows = [dict(zip(header, cells[start:], strict=False)) for start in range(0, len(cells), len(header))]
    runs = [Run.parse(path.name) for path in (study / "runs").iterdir()]
    assert len(rows) == len({(run.model, run.method, run.sparsity) for run in runs}) == 8
    shown = {(row["model"], row["method"], row["sparsity, %"]): row for row in rows}
    for run in runs:
        result = json.loads((study / "runs" / run.id / "evaluation.json").read_text())
        text_on_page = shown[run.model, run.method, str(run.sparsity)][run.mode]
        assert text_on_page == f"{result['value']:.3f} ± {result['standard_error']:.3f}"


def test_the_page_loads_nothing(page, text):
    sources = [element.attributes["src"] for element in page.elements if "src" in element.attributes]
    assert sources
    assert all(source.startswith("data:image/svg+xml,") for source in sources)
    assert not page.of("link", "iframe", "object", "embed", "base")
    style = "".join(element.text for element in page.of("style"))
    assert "@import" not in style
    assert "url(" not in style
    places = {element.attributes.get("id") for element in page.elements}
    targets = [element.attributes["href"] for element in page.of("a")]
    assert {target.removeprefix("#") for target in targets if target.startswith("#")} < places
    assert {target for target in targets if not target.startswith("#")} == {table.file for table in STUDY_TABLES}
    (policy,) = (element.attributes["content"] for element in page.of("meta") if "http-equiv" in element.attributes)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_a_reader_without_eyes_finds_a_title_an_order_and_words_for_every_figure_and_table(page):
    levels = [int(element.tag[1]) for element in page.of("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.of("img")) == len(page.of("figcaption")) > 0
    assert all(len(element.attributes["alt"]) > 20 for element in page.of("img"))
    assert all(element.text.endswith(".") for element in page.of("figcaption"))
    assert len(page.of("caption")) == len(page.of("table")) > 0
    assert all(element.text for element in page.of("caption", "summary", "h2", "h3", "h4"))
    identifiers = Counter(element.attributes["id"] for element in page.elements if "id" in element.attributes)
    assert set(identifiers.values()) == {1}


def test_the_title_names_the_models_and_tasks_and_the_conditions_stand_below(page):
    (title,) = page.of("h1")
    assert {"Model0B", "Model1B", "boolq_mini"} <= set(title.text.split())
    (conditions,) = (element.text for element in page.elements if element.attributes.get("class") == "conditions")
    for words in ("22 runs", "CPU: AMD EPYC, 1 thread", "200 of boolq_mini", "toy"):
        assert words in conditions


@pytest.mark.parametrize(
    "device", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "![x](https://x.org/y.png)"]
)
def test_a_device_of_any_name_stays_text(write_run, tmp_path, device):
    for sparsity in (30, 50):
        write_run(RUN.replace("50", str(sparsity)), 0.5, device=device)
    page = Page(write(tmp_path, plot=False))
    assert len(page.of("script")) == 1
    assert page.of("img") == []
    assert not [element for element in page.elements if any(name.startswith("on") for name in element.attributes)]
    (conditions,) = (element.text for element in page.elements if element.attributes.get("class") == "conditions")
    assert device in conditions


def test_a_figure_holds_neither_a_script_nor_a_link(write_run, tmp_path):
    write_run(RUN, 0.5, device="--><script>alert(1)</script>")
    images = Page(write(tmp_path)).of("img")
    assert images
    for image in images:
        svg = ElementTree.fromstring(unquote(image.attributes["src"].partition(",")[2]))
        assert not [element for element in svg.iter() if element.tag.endswith(("script", "foreignObject"))]
        links = [value for element in svg.iter() for name, value in element.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:image/png;")) for link in links)  # a colour bar is a bitmap


def test_a_fault_and_a_missing_run_are_said_at_the_top_and_marked(write_run, tmp_path):
    write_run(RUN, 0.5, change=lambda files: files["validation_report"].update(passed=False, violations=1))
    (write_run(RUN.replace("seed0", "seed1"), 0.5) / "evaluation.json").write_text("{")
    page = Page(write(tmp_path, plot=False))
    bad = [element.text for element in page.of("li") if element.attributes.get("class") == "bad"]
    assert [sentence.split()[:2] for sentence in bad] == [["0", "of"], ["1", "run"], ["1", "run"]]
    marked = [element.text for element in page.of("td") if "at fault" in element.text]
    # The table of the answer and that of the points.
    assert marked == ["0.500 ± 0.035 (at fault)", "0.500 (0.431 to 0.569, examples) (at fault)"]


def test_every_task_and_setting_has_its_section(write_run, tmp_path):
    for number, (task, rate) in enumerate((("t", 0.001), ("u", 0.001), ("t", 0.002))):
        write_run(
            RUN.replace("-t-", f"-{task}-").replace("50", f"{number + 3}0"), 0.5, training={"learning_rate": rate}
        )
    page = Page(write(tmp_path, plot=False))
    titles = [element.text for element in page.of("h2") if element.text.endswith("every finding")]
    assert len(titles) == 3
    assert [title.split()[0].strip(",:") for title in titles] == ["t", "t", "u"]


def test_the_documents_are_on_the_page_whole(study, page):
    study_text, memo_text = ((study / "out" / name).read_text() for name in grid.PAGES)
    titles = [section.title for section in sections(study_text)]
    assert {"Results", report.REPRODUCE} <= set(titles)
    headings = Counter(element.text for element in page.of("h2", "h3"))
    for title in titles:
        assert headings[title] == (title not in report.SHOWN_ELSEWHERE), title
    memo_titles = [section.title for section in sections(memo_text) if section.title]
    assert memo_titles
    assert all(headings[title] >= 1 for title in memo_titles)


def test_html_links_and_images_of_a_document_stay_text():
    (section,) = sections(
        "# T\n\n## A\n\n<b>x</b> [y](https://z.org) ![w](v.png) <https://u.org>\n\n| a |\n| --- |\n| <i> |\n"
    )
    elements = Page(str(section.html)).elements
    assert {element.tag for element in elements} <= {"p", "div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "<b>x</b> [y](https://z.org) ![w](v.png) <https://u.org>" in [element.text for element in elements]


def test_every_part_of_the_page_is_packaged():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    parts = [part.name for part in files("sparseft.analysis").joinpath("templates").iterdir()]
    assert sorted(parts) == ["report.css", "report.html", "report.js"]
    for name in parts:
        assert any(fnmatch(f"templates/{name}", pattern) for pattern in settings["sparseft.analysis"])
