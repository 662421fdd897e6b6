"""Write the pages of a study from its frames: report.html, EXPERIMENTS.md, correctness_memo.md and findings.txt.

The four are views of one content, from the templates beside this file. What comes from outside is escaped in each of
them. report.html loads nothing and runs no script but its own. The same frames give the same bytes."""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparseft import __version__
from sparseft.analysis.cells import CELL
from sparseft.analysis.comparisons import DIVERGENCE, VALUE, decided, sections
from sparseft.analysis.sentences import (
    NONE,
    QUESTIONS,
    Ranking,
    dense_name,
    listed,
    measure_name,
    name_of,
    number,
    percent,
    pruned_name,
    ranked_by,
    sentences,
    undecided,
    with_interval,
)
from sparseft.analysis.study import MEASURES, in_order
from sparseft.analysis.tables import RUN, Results
from sparseft.axes.grid import DENSE, FINDINGS, MODES, NO_FINETUNE, PAGES, REPORT
from sparseft.axes.methods import get_method
from sparseft.axes.modes import get_mode
from sparseft.axes.tasks import get_metric, is_toy
from sparseft.axes.tasks.metrics import LOSS
from sparseft.common.errors import one_line

# The results of one model on one task, in one setting, stand together.
RESULT = ["setting", "task", "metric", "model"]
# The terminal has this many columns, and shows tables of at most so many rows.
COLUMNS = 100
LINES = 40
GB = 1e9
# What the pages call the dense models, whose mode their name says.
DENSE_NAMES = [dense_name(mode) for mode in MODES]
# Characters that Markdown reads as more than text, and the end of a link's text.
_MARKDOWN = re.compile(r"[\\`*|<&]|\](?=[(\[:])")


# A column of a table: the name of a field of a row, with the format of a number after a colon, or a function of the
# row.
Column = str | Callable[[Any], str]


def escape_markdown(text: object) -> str:
    """Return a text for one line of Markdown, in which nothing is read as markup."""
    return text if isinstance(text, Markup) else _MARKDOWN.sub(r"\\\g<0>", one_line(text))


