"""Another project's numbers beside ours, by task and sparsity; a cell without counterpart stays one.

The file has one header line with exactly these columns; an empty field is a number that is not known:

    baseline            text: what it is called in the figures
    task                as ours are called
    sparsity            percent, a whole number
    value               fraction, of the task's headline metric
    samples_per_second  training speed
    device              text: that trained it
"""

from io import StringIO
from pathlib import Path

import pandas as pd

from sparseft.analysis.tables import CELL, tidy
from sparseft.errors import InputError
from sparseft.storage.reading import TEXT_LIMIT, read_text

COLUMNS = ["baseline", "task", "sparsity", "value", "samples_per_second", "device"]
RANGES = {"sparsity": 100, "value": 1, "samples_per_second": float("inf")}
ENDS = {"samples_per_second": "neither"}  # that belong to the range
BOTH, OURS, THEIRS = "both", "no baseline", "no run of ours"


def read_baseline(path: Path) -> pd.DataFrame:
    """Return another project's numbers. Raises InputError, with the first fault, if the file is not as described above."""
    mend = f"give a .csv file with the columns {','.join(COLUMNS)}, as config/baseline.csv"
    text = StringIO(read_text(path, TEXT_LIMIT, mend))
    try:
        table = pd.read_csv(text, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:  # pandas's own
        raise InputError(f"{path}: {error}", mend) from None
    if unlike := sorted(set(table) ^ set(COLUMNS)):
        raise InputError(f"{path}: {'unknown' if unlike[0] in table else 'no'} column {unlike[0]}", mend)
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first column for the rows' names
        raise InputError(f"{path}: rows with more fields than columns", mend)
    table = table.apply(lambda column: column.str.strip())
    for name, most in RANGES.items():
        numbers = pd.to_numeric(table[name], errors="coerce")
        fits = numbers.between(0, most, inclusive=ENDS.get(name, "both"))
        if name == "sparsity":
            fits &= numbers % 1 == 0
        wrong = table[name][table[name].notna() & ~fits]
        if len(wrong):
            raise InputError(f"{path}: line {wrong.index[0] + 2}: {name} is {wrong.iloc[0]!r}", mend)
        table[name] = numbers
    keys = ["baseline", "task", "sparsity"]
    for fault, rows in (("nothing", table[keys].isna().any(axis=1)), ("twice the same", table.duplicated(keys))):
        if rows.any():
            raise InputError(f"{path}: line {rows.idxmax() + 2}: {fault} for {', '.join(keys)}", mend)
    return table[COLUMNS]


def beside(points: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """A row a point of ours and a baseline, and a row each that has no counterpart; the ratio of speeds is of one device."""
    ours = points[[*CELL, "value", "standard_error", "samples_per_second", "device"]]
    names = {name: f"baseline_{name}" for name in ("value", "samples_per_second", "device")}
    table = ours.merge(baseline.rename(columns=names), how="outer", on=["task", "sparsity"], indicator="counterpart")
    words = {"both": BOTH, "left_only": OURS, "right_only": THEIRS}
    table["counterpart"] = table["counterpart"].astype(str).map(words)
    table["difference"] = table["value"] - table["baseline_value"]
    ratio = table["samples_per_second"] / table["baseline_samples_per_second"]
    table["speed_ratio"] = ratio.where(table["device"] == table["baseline_device"])
    return tidy(table, [*CELL, "baseline"])


def without_counterpart(table: pd.DataFrame) -> list[str]:
    """One line a task and sparsity that one of the two sides lacks."""
    lacking = table[table["counterpart"] != BOTH][["task", "sparsity", "counterpart"]].drop_duplicates()
    return [f"{row.task} at {row.sparsity:.0f} %: {row.counterpart}" for row in lacking.itertuples()]
