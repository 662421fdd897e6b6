"""Write report.html, the results page: the answer, then every finding, figure and table, then the correctness memo.

The page is one file that loads nothing. Figures, styles and the script that sorts its tables are in it. Its content security
policy lets no other script run. The same runs and library versions give the same bytes.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparseft import __version__
from sparseft.analysis import report_tables
from sparseft.analysis.captions import Plot, toy
from sparseft.analysis.columns import STUDY_TABLES
from sparseft.analysis.counts import count_runs
from sparseft.analysis.derived import Derived
from sparseft.analysis.findings import NO_CONCLUSION, findings, headline, overlaps
from sparseft.analysis.headlines import metric_name
from sparseft.analysis.judgement import Judged
from sparseft.analysis.markdown_html import PageSection, sections
from sparseft.analysis.records import Gap, Record
from sparseft.analysis.report_tables import Table
from sparseft.analysis.sentences import listed
from sparseft.storage.atomic import atomic_file
from sparseft.study.grid import DENSE

# The title names at most this many models or tasks. It gives the number of more.
NAMED = 4
# Sections of EXPERIMENTS.md that this page has in its own form.
SHOWN_ELSEWHERE = ("Results", "Figures", "Findings in detail")
REPRODUCE = "How to reproduce"
# The characters that a data URL in quotes may have without being escaped.
URL_SAFE = " /:;=+,()[]{}!$*?@-_.~|"


@dataclass(frozen=True)
class Figure:
    """Hold a figure as the page shows it; width and height are in points."""

    source: str
    width: str
    height: str
    alt: str
    caption: str


@dataclass(frozen=True)
class ResultPlace:
    """Hold the results of one model on one task in one setting."""

    model: str
    title: str
    headline: list[str]
    findings: list[str]
    tables: list[Table]


@dataclass(frozen=True)
class Group:
    """Hold the results of all models on one task in one setting."""

    title: str
    id: str
    places: list[ResultPlace]
    main: list[Figure]
    figures: list[Figure]


def write_report(
    path: Path, judged: list[Judged], gaps: list[Gap], derived: Derived, tolerance: float, plots: Iterable[Plot]
) -> None:
    """Write the page. EXPERIMENTS.md, correctness_memo.md and plots/ must be in its folder already."""
    folder = path.parent
    plots = list(plots)
    members = [run.record for run in judged if run.outside is None]
    groups = list(_groups(derived, tolerance, plots, folder))
    study, reproduce = _study_sections(folder / "EXPERIMENTS.md")
    content = {
        "title": _title(derived.cells),
        "conditions": _conditions(members, derived.cells),
        "checks": _checks(judged, gaps),
        "groups": groups,
        "single": sum(len(group.places) for group in groups) == 1,
        "results": report_tables.results(derived.cells),
        "layers": [_figure(folder, plot) for plot in plots if not plot.task],
        "runs": report_tables.every_run(derived.runs),
        "missing": report_tables.missing(gaps),
        "files": [(table.file, table.row) for table in STUDY_TABLES],
        "study": study,
        "memo": sections((folder / "correctness_memo.md").read_text(encoding="utf-8"), shift=1),
        "reproduce": reproduce,
        "version": __version__,
    }
    with atomic_file(path) as temporary:
        temporary.write_text(_page(content), encoding="utf-8")


def _page(content: dict[str, object]) -> str:
    """Return the page with its style, its script, and the policy that lets no other script run."""
    style = _part("report.css")
    script = _part("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
    loader = PackageLoader("sparseft.analysis", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    template = environment.get_template("report.html")
    return template.render(content, style=style, script=script, policy=policy, contents=_contents(content))


def _part(name: str) -> Markup:
    """Return a file of this package as a part of the page that needs no escaping."""
    return Markup(files("sparseft.analysis").joinpath("templates", name).read_text(encoding="utf-8"))


def _contents(content: dict) -> list[dict[str, str]]:
    """Return the identifier and the title of every section."""
    entries = [("answer", "The answer")]
    entries += [(group.id, group.title) for group in content["groups"]]
    if content["layers"]:
        entries.append(("layers", "Where the zeros are"))
    entries.append(("runs", "Every run"))
    entries += [(section.id, section.title) for section in content["study"]]
    entries.append(("memo", "Correctness memo"))
    entries += [(section.id, section.title) for section in content["reproduce"]]
    return [{"id": identifier, "title": title} for identifier, title in entries]


def _title(cells: pd.DataFrame) -> str:
    """Return the title of the page: the study's models and tasks."""
    models = _named(list(cells["model"].unique()), "models")
    tasks = _named(list(cells["task"].unique()), "tasks")
    return f"Sparse fine-tuning of {models} on {tasks}"


def _named(names: list[str], kind: str) -> str:
    """Return names as a list in words, or only their number if there are many."""
    return f"{len(names)} {kind}" if len(names) > NAMED else listed(names)