def write_pages(folder: Path, plots: Path, results: Results, figures: list, commands: dict[str, list[str]]) -> None:
    """Write the pages of a study into `folder`. Its figures are in `plots`. `commands` are those of reproduce.py."""
    content = _content(results, figures) | commands
    content["images"] = {one.name: _base64((plots / f"{one.name}.svg").read_bytes()) for one in figures}
    # How a text becomes a part of a page, by the ending of the page's name.
    escapes: dict[str, dict] = {".html": {"autoescape": True}, ".md": {"finalize": escape_markdown}, ".txt": {}}
    for name in (REPORT, *PAGES, FINDINGS):
        environment = Environment(
            loader=PackageLoader("sparseft.analysis", "templates"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            **escapes[Path(name).suffix],
        )
        environment.filters |= {"wrapped": _wrapped, "allowed": _allowed, "aligned": _aligned}
        (folder / name).write_text(environment.get_template(name).render(content), encoding="utf-8")


def _wrapped(sentence: str) -> str:
    """Return a sentence as an item of a list in the terminal."""
    return "\n  ".join(wrap(f"- {one_line(sentence)}", COLUMNS - 2, break_on_hyphens=False))


def _aligned(table: pd.DataFrame) -> str:
    """Return a verdict table as aligned text, with the mode in a line above its rows, at most COLUMNS wide."""
    lines = [list(table), *table.to_numpy().tolist()]
    measures = table.columns.difference(["method", "mode"], sort=False)
    widths = [max(len(line) for text in (name, *table[name]) for line in text.split("\n")) for name in measures]
    room = min(
        max(len(text) for text in ("method", *table["method"])), COLUMNS - 2 - sum(width + 2 for width in widths)
    )
    printed: list[str] = []
    before = "mode"
    for name, sparsity, mode, *texts in lines:
        if name in DENSE_NAMES and len(printed) > 1:
            printed.append("")
        if name not in DENSE_NAMES and mode != before:
            printed.append(mode)
        before = mode
        # A long name has a line of its own.
        printed += [f"  {name}"] if len(name) > room else []
        for line in zip_longest(
            *(text.split("\n") for text in (name if len(name) <= room else "", sparsity, *texts)), fillvalue=""
        ):
            printed.append("  ".join(["", *map(str.ljust, line, (room, *widths))]).rstrip())
    return "\n".join(printed)


def _allowed(text: str) -> str:
    """Return the source of a content security policy that allows exactly this style or script."""
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(content: bytes) -> str:
    """Return bytes as a text for a page."""
    return base64.b64encode(content).decode()


def _content(results: Results, figures: list) -> dict[str, Any]:
    """Return what the templates show."""
    rows = verdict_rows(results)
    answers = list(_answers(results, rows, figures))
    methods = [get_method(name) for name in rows["method"].unique()]
    runs = results.runs.assign(peak_memory_gb=results.runs["peak_memory_bytes"] / GB)
    values = results.settings.drop(columns=RUN).agg(lambda column: "; ".join(map(str, column.dropna().unique())))
    return {
        "title": f"Sparse fine-tuning of {listed(rows['model'].unique())} on {listed(rows['task'].unique())}",
        "asked": _asked(results, rows),
        "warnings": list(_warnings(results)),
        "results": answers,
        "tables": dict(_tables(results, rows)),
        "runs": runs,
        "table_of": _table,
        # The digests are only in settings.csv.
        "settings": values[~values.str.fullmatch("[0-9a-f; ]{64,}")].rename_axis("setting").reset_index(name="values"),
        "faults": results.faults[["run_id", "kind", "text"]],
        "checks": {"runs": len(runs), **runs[["passed", "weights", "violations"]].sum().astype(int)},
        "figures": figures,
        "more_figures": [figure for figure in figures if figure not in [answer["figure"] for answer in answers]],
        "importances": list(dict.fromkeys(importance for method in methods for importance in method.importances)),
        "tolerance": results.options.tolerance,
        "is_short": sum(len(answer["table"]) for answer in answers) <= LINES,
        "Code": lambda command: Markup(one_line(command)),
    }


def verdict_rows(results: Results) -> pd.DataFrame:
    """Return the reported cells: each dense model, and the cells that are compared with it by mode, sparsity and
    method."""
    rows = sections(results.curves)
    order = [*RESULT, "dense_mode", "is_pruned", "mode", "sparsity"]
    ranks = dict.fromkeys(("dense_mode", "mode"), MODES.index)
    return in_order(rows.assign(is_pruned=rows["method"] != DENSE), order, ranks)


def _answers(results: Results, rows: pd.DataFrame, figures: list) -> Iterator[dict[str, Any]]:
    """Yield what the pages show first of each model and task. The figure of a task stands with its first model."""
    pairs = decided(results.comparisons)
    figure_of = {(figure.setting, figure.task, figure.metric): figure for figure in reversed(figures)}
    for place, part in rows.groupby(RESULT, sort=False):
        setting, task, metric, model = place
        here = pairs[(pairs[RESULT] == list(place)).all(axis=1)]
        found = sentences(part, here, results.options.tolerance)
        dense = here[here["question"] == "dense"]
        note = "Brackets: 95 % intervals, each by itself."
        if len(dense):
            tests = dense["comparisons"].max()
            note += f" Lower and higher: than dense, paired by example, corrected for {tests} tests."
        runs = results.runs
        found += _proof(runs[(runs["model"] == model) & (runs["task"] == task) & (runs["method"] != DENSE)])
        toy = " (a generated toy task)" if is_toy(task) else ""
        if toy and (part["mode"] != NO_FINETUNE).any():
            found.append("A model that was trained on a toy task may answer nothing else; do not serve it.")
        found.append(undecided(part, here, results.options.tolerance))
        yield {
            "title": f"{model}, {task}{toy}: {Ranking.of(part).title}" + (f", {setting}" if setting else ""),
            "table": _table(part.drop(columns=RESULT), _verdict_columns(part, metric)),
            "sentences": found,
            "note": note,
            "figure": figure_of.pop((setting, task, metric), None),
        }


def _proof(runs: pd.DataFrame) -> list[str]:
    """Say whether the pruned models are really sparse; nothing without one."""
    is_lifted = runs["mode"].map(lambda mode: get_mode(mode).lifts_mask).astype(bool)
    sparse, lifted = runs[~is_lifted], is_lifted.sum()
    if sparse.empty:
        return []
    count, failed = len(sparse), (~sparse["passed"].astype(bool)).sum()
    answer = f"Yes, in all {count} pruned models every pruned weight is exactly zero or removed"
    if failed:
        answer = f"Not all: {failed} of {count} pruned models are not shown to be"
    answer += f": {sparse['weights'].sum():,.0f} weights, kept and pruned, were compared with their masks"
    answer += f", {sparse['violations'].sum():,.0f} violations{'; see the memo' if failed else ''}."
    answer += f" {lifted} other models are dense, because their mode lifts the mask." if lifted else ""
    return [f"Really sparse? {answer}"]


def _table(frame: pd.DataFrame, columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return a table of texts from a frame. It begins with the setting, task and so on, if they differ.

    A text may have two lines."""
    place = [name for name in RESULT if name in frame and frame[name].nunique() > 1]
    columns = {**{name: name for name in place}, **columns}
    rows = [[_text(row, column) for column in columns.values()] for row in frame.itertuples()]
    return pd.DataFrame(rows, columns=list(columns), dtype=object)


def _text(row: Any, column: Column) -> str:
    """Return a column of a row as text."""
    if callable(column):
        return column(row)
    name, _, form = column.partition(":")
    value = getattr(row, name, None)
    return number(value, form) if form else NONE if pd.isna(value) else str(value)


def _mode(row: Any) -> str:
    """Return the mode of a row with its training. A dense model is a baseline, and its name says the mode."""
    return ", ".join(filter(None, ("baseline" if row.method == DENSE else row.mode, row.training)))


def _judged(row: Any, measure: str) -> str:
    """Return a measure of a row with its interval, and below it the verdict against dense.

    A cell that must not be judged has its status there."""
    verdict = getattr(row, "verdict" if measure == VALUE else f"{measure}_verdict", None)
    word = row.status if measure == VALUE and row.status == "fault" else verdict
    return with_interval(row, measure) + ("" if row.method == DENSE or pd.isna(word) else f"\n{word}")


def _cell(row: Any) -> str:
    """Return a cell in words."""
    words = [name_of(row)] if row.method == DENSE else [pruned_name(row), row.mode]
    return ", ".join(filter(None, (*words, row.training)))


def _verdict_columns(rows: pd.DataFrame, metric: str) -> dict[str, Column]:
    """Return the columns of a verdict table. The measure of the ranking comes first.

    A loss that is the value has no second column."""
    value, loss, divergence = (partial(_judged, measure=measure) for measure in MEASURES)
    measures: dict[str, Column] = {LOSS.name: value} if metric == LOSS.name else {"value": value, LOSS.name: loss}
    if ranked_by(rows) == DIVERGENCE:
        agreeing = {"agree, %": lambda row: number(100 * row.same_top_tokens, ".0f")}
        measures = {DIVERGENCE: divergence, **agreeing, **measures}
    elif DIVERGENCE in rows and rows[DIVERGENCE].notna().any():
        measures[DIVERGENCE] = divergence
    return {"method": name_of, "sparsity, %": percent, "mode": _mode, **measures}


COMPARISON_COLUMNS: dict[str, Column] = {
    "cell": _cell,
    "compared with": "compared_with",
    "by": measure_name,
    "difference": partial(with_interval, column="difference", form="+.3f"),
    "p (Holm)": "p_holm:.2g",
    "verdict": "verdict",
}
TRAINING_COLUMNS: dict[str, Column] = {
    "cell": _cell,
    "on the selection rows": "selection_value:.3f",
    "tokens": "training_tokens:,.0f",
    "chosen": "chosen",
    "decided by": "decided_by",
}


def _tables(results: Results, rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the folded tables of results with their captions: the comparisons by question, the probes, and the
    trainings that were tried."""
    for question, (caption, _) in QUESTIONS.items():
        pairs = results.comparisons[results.comparisons["question"] == question]
        others = pairs.filter(like="against_").rename(columns=lambda name: name.removeprefix("against_"))
        named = pairs.assign(compared_with=[_cell(row) for row in others.itertuples()])
        if len(pairs):
            yield f"{caption} ({pairs['comparisons'].max()} tests)", _table(named, COMPARISON_COLUMNS)
    # Those that have an interval.
    probes = [name for name in rows if name.startswith("probe_") and f"{name}_low" in rows]
    if probes:
        columns = {name.removeprefix("probe_"): partial(with_interval, column=name) for name in probes}
        yield "Other tasks (probes)", _table(rows, {"cell": _cell, **columns})
    tried = results.cells[results.cells["trainings_tried"] > 1]
    if len(tried):
        yield "Trainings tried", _table(tried, TRAINING_COLUMNS)


def _asked(results: Results, rows: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return what was asked: each a name, and lines of text."""
    configured = results.configuration.models if results.configuration else {}
    sources = {name: model.source for name, model in configured.items()}
    pruned = rows[rows["method"] != DENSE]
    machines = "; ".join(results.runs["device"].dropna().unique()) or "nothing trained"
    return [
        ("Models", [f"{name}: {sources.get(name, 'source not configured')}" for name in rows["model"].unique()]),
        ("Methods", [f"{name}: {get_method(name).words}" for name in pruned["method"].unique()]),
        ("Modes", [f"{name}: {get_mode(name).words}" for name in pruned["mode"].unique()]),
        ("Tasks", [_task(row) for row in rows.drop_duplicates(["task", "metric"]).itertuples()]),
        ("Seeds", [", ".join(map(str, sorted(results.runs["seed"].unique())))]),
        ("Made", [f"{results.runs['date'].max()}, {machines}, SparseFT {__version__}"]),
    ]


def _task(row: Any) -> str:
    """Return a task in words."""
    words = f"{row.task}: {get_metric(row.metric).label}, {row.examples} examples"
    if not pd.isna(row.chance):
        words += f", chance {row.chance:.2f}"
    return words + (", a toy task that SparseFT generates" if is_toy(row.task) else "")


def _warnings(results: Results) -> Iterator[str]:
    """Yield a line on validation examples that the models have seen, and one on faults."""
    overlaps = results.runs.set_index("task").filter(regex="^overlap_|_overlap$")
    shares = [
        f"{100 * share:.3g} % of {task}" + ("" if name == "validation_overlap" else f" ({name})")
        for (task, name), share in overlaps.groupby("task", sort=False).max().stack().items()
        if share > 0
    ]
    if shares:
        yield f"The models have seen some of what they are evaluated on: {listed(shares)}."
    able = results.cells.groupby(CELL, dropna=False)["chosen"].any()
    if not able.all():
        yield f"Cells without a training that can be chosen, in no table here: {(~able).sum()} (grouped_summary.csv)."
    kinds = Counter(results.faults.drop_duplicates(["run_id", "kind"])["kind"])
    if kinds:
        yield f"Runs: {listed(f'{count} {kind}' for kind, count in sorted(kinds.items()))}; see the memo."
