"""Compare another project's numbers with ours, by task and sparsity. A cell without a counterpart keeps its row.

The file has one header line with exactly these columns. An empty field is a number that is not known.

    baseline            text: its name in the figures
    task                named as our tasks are
    sparsity            percent, an integer
    value               fraction, the task's headline metric
    samples_per_second  training speed
    device              text: what it was trained on
"""

from io import StringIO
from pathlib import Path

import pandas as pd

from sparseft.analysis.tables import CELL, tidy
from sparseft.errors import InputError
from sparseft.storage.reading import TEXT_LIMIT, read_text

COLUMNS = ["baseline", "task", "sparsity", "value", "samples_per_second", "device"]
KEYS = ["baseline", "task", "sparsity"]
REMEDY = f"give a .csv file with the columns {','.join(COLUMNS)}, as config/baseline.csv"
BOTH = "both"
# By the words of pandas, those of the table.
COUNTERPARTS = {"both": BOTH, "left_only": "no baseline", "right_only": "no run of ours"}


def read_baseline(path: Path) -> pd.DataFrame:
    """Return another project's numbers. Raises InputError, with the first fault, if the file is not as described above."""
    text = StringIO(read_text(path, TEXT_LIMIT, REMEDY))
    try:
        table = pd.read_csv(text, dtype=str, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise InputError(f"{path}: {error}", REMEDY) from None
    if wrong := sorted(set(table) ^ set(COLUMNS)):
        raise InputError(f"{path}: {'unknown' if wrong[0] in table else 'no'} column {wrong[0]}", REMEDY)
    # pandas takes the first column for the names of the rows.
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path}: rows with more fields than columns", REMEDY)
    table = table.apply(lambda column: column.str.strip())
    sparsity = pd.to_numeric(table["sparsity"], errors="coerce")
    value = pd.to_numeric(table["value"], errors="coerce")
    speed = pd.to_numeric(table["samples_per_second"], errors="coerce")
    _check(path, table["sparsity"], sparsity.between(0, 100) & (sparsity % 1 == 0))
    _check(path, table["value"], value.between(0, 1))
    _check(path, table["samples_per_second"], speed.between(0, float("inf"), inclusive="neither"))
    table = table.assign(sparsity=sparsity, value=value, samples_per_second=speed)
    _check_keys(path, table)
    return table[COLUMNS]


def _check(path: Path, texts: pd.Series, fits: pd.Series) -> None:
    """Raise InputError for the first field of a column that is not empty and does not fit."""
    wrong = texts[texts.notna() & ~fits]
    if len(wrong):
        raise InputError(f"{path}: line {wrong.index[0] + 2}: {texts.name} is {wrong.iloc[0]!r}", REMEDY)


def _check_keys(path: Path, table: pd.DataFrame) -> None:
    """Raise InputError for the first row without a baseline, task or sparsity, or else with those of an earlier row."""
    faults = {"nothing": table[KEYS].isna().any(axis=1), "twice the same": table.duplicated(KEYS)}
    for fault, rows in faults.items():
        if rows.any():
            raise InputError(f"{path}: line {rows.idxmax() + 2}: {fault} for {', '.join(KEYS)}", REMEDY)


def beside(points: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """Return a row per point of ours and baseline with the same task and sparsity, and one for each without a counterpart.

    The sparsity is the requested one, which `reached_sparsity` shows may be another. The ratio of speeds is blank if the
    devices differ."""
    ours = points[["setting", *CELL, "reached_sparsity", "value", "standard_error", "samples_per_second", "device"]]
    names = {name: f"baseline_{name}" for name in ("value", "samples_per_second", "device")}
    table = ours.merge(baseline.rename(columns=names), how="outer", on=["task", "sparsity"], indicator="counterpart")
    table["counterpart"] = table["counterpart"].astype(str).map(COUNTERPARTS)
    table["difference"] = table["value"] - table["baseline_value"]
    ratio = table["samples_per_second"] / table["baseline_samples_per_second"]
    table["speed_ratio"] = ratio.where(table["device"] == table["baseline_device"])
    return tidy(table, ["setting", *CELL, "baseline"])


def without_counterpart(table: pd.DataFrame) -> list[str]:
    """Return one line per task and sparsity that one of the two sides lacks."""
    lacking = table[table["counterpart"] != BOTH][["task", "sparsity", "counterpart"]].drop_duplicates()
    return [f"{row.task} at {row.sparsity:.0f} %: {row.counterpart}" for row in lacking.itertuples()]