def _conditions(records: list[Record], cells: pd.DataFrame) -> list[str]:
    """Say what was run, where, and on how many examples."""
    trainings = [record.train for record in records if record.train]
    evaluations = [record.evaluation for record in records]
    trained = sorted({f"{train.backend} in {train.dtype} on {train.device}" for train in trainings})
    evaluated = sorted({done.conditions for done in evaluations})
    examples = sorted({(done.task, done.examples) for done in evaluations})
    sentences = [f"{_count(len(records), 'run')}: {_sizes(records, cells)}."]
    if trained:
        sentences.append(f"Trained with {'; '.join(trained)}.")
    sentences.append(f"Evaluated with {'; '.join(evaluated)}.")
    sentences.append(f"Validation examples: {', '.join(f'{number:,} of {task}' for task, number in examples)}.")
    toys = [toy(task).strip() for task in cells["task"].unique()]
    return sentences + [sentence for sentence in toys if sentence]


def _sizes(records: list[Record], cells: pd.DataFrame) -> str:
    """Return how many models, tasks, methods and so on the study has."""
    pruned = cells[cells["method"] != DENSE]
    counts = [
        _count(cells["model"].nunique(), "model"),
        _count(cells["task"].nunique(), "task"),
        _count(pruned["method"].nunique(), "method"),
        _count(pruned["sparsity"].nunique(), "sparsity"),
        _count(cells["mode"].nunique(), "mode"),
        _count(len({record.run.seed for record in records}), "seed"),
    ]
    return ", ".join(counts) + (", and the dense model" if len(pruned) < len(cells) else "")


def _count(number: int, noun: str) -> str:
    """Return a number of things in words."""
    plural = "sparsities" if noun == "sparsity" else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def _checks(judged: list[Judged], gaps: list[Gap]) -> list[dict[str, str]]:
    """Return the results of the checks of the runs, each as a kind and a sentence."""
    records = [run.record for run in judged]
    passed = sum(record.validation.passed for record in records)
    weights = sum(record.validation.weights for record in records)
    proof = f"{passed:,} of {len(records):,} merged models passed the comparison of every prunable weight with its mask"
    counts = count_runs(judged, gaps)
    checks = [
        ("bad", counts.faulty, "with a fault. The tables mark them. No sentence or figure uses them."),
        (
            "open",
            counts.ended_early,
            "with a training that ended early. The tables mark them. No sentence or figure uses them.",
        ),
        ("bad", counts.missing, "missing or unreadable, and in no table."),
        ("open", counts.unchecked, "not fully checked. The correctness memo says what is open."),
        ("open", counts.outside, "outside the configured study, and only in the list of runs."),
        ("open", counts.outside_faulty, "outside the configured study and with a fault."),
    ]
    first = {"kind": "good" if passed == len(records) else "bad", "text": f"{proof} ({weights:,} weights)."}
    return [first] + [
        {"kind": kind, "text": f"{_count(number, 'run')} {text}"} for kind, number, text in checks if number
    ]


def _groups(derived: Derived, tolerance: float, plots: list[Plot], folder: Path) -> Iterable[Group]:
    """Yield the results by setting and task."""
    pairs = derived.cells[["setting", "task"]].drop_duplicates()
    for number, (setting, task) in enumerate(pairs.itertuples(index=False), 1):
        own = [plot for plot in plots if (plot.setting, plot.task) == (setting, task)]
        yield Group(
            title=task + (f", with {setting}" if setting else ""),
            id=f"task-{number}",
            places=list(_places(derived.of(setting=setting, task=task), tolerance)),
            main=[_figure(folder, plot) for plot in own if plot.kind == "value"],
            figures=[_figure(folder, plot) for plot in own if plot.kind != "value"],
        )


def _places(derived: Derived, tolerance: float) -> Iterable[ResultPlace]:
    """Yield the results of each model, and metric, of one task."""
    for model, metric in derived.cells[["model", "metric"]].drop_duplicates().itertuples(index=False):
        here = derived.of(model=model, metric=metric)
        place_tables = [
            report_tables.points(here.points),
            report_tables.probes(here.cells),
            report_tables.best(here.best),
            report_tables.comparisons(here.comparisons),
        ]
        yield ResultPlace(
            model=model,
            title=f"{model}, {metric_name(metric)}",
            headline=overlaps(here.runs) + (headline(here, tolerance) or [NO_CONCLUSION]),
            findings=findings(here, tolerance) or [NO_CONCLUSION],
            tables=[table for table in place_tables if table.rows],
        )


def _study_sections(path: Path) -> tuple[list[PageSection], list[PageSection]]:
    """Return two lists of the sections of EXPERIMENTS.md that this page shows unchanged; the second is on reproduction."""
    every_section = sections(path.read_text(encoding="utf-8"))
    shown = [section for section in every_section if section.title not in SHOWN_ELSEWHERE]
    return (
        [section for section in shown if section.title != REPRODUCE],
        [section for section in shown if section.title == REPRODUCE],
    )


def _figure(folder: Path, plot: Plot) -> Figure:
    """Return a figure with its SVG in it."""
    svg = (folder / "plots" / f"{plot.name}.svg").read_text(encoding="utf-8")
    width, height = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg).groups()
    # Without line breaks and indents the source is a tenth smaller. An SVG in an <img> cannot run scripts or load files.
    source = "data:image/svg+xml," + quote(re.sub(r"\s+", " ", svg), safe=URL_SAFE)
    return Figure(source, width, height, plot.alt, plot.caption)
