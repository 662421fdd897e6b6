"""Make the tables of report.html: the main columns of the CSV files, as text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import pandas as pd

from sparseft.analysis.headlines import are_losses, is_loss
from sparseft.analysis.probes import MEAN, probe_names
from sparseft.analysis.records import Gap
from sparseft.analysis.tables import asked_and_reached
from sparseft.analysis.texts import NONE, against, best_for, marked, number, value_text
from sparseft.modes import get_mode
from sparseft.study.grid import MODES
from sparseft.tasks import RECALLS

# Columns that are not numbers.
TEXT_COLUMNS = {
    "run", "method", "mode", "training", "sparsity, %", "verdict", "best for", "compared with", "significant", "loss significant",
    "trained on", "evaluated on", "in the study",
}  # fmt: skip
# Columns that say nothing new if the value is a loss.
LOSS_COLUMNS = {"verdict", "loss", "difference of the loss (95 % interval)", "p of the loss", "loss significant"}
# Characters. A longer text is broken into lines.
WIDE = 30
PLACE = ["setting", "model", "task", "metric"]


@dataclass(frozen=True)
class Table:
    """Hold a table as texts.

    `numeric` are the positions of the columns of numbers. `shares` are the percentages that cells show as a bar, by row and
    column. `note` says how to read the table."""

    caption: str
    header: list[str]
    rows: list[list[str]]
    numeric: frozenset[int] = frozenset()
    shares: dict[tuple[int, int], float] = field(default_factory=dict)
    note: str = ""

    @property
    def classes(self) -> list[str]:
        """Return the style of each column: `n` for numbers, `wide` for long texts, else empty."""
        return [self._class(column) for column in range(len(self.header))]

    def _class(self, column: int) -> str:
        if column in self.numeric:
            return "n"
        return "wide" if any(len(row[column]) > WIDE for row in self.rows) else ""


def results(cells: pd.DataFrame) -> Table:
    """Return the table of the answer, with a row per model, task, method and sparsity, and a column per mode."""
    places = [name for name in PLACE if cells[name].nunique() > 1]
    modes = [mode for mode in MODES if mode in set(cells["mode"])]
    rows: list[list[str]] = []
    shares = {}
    first_mode = len(places) + 2
    for position, (_, group) in enumerate(cells.groupby([*PLACE, "method", "sparsity"], sort=False)):
        first = next(group.itertuples())
        rows.append([*(getattr(first, name) or NONE for name in places), first.method, asked_and_reached(first)])
        rows[position] += [NONE] * len(modes)
        for cell in group.itertuples():
            column = first_mode + modes.index(cell.mode)
            rows[position][column] = value_text(cell)
            if not is_loss(cell.metric):
                shares[position, column] = round(100 * cell.value_mean, 1)
    header = [*places, "method", "sparsity, %", *modes]
    numeric = frozenset(range(first_mode - 1, len(header)))
    return Table("Results: mean ± standard error", header, rows, numeric, shares, _results_note(cells, modes))


def _results_note(cells: pd.DataFrame, modes: Iterable[str]) -> str:
    """Return a note on how to read the table of the answer."""
    words = [f"{'; '.join(f'{mode}: {get_mode(mode).words}' for mode in modes)}."]
    words.append("The standard error is over the validation examples.")
    losses = are_losses(cells)
    if not losses.all():
        words.append("The bar behind a value is its share of 1.")
    if losses.any():
        words.append("A loss is in nats per token. Lower is better.")
    if any("(" in asked_and_reached(cell) for cell in cells.itertuples()):
        words.append("Sparsity is the requested one. If the masks reached another one, it is in parentheses.")
    answers = [answer for answer, column in RECALLS.items() if cells[column].notna().any()]
    if answers:
        words.append(
            f"The number after {' or '.join(answers)} is the share of the questions with this answer that were answered"
            " correctly."
        )
    if cells["n_ended_early"].any():
        words.append("A value is of a training that ended early if one of its runs is. No sentence or figure uses it.")
    if (cells["n_sound"] + cells["n_ended_early"] < cells["n"]).any():
        words.append("A value is at fault if one of its runs is. No sentence or figure uses it.")
    return " ".join(words)


def points(table: pd.DataFrame) -> Table:
    """Return the table of the points of the curves; the dense points are in it only if nothing was pruned."""
    pruned = table[table["sparsity"] > 0]
    columns: dict[str, Callable[[tuple], str]] = {
        "method": lambda row: row.method,
        "mode": lambda row: row.mode,
        "sparsity, %": asked_and_reached,
        "training": lambda row: row.training or NONE,
        "models": lambda row: str(row.n),
        "value (95 % interval)": _value,
        "minus dense (95 % interval)": _minus_dense,
        "verdict": lambda row: _text(row.verdict),
        "won back, % (95 % interval)": _won_back,
        "loss": lambda row: number(row.eval_loss, ".3f"),
        "train-merge gap": lambda row: number(row.train_merge_gap, "+.3f"),
        "samples/s": lambda row: number(row.samples_per_second, ".2f"),
    }
    if not table["training"].any():
        del columns["training"]
    columns = _without_repeats(columns, table)
    note = (
        "An interval is over the examples, or over the seeds and the examples. Loss and gap are in nats per answer token. Won back is the share of what pruning lost that fine-tuning restores:"
        " 100 % reaches the dense fine-tuned model. It has no interval where the examples do not show that pruning lost anything;"
        " then it could be any number."
    )
    return _table("Every point of the curves", pruned if len(pruned) else table, columns, note)


def best(table: pd.DataFrame) -> Table:
    """Return the table of the best trade-offs."""
    columns = {
        "method": lambda row: row.method,
        "sparsity, %": asked_and_reached,
        "mode": lambda row: row.mode,
        "value": lambda row: number(row.value, ".3f"),
        "minus dense (95 % interval)": _minus_dense,
        "verdict": lambda row: _text(row.verdict),
        "samples/s": lambda row: number(row.samples_per_second, ".2f"),
        "best for": best_for,
    }
    columns = _without_repeats(columns, table)
    note = "Best means that no other point is better in one and as good in the other. Neighbours may differ by chance."
    return _table("Best trade-offs", table, columns, note)


def comparisons(table: pd.DataFrame) -> Table:
    """Return the table of the tests of values and losses."""
    columns = {
        "method": lambda row: row.method,
        "sparsity, %": asked_and_reached,
        "mode": lambda row: row.mode,
        "compared with": lambda row: against(row.comparison, row.mode),
        "difference (95 % interval)": lambda row: _within(
            row.difference, row.difference_low, row.difference_high, "+.3f", row.difference_interval_from
        ),
        "p": lambda row: number(row.p_holm, ".2g"),
        "significant": lambda row: _yes(row.significant),
        "difference of the loss (95 % interval)": lambda row: _within(
            row.eval_loss_difference,
            row.eval_loss_difference_low,
            row.eval_loss_difference_high,
            "+.3f",
            row.eval_loss_difference_interval_from,
        ),
        "p of the loss": lambda row: number(row.eval_loss_p_holm, ".2g"),
        "loss significant": lambda row: _yes(row.eval_loss_significant),
    }
    columns = _without_repeats(columns, table)
    note = "The p-values are corrected by Holm's method for the number of comparisons of one kind."
    return _table("All comparisons", table, columns, note)


def probes(cells: pd.DataFrame) -> Table:
    """Return the table of the probes of one model, task, metric and setting, with a row per cell; no row without probes.

    The last column is the mean over the probes."""
    names = {f"probe_{name}": name for name in probe_names(cells)} | {MEAN: "mean of the probes"}
    names = {column: name for column, name in names.items() if column in cells and cells[column].notna().any()}
    columns: dict[str, Callable[[tuple], str]] = {
        "method": lambda row: row.method,
        "sparsity, %": asked_and_reached,
        "mode": lambda row: row.mode,
        **{name: partial(_probe_text, column=column) for column, name in names.items()},
    }
    note = (
        "A value is the mean over the seeds ± its standard error over the probe's examples. The error of the mean takes the"
        " examples of two probes as independent. comparisons.csv has the tests of each probe."
    )
    return _table("Probes", cells if names else cells[:0], columns, note)


def _probe_text(row: tuple, column: str) -> str:
    """Return the value of a probe, or the mean over the probes, with its standard error; "-" if the cell has none."""
    value = getattr(row, column)
    return NONE if pd.isna(value) else f"{value:.3f} ± {getattr(row, f'{column}_stderr'):.3f}"


def _without_repeats(columns: dict[str, Callable[[tuple], str]], table: pd.DataFrame) -> dict[str, Callable]:
    """Return the columns of a table of one metric. If it is a loss, those that repeat it and the verdict are left out."""
    if table.empty or not is_loss(table["metric"].iloc[0]):
        return columns
    return {name: text for name, text in columns.items() if name not in LOSS_COLUMNS}


def every_run(summary: pd.DataFrame) -> Table:
    """Return the table of runs with its main columns."""
    columns = {
        "run": lambda row: row.run_id,
        "value": lambda row: number(row.value, ".3f"),
        "standard error": lambda row: number(row.standard_error, ".3f"),
        "loss": lambda row: number(row.eval_loss, ".3f"),
        "train-merge gap": lambda row: number(row.train_merge_gap, "+.3f"),
        "zeros, %": lambda row: number(100 * row.actual_sparsity, ".2f"),
        "violations": lambda row: str(row.violations),
        "faults": lambda row: str(row.faults),
        "open checks": lambda row: str(row.unchecked),
        "samples/s": lambda row: number(row.samples_per_second, ".2f"),
        "training memory, GB": lambda row: number(row.peak_memory_bytes / 1e9, ".2f"),
    }
    if summary["device"].nunique() > 1 or summary["evaluation_device"].nunique() > 1:
        columns |= {"trained on": lambda row: _text(row.device), "evaluated on": lambda row: row.evaluation_device}
    if not summary["in_study"].all():
        columns["in the study"] = lambda row: _yes(row.in_study)
    return _table("Runs", summary, columns, "summary.csv has all columns.")


def missing(gaps: list[Gap]) -> Table:
    """Return the table of runs with something missing or unreadable."""
    rows = [[gap.run_id, "in no table" if gap.left_out else "in the tables, with blanks", gap.reason] for gap in gaps]
    return Table("Missing or unreadable", ["run", "consequence", "reason"], rows)


def _table(caption: str, table: pd.DataFrame, columns: dict[str, Callable[[tuple], str]], note: str) -> Table:
    """Return a table of texts. `columns` has a function per column that returns its text for a row."""
    rows = [[text(row) for text in columns.values()] for row in table.itertuples()]
    numeric = frozenset(position for position, name in enumerate(columns) if name not in TEXT_COLUMNS)
    return Table(caption, list(columns), rows, numeric, note=note)


def _within(value: float | None, low: float | None, high: float | None, form: str, source: str = "") -> str:
    """Return a value, with its interval if there is one, and with what the interval covers."""
    if pd.isna(low) or pd.isna(high):
        return number(value, form)
    covered = f", {source}" if source else ""
    return f"{number(value, form)} ({low:{form}} to {high:{form}}{covered})"


def _value(row: tuple) -> str:
    """Return the value of a point with its interval, marked if it supports no result."""
    return marked(_within(row.value, row.value_low, row.value_high, ".3f", row.value_interval_from), row)


def _minus_dense(row: tuple) -> str:
    """Return the difference to the dense model, with its interval."""
    ends = row.difference_low, row.difference_high
    return _within(row.difference_to_dense, *ends, "+.3f", row.difference_interval_from)


def _won_back(row: tuple) -> str:
    """Return the recovered share in percent, with its interval."""
    share, low, high = row.recovered_share, row.recovered_share_low, row.recovered_share_high
    return _within(100 * share, 100 * low, 100 * high, ".0f")


def _text(value: object) -> str:
    """Return a value as text, "-" if it is missing."""
    return NONE if pd.isna(value) else str(value)


def _yes(value: object) -> str:
    """Return yes or no, "-" if the value is missing."""
    if pd.isna(value):
        return NONE
    return "yes" if value else "no"
