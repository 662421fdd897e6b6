"""Write numbers, differences and comparisons as text, in the same way on every page."""

import pandas as pd

from sparseft.analysis.tables import asked_and_reached
from sparseft.modes import get_mode
from sparseft.tasks import RECALLS

# The text of a missing value.
NONE = "-"
# What each kind of comparison compares with; "modes" depends on the mode.
_AGAINST = {"dense": "the dense model", "random": "random pruning", "untuned": "no fine-tuning"}
# In what a point is best, by its column of the table of the best points.
FRONTS = {"best_for_sparsity": "sparsity", "best_for_speed": "training speed", "largest_within": "largest within"}


def against(kind: str, mode: str) -> str:
    """Return what a kind of comparison compares a cell of a mode with."""
    return _AGAINST.get(kind) or get_mode(mode).compared_with


def number(value: float | None, form: str) -> str:
    """Return a number in the format `form`; "-" if it is missing."""
    return NONE if pd.isna(value) else format(value, form)


def value_text(cell: tuple) -> str:
    """Return the mean value of a cell ± its standard error, and for a task with few answers the recall of each."""
    text = f"{cell.value_mean:.3f} ± {cell.standard_error:.3f}"
    for answer, column in RECALLS.items():
        recall = getattr(cell, column)
        if pd.notna(recall):
            text += f" {answer} {recall:.2f}"
    return marked(text, cell)


def marked(text: str, cell: tuple) -> str:
    """Return the text of a value, marked if a training of its cell ended early or a run of it has a fault."""
    if cell.n_ended_early:
        return f"{text} (ended early)"
    return text if cell.n_sound == cell.n else f"{text} (at fault)"


def percents(table: pd.DataFrame) -> list[str]:
    """Return the sparsity of each row in percent."""
    return [asked_and_reached(row) for row in table.itertuples()]


def difference(row: tuple) -> str:
    """Return a difference with the ends of its interval, and with what the interval covers."""
    mean = row.difference if hasattr(row, "difference") else row.difference_to_dense
    ends = f"{row.difference_low:+.3f}, {row.difference_high:+.3f}"
    return f"{mean:+.3f} [{ends} over {row.difference_interval_from}]"


def best_for(row: tuple) -> str:
    """Return in what a point is best."""
    return ", ".join(words for column, words in FRONTS.items() if getattr(row, column))
